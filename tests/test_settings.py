"""A setting is declared once: its option, its macro, its keyword, its help and its checks agree."""

import dataclasses
import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Mapping, Sequence

import pytest

from prompt_tuning_jax import train, train_many
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.commands import cli, show_task
from prompt_tuning_jax.decoding.generation import generate_tokens
from prompt_tuning_jax.errors import UsageError, spelling
from prompt_tuning_jax.evaluation.answers import answer
from prompt_tuning_jax.evaluation.scoring import ScoringOptions
from prompt_tuning_jax.interpretation.interpret import interpret
from prompt_tuning_jax.layout import LAYOUTS
from prompt_tuning_jax.planning.step import Lengths
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.evaluate_config import EvaluateConfig
from prompt_tuning_jax.settings.infer_config import InferConfig
from prompt_tuning_jax.settings.setting import (
    GROUPS,
    T5X_MACROS,
    declared,
    element_type,
    kinds_of,
    macro_name,
    names_where,
    setting,
    settings,
    settings_of,
)
from prompt_tuning_jax.settings.train_config import TrainConfig

# Settings that must stay the same for a run to continue, and those that runs together share.
IDENTITY = """
    prompt_length prompt_layout prompt_visibility batch_size pack seed learning_rate dropout_rate
    scan_layers z_loss loss_normalization feature_lengths data_dir train_file input_template
    target_template verbalizers columns metric positive eval_split eval_limit predictions
"""
SHARED = """
    model vocabulary model_dtype scan_layers remat_policy attention_chunk model_dir mesh batch_size
    pack microbatches prompt_length prompt_layout prompt_visibility shared_prompt trainable
    loss_normalization dropout_rate z_loss eval_period checkpoint_period log_period quiet runs
"""


def configs():
    """The path of every command -> its settings."""
    found = {}
    for name, one in cli.COMMANDS.items():
        module = one.load()
        inner = getattr(module, "COMMANDS", None)
        found |= {f"{name} {each}": one.config for each, one in (inner or {}).items()}
        found |= {} if inner else {name: module.CONFIG}
    return found


CONFIGS = configs()
EVERY = [
    pytest.param(config, field, id=f"{path} --{field.name}")
    for path, config in CONFIGS.items()
    for field in dataclasses.fields(config)
]


def parse(*argv, config=TrainConfig):
    return command_line.parse(config, list(argv))


def required(config, *but):
    """Arguments for the settings that a command needs."""
    needed = [f for f in dataclasses.fields(config) if f.default is dataclasses.MISSING]
    return [word for f in needed if f.name not in but for word in (f"--{f.name}", *sample(f)[0])]


def sample(field):
    """Words for a setting, and the value that they mean, which is not the default."""
    kinds, facts = kinds_of(field.type), declared(field)
    if field.name == "runs":
        value = {"a": {"seed": 1}, "b": {}}
        return ["a.seed=1", "b"], value
    if facts.choices:
        chosen = next(choice for choice in facts.choices if choice != field.default)
        return [chosen], chosen
    if bool in kinds:
        return [str(not field.default)], not field.default
    if Mapping in kinds:
        values = {int: {"a": 1, "b": 2}}.get(
            element_type(field.type, Mapping), {"a": "x y", "b": "z=1"}
        )
        return [f"{name}={value}" for name, value in values.items()], values
    if Sequence in kinds:
        values = {float: [0.5, -2.0]}.get(element_type(field.type, Sequence), ["a b", "c"])
        return list(map(str, values)), values
    for kind, value in ((int, 7), (float, 0.25)):
        if kind in kinds:
            return [str(value)], value
    return ["some text"], "some text"


# --- one declaration, three ways to give it


@pytest.mark.parametrize(("config", "field"), EVERY)
def test_every_setting_is_an_option_a_macro_and_a_keyword(config, field):
    words, value = sample(field)
    others = required(config, field.name)
    by_option = parse(*others, f"--{field.name}", *words, config=config)
    assert getattr(by_option, field.name) == value
    hyphens = f"--{field.name.replace('_', '-')}"
    assert parse(*others, hyphens, *words, config=config) == by_option
    by_macro = parse(*others, f"--gin.{macro_name(field.name)}={value!r}", config=config)
    given = {f.name: getattr(by_option, f.name) for f in dataclasses.fields(config)}
    assert by_macro == config(**given) == by_option
    if len(words) == 1:
        assert parse(*others, f"--{field.name}={words[0]}", config=config) == by_option
    if declared(field).positional:
        first = next(f.name for f in dataclasses.fields(config) if declared(f).positional)
        if field.name == first:
            assert parse(*words, *others, config=config) == by_option


@pytest.mark.parametrize(("config", "field"), EVERY)
def test_every_setting_has_a_group_a_sentence_and_a_default_of_its_type(config, field):
    facts = declared(field)
    assert facts.group in GROUPS
    assert facts.help.endswith(".")
    if field.default not in (dataclasses.MISSING, None) and field.type is not typing.Any:
        assert isinstance(field.default, tuple(k for k in kinds_of(field.type) if k is not None))
    if facts.choices and isinstance(field.default, str):
        assert field.default in facts.choices
    assert f"  {field.name}: {facts.help}" in config.__doc__


def test_settings_of_one_name_have_one_type():
    """But for None, which one command may need and another refuse, and for what only Python takes.

    Names of prompts mean nothing where they are combined.
    """
    types = {}
    for path, config in CONFIGS.items():
        for field in dataclasses.fields(config):
            kinds = frozenset(kinds_of(field.type)) - {type(None)}
            types.setdefault(field.name, {})[path] = kinds
    for path in CONFIGS:
        if path.startswith("combine "):
            del types["prompts"][path]
    for name, found in types.items():
        different = {kinds for kinds in found.values() if typing.Any not in kinds}
        assert len(different) <= 1, (name, found)


def test_t5x_names_are_of_settings():
    names = {field.name for config in CONFIGS.values() for field in dataclasses.fields(config)}
    assert set(T5X_MACROS) <= names
    assert macro_name("seed") == "RANDOM_SEED"


def test_an_option_wins_over_a_binding_and_that_over_a_file(tmp_path):
    (tmp_path / "a.gin").write_text("TRAIN_STEPS = 5\nBATCH_SIZE = 6\nEVAL_PERIOD = %TRAIN_STEPS\n")
    arguments = [f"--gin_file={tmp_path / 'a.gin'}", "--gin.TRAIN_STEPS=7"]
    for words in (
        ["--train_steps", "9", *arguments],
        [*arguments, "--train-steps=9"],
        [arguments[0], "--train_steps=9", arguments[1]],
    ):
        config = parse(*words)
        assert (config.train_steps, config.batch_size, config.eval_period) == (9, 6, 9)
    assert parse(*arguments).train_steps == 7


def test_what_belongs_to_a_runs_identity_and_to_all_runs_stays_the_same():
    assert set(names_where(TrainConfig, "identity")) == set(IDENTITY.split())
    assert set(names_where(TrainConfig, "shared")) == set(SHARED.split())


# --- what words mean


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--train_steps", "1000"], "train_steps", 1000),
        (["--learning_rate", "3"], "learning_rate", 3.0),
        (["--learning_rate", "1e-3"], "learning_rate", 1e-3),
        (["--learning_rate", "None"], "learning_rate", None),
        (["--z_loss", "-1e-3"], "z_loss", -1e-3),
        (["--pack"], "pack", True),
        (["--pack", "True"], "pack", True),
        (["--pack", "false"], "pack", False),
        (["--pack=False"], "pack", False),
        (["--no-pack"], "pack", False),
        (["--no_pack"], "pack", False),
        (["--prompt_layout", "suffix"], "prompt_layout", "suffix"),
        (["--columns", "sentence", "label"], "columns", ["sentence", "label"]),
        (["--columns", "only"], "columns", ["only"]),
        (["--columns=only"], "columns", ["only"]),
        (["--columns", "['a b', 'c']"], "columns", ["a b", "c"]),
        (["--columns", "None"], "columns", None),
        (["--metric", "f1"], "metric", "f1"),
        (["--metric", "f1", "accuracy"], "metric", ["f1", "accuracy"]),
        (["--metric", "None"], "metric", None),
        (["--verbalizers", "0=no", "1=yes"], "verbalizers", {"0": "no", "1": "yes"}),
        (["--verbalizers=0=no", "1=yes"], "verbalizers", {"0": "no", "1": "yes"}),
        (["--verbalizers", "-1=not it", "1=it"], "verbalizers", {"-1": "not it", "1": "it"}),
        (["--verbalizers", "a=b=c", "b="], "verbalizers", {"a": "b=c", "b": ""}),
        (["--verbalizers", "not good", "-"], "verbalizers", ["not good", "-"]),
        (["--verbalizers", "None"], "verbalizers", None),
        (["--verbalizers", "{'a': 'b'}"], "verbalizers", {"a": "b"}),
        (["--verbalizers", '["a=b", "c"]'], "verbalizers", ["a=b", "c"]),
        (
            ["--feature_lengths", "inputs=5", "targets=2"],
            "feature_lengths",
            {"inputs": 5, "targets": 2},
        ),
        (["--input_template", "{a} {b}"], "input_template", "{a} {b}"),
        (["--input_template", "- {a}"], "input_template", "- {a}"),
        (["--input_template", "-{a}"], "input_template", "-{a}"),
        (["--input_template", "-- {a} --"], "input_template", "-- {a} --"),
        (["--input_template=--{a}"], "input_template", "--{a}"),
        (["--input_template", "a = {a}"], "input_template", "a = {a}"),
        (["--input_template", "@home {a} 100%"], "input_template", "@home {a} 100%"),
        (["--input_template", "it's\n\"{a}\" \\ é"], "input_template", "it's\n\"{a}\" \\ é"),
        (["--input_template", ""], "input_template", ""),
        (["--input_template", "None"], "input_template", None),
        (["--target_template", "None"], "target_template", "None"),
        (["--prompt_init", "text: 1 + 1"], "prompt_init", "text: 1 + 1"),
        (["--prompt_init", "None"], "prompt_init", None),
        (["--model_dir", "a=b/c d"], "model_dir", "a=b/c d"),
        (["--train_steps", "%EVAL_PERIOD", "--eval_period", "8"], "train_steps", 8),
        (["--model_dir", "%PLACE", "--gin.PLACE=runs/a"], "model_dir", "runs/a"),
        (["--verbalizers", "%WORDS", "--gin.WORDS=['a']"], "verbalizers", ["a"]),
        (["--runs", "a.seed=1", "a.learning-rate=1", "b"], "runs",
         {"a": {"seed": 1, "learning_rate": 1.0}, "b": {}}),
        (["--runs", "lr0.1.seed=1"], "runs", {"lr0.1": {"seed": 1}}),
        (["--runs", "a.input_template=x.y = {z}"], "runs", {"a": {"input_template": "x.y = {z}"}}),
        (["--runs", "a.verbalizers=['b', 'c']"], "runs", {"a": {"verbalizers": ["b", "c"]}}),
        (["--runs", "a.patience=None"], "runs", {"a": {"patience": None}}),
        (["--runs", "a.seed=%SEEDS", "--gin.SEEDS=4"], "runs", {"a": {"seed": 4}}),
        (["--runs", "{'a': {'seed': 1}}"], "runs", {"a": {"seed": 1}}),
        (["--runs", "None"], "runs", None),
    ],
)  # fmt: skip
def test_words_are_read_by_the_type_of_the_setting(words, name, value):
    found = getattr(parse(*words), name)
    assert found == value
    assert type(found) is type(value)


def test_a_reference_makes_an_object():
    config = parse(
        "--trainable", "[('encoder/prompt/prompt', @adam())]", "--gin.adam.learning_rate=0.5"
    )
    ((pattern, optimizer),) = config.trainable
    assert pattern == "encoder/prompt/prompt"
    assert callable(optimizer.update)


@pytest.mark.parametrize(
    "words",
    [
        ["food", "--pack", "--batch_size", "4", "--columns", "a", "b"],
        ["--pack", "food", "--columns", "a", "b", "--batch_size", "4"],
        ["--batch_size", "4", "food", "--columns", "a", "b", "--pack"],
        ["--pack", "True", "--batch-size=4", "--columns", "a", "b", "--", "food"],
        ["--columns", "a", "b", "--task", "food", "--pack", "--batch_size", "4"],
    ],
)
def test_a_word_without_an_option_may_stand_anywhere(words):
    expected = TrainConfig(task="food", pack=True, batch_size=4, columns=["a", "b"])
    assert parse(*words) == expected


@settings
class CopyConfig:
    """What a command with several places takes."""

    source: str = setting(help="one.", group="model", positional=True)
    others: Sequence[str] = setting(help="more.", group="model", positional=True)
    loud: bool = setting(False, "two.", group="model")


def test_words_without_options_go_to_their_places_in_order():
    config = parse("a", "--loud", "b", "c", config=CopyConfig)
    assert config == CopyConfig(source="a", others=["b", "c"], loud=True)
    with pytest.raises(UsageError, match="needs OTHERS"):
        parse("a", config=CopyConfig)
    with pytest.raises(UsageError, match="--source is given twice"):
        parse("a", "b", "--source", "c", config=CopyConfig)


# --- what cannot be meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train_step", "3"], "no option --train_step; did you mean --train_steps?"),
        (["--TRAIN_STEPS=3"], "no option --TRAIN_STEPS; did you mean --train_steps?"),
        (["--batchsize=3"], "did you mean --batch_size?"),
        (["--gin-fil=x"], "did you mean --gin_file?"),
        (["--hlep"], "did you mean --help?"),
        (["--xyzzy"], "no option --xyzzy; --help all shows what there is."),
        (["--no_seed"], "no option --no_seed"),
        (["-m", "x"], "no option -m"),
        (["a", "b"], "no place for 'b'"),
        (["train_steps=3"], "write --train_steps=3"),
        (["TRAIN_STEPS=3"], "write --train_steps=3"),
        (["--seed=1", "--seed=2"], "--seed is given twice"),
        (["--pack", "--no_pack"], "--pack is given twice"),
        (["a", "--task=b"], "--task is given twice"),
        (["--seed"], "--seed needs a value"),
        (["--seed", "--pack"], "--seed needs a value"),
        (["--columns"], "--columns needs a value"),
        (["--gin_file"], "--gin_file needs a value"),
        (["--gin.TRAIN_STEPS", "3"], "--gin.TRAIN_STEPS needs a value"),
        (["--seed", "one"], "--seed must be a whole number, not 'one'"),
        (["--seed", "1e3"], "--seed must be a whole number, not '1e3'"),
        (["--seed", ""], "--seed must be a whole number, not ''"),
        (["--seed", "None"], "--seed must be a whole number, not 'None'"),
        (["--z_loss", "small"], "--z_loss must be a number, not 'small'"),
        (["--z_loss", "nan"], "--z_loss must be a number, not 'nan'"),
        (["--pack", "yes"], "--pack must be True or False, not 'yes'"),
        (["--pack="], "--pack must be True or False, not ''"),
        (["--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--prompt_layout", "sufix"], "must be one of prefix, after_bos, suffix"),
        (["--model_dir", ""], "--model_dir is empty"),
        (["--model="], "--model is empty"),
        (["--feature_lengths", "8"], "--feature_lengths takes NAME=VALUE, not '8'"),
        (["--feature_lengths", "inputs=8", "2"], "'2' has no '='"),
        (["--feature_lengths", "inputs=x"], "--feature_lengths inputs must be a whole number"),
        (["--verbalizers", "0=a", "0=b"], "--verbalizers gives '0' twice"),
        (["--verbalizers", "0=a", "food"], "--verbalizers: 'food' has no '='"),
        (["--verbalizers", "[a, b]"], "no Python list or mapping; strings need quotes"),
        (["--verbalizers", "{1}"], "no Python list or mapping"),
        (["--trainable", "@no_such_thing()"], "no_such_thing"),
        (["--train_steps", "%NO_SUCH"], "TRAIN_STEPS: nothing sets %NO_SUCH"),
        (["--runs", "seed=1"], "--runs takes RUN.SETTING=VALUE or RUN, not 'seed=1'"),
        (["--runs", "a.seed", "1"], "not 'a.seed'"),
        (["--runs", "a.sed=1"], "no setting sed; did you mean seed?"),
        (["--runs", "a.seed=1", "a.seed=2"], "--runs gives a.seed twice"),
        (["--runs", "a.seed=x"], "--runs a.seed=x: --seed must be a whole number"),
        (["--help", "xyzzy"], "--help xyzzy: choose all, data, model"),
    ],
)  # fmt: skip
def test_a_mistaken_word_is_named(words, message):
    with spelling(lambda name: f"--{name}"), pytest.raises(UsageError) as refused:
        parse(*words)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": "8"}, "batch_size must be a whole number, not '8'"),
        ({"batch_size": True}, "batch_size must be a whole number, not True"),
        ({"batch_size": None}, "batch_size must be a whole number, not None"),
        ({"learning_rate": "0.3"}, "learning_rate must be a number or None"),
        ({"prompt_layout": "middle"}, "prompt_layout must be one of prefix"),
        ({"prompt_layout": None}, "prompt_layout must be text, not None"),
        ({"columns": "text"}, "columns must be a list or None, not 'text'"),
        ({"verbalizers": "yes"}, "verbalizers must be a mapping or a list or None"),
        ({"runs": ["a"]}, "runs must be a mapping or None"),
        ({"pack": 1}, "pack must be True or False, not 1"),
        ({"model_dir": ""}, "model_dir is empty"),
    ],
)
def test_a_config_made_in_python_is_checked_as_well(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_legal_values_of_other_types_are_taken(tmp_path):
    config = TrainConfig(learning_rate=1, model_dir=tmp_path, columns=("a",), prompt_init=3.0)
    assert (config.learning_rate, config.model_dir, config.columns) == (1, tmp_path, ("a",))
    for layout in LAYOUTS:
        assert TrainConfig(prompt_layout=layout).prompt_layout == layout


# --- help


def help_of(capsys, path, *words):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*path.split(), *words])
    assert not stopped.value.code
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    return printed


def described(printed, field):
    """Whether a help explains a setting: its name begins a line, and its first words follow."""
    words = " ".join(printed.split(f"\n  --{field.name} ", 1)[-1].split())
    start = " ".join(declared(field).help.split()[:3])
    return f"\n  --{field.name} " in printed and start in words[: len(start) + 40]


@pytest.mark.parametrize("path", CONFIGS)
def test_help_all_explains_every_setting(capsys, path):
    printed = help_of(capsys, path, "--help", "all")
    assert printed.startswith(f"usage: prompt-tuning {path}")
    assert printed == help_of(capsys, path, "--help=all")
    for field in dataclasses.fields(CONFIGS[path]):
        assert described(printed, field), field.name
    assert "--gin_file" in printed


@pytest.mark.parametrize("path", CONFIGS)
def test_short_help_names_every_setting_and_explains_the_first(capsys, path):
    printed = help_of(capsys, path, "--help")
    for field in dataclasses.fields(CONFIGS[path]):
        assert f"--{field.name}" in printed
        needed = declared(field).first or field.default is dataclasses.MISSING
        assert not needed or described(printed, field), field.name


@pytest.mark.parametrize("path", CONFIGS)
def test_help_of_a_group_explains_that_group(capsys, path):
    fields = dataclasses.fields(CONFIGS[path])
    for group in {declared(field).group for field in fields}:
        printed = help_of(capsys, path, "--help", group)
        body = printed[printed.index(f"\n{group}:\n") :]
        for field in fields:
            assert described(body, field) == (declared(field).group == group), field.name


def test_help_is_shown_whatever_else_stands_there(capsys):
    assert help_of(capsys, "train", "--no_such_option", "-h") == help_of(capsys, "train", "--help")


# --- Python and the command agree


def defaults(function):
    found = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in found if each.default is not each.empty}


def agree(config, others):
    """The settings that both have, whose defaults must be equal."""
    fields = settings_of(config)
    both = set(fields) & set(others)
    assert {name: fields[name].default for name in both} == {name: others[name] for name in both}
    return both


def test_python_and_the_command_have_the_same_defaults():
    from prompt_tuning_jax.commands.interpret import InterpretConfig
    from prompt_tuning_jax.commands.plan import LENGTHS
    from prompt_tuning_jax.model import FrozenModel

    interpreting = agree(InterpretConfig, defaults(interpret))
    assert set(settings_of(InterpretConfig)) - interpreting == {"prompt", "output"}
    sizes = {"batch_size", "max_input_length"}
    assert agree(InferConfig, defaults(answer)) == {*sizes, "prompt", "seed"}
    decoding = {"max_length", "beams", "length_penalty", "temperature", "top_k", "top_p"}
    assert agree(InferConfig, defaults(generate_tokens)) == decoding
    assert sizes <= agree(InferConfig, defaults(FrozenModel.generate))
    assert sizes <= agree(InferConfig, defaults(FrozenModel.classify))
    scoring = {field.name: field.default for field in dataclasses.fields(ScoringOptions)}
    assert {"batch_size", "limit", "predictions"} <= agree(EvaluateConfig, scoring)
    lengths = Lengths()
    assert {"inputs": lengths.inputs, "targets": lengths.targets} == LENGTHS


def test_train_takes_the_settings_as_keywords(tmp_path):
    for function in (train, lambda **options: train_many({"a": {}}, **options)):
        with pytest.raises(ValueError, match="model_dir"):
            function(task="bundled_topic", train_steps=1)
        with pytest.raises(TypeError, match="train_step"):
            function(task="bundled_topic", model_dir=tmp_path, train_step=1)


# --- show-task --list


def listed(*arguments):
    blocked = "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'seqio', 't5x']));"
    program = "from prompt_tuning_jax.commands.show_task import main;"
    return subprocess.run(
        [sys.executable, "-c", f"{blocked} {program} main(['--list', *{arguments!r}])"],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def test_the_bundled_tasks_are_listed_without_tensorflow():
    done = listed()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(BUNDLED_TASKS)]] == list(BUNDLED_TASKS)
    for line, task in zip(lines, BUNDLED_TASKS.values(), strict=False):
        assert line.endswith(f" bundled: {task.summary}")


@pytest.mark.data
def test_tasks_of_seqio_are_listed_where_it_is_installed(capsys):
    pytest.importorskip("seqio", reason="need the [data] extra")
    show_task.main(["--list"])
    printed = capsys.readouterr().out
    names = [line.split()[0] for line in printed.splitlines()]
    assert names[: len(BUNDLED_TASKS)] == list(BUNDLED_TASKS)
    assert {"taskless_super_glue_rte_v102", "text_span_corruption"} <= set(names)
    assert len(names) == len(set(names))
    show_task.main(["--list", "--task_module", "prompt_tuning_jax.tasks.super_glue"])
    some = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "taskless_super_glue_rte_v102" in some
    assert set(some) <= set(names)
