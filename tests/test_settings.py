"""A setting is declared once: its option, its macro, its keyword, its help and its checks agree."""

import dataclasses
import inspect
import math
import os
import subprocess
import sys
import typing
from collections.abc import Mapping, Sequence

import pytest

from prompt_tuning_jax import train, train_many
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.commands import cli, show_task
from prompt_tuning_jax.commands.inference.infer import as_trained
from prompt_tuning_jax.decoding.options import DecodingOptions
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.evaluation.answers import answer
from prompt_tuning_jax.interpretation.interpret import interpret
from prompt_tuning_jax.planning.step import Lengths
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.infer_config import InferConfig
from prompt_tuning_jax.settings.setting import (
    GROUPS,
    T5X_MACROS,
    declared,
    element_type,
    kinds_of,
    macro_name,
    names_where,
    settings_of,
)
from prompt_tuning_jax.settings.train_config import TrainConfig

# Settings that must stay the same for a run to continue, and those that runs together share.
IDENTITY = """
    prompt_length prompt_layout prompt_visibility batch_size pack seed learning_rate dropout_rate
    scan_layers z_loss loss_normalization feature_lengths data_dir train_file input_template
    target_template verbalizers columns encoding delimiter missing validation_share task_field
    task_id metric positive
    eval_split eval_limit predictions prompt_parameterization parameterization_size optimizer
    schedule warmup_steps average_decay label_smoothing halve_at method lora_rank lora_alpha rslora
    lora_targets prefix_stack wayward_text wayward_weight
    probe_steps share share_rows share_rank mix_tasks task_rate teacher_weight
    dp_noise_multiplier dp_clip_norm
    task_kind sides similar_from query_name document_name contrastive_temperature hard_negatives
    negative_depth negative_ceiling pool_prompt
"""
SHARED = """
    model vocabulary model_dtype scan_layers remat_policy attention attention_chunk model_dir mesh
    device_memory batch_size pack microbatches prompt_length prompt_layout prompt_visibility
    shared_prompt trainable loss_normalization dropout_rate z_loss eval_period checkpoint_period
    log_period quiet runs halve_at prompt_parameterization parameterization_size optimizer schedule
    warmup_steps average_decay label_smoothing method lora_rank lora_alpha rslora lora_targets
    prefix_stack wayward_text wayward_weight
    share share_rows share_rank mix_tasks teachers teacher_weight
    dp_epsilon dp_noise_multiplier dp_clip_norm dp_delta
    task_kind sides similar_from index query_name document_name contrastive_temperature
    hard_negatives negative_depth negative_ceiling pool_prompt
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
        values = {int: {"a": 1, "b": 2}, float: {"a": 1.5, "b": 2.0}}.get(
            element_type(field.type, Mapping), {"a": "x y", "b": "z=1"}
        )
        return [f"{name}={value}" for name, value in values.items()], values
    if Sequence in kinds:
        values = {float: [0.5, -2.0], int: [7000, 14000]}.get(
            element_type(field.type, Sequence), ["a b", "c"]
        )
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


def numbers_of(field):
    """The kinds of number that a setting is, or holds."""
    kinds = {*kinds_of(field.type), *(element_type(field.type, k) for k in (Mapping, Sequence))}
    return kinds & {int, float}


NUMERIC = [each for each in EVERY if numbers_of(each.values[1])]


def needed_values(config):
    """Keywords for the settings that a command needs."""
    needed = [f for f in dataclasses.fields(config) if f.default is dataclasses.MISSING]
    return {f.name: sample(f)[1] for f in needed}


def with_number(field, number):
    """A value of a setting that is, or holds, this number."""
    kinds = kinds_of(field.type)
    return {"a": number} if Mapping in kinds else [number] if Sequence in kinds else number


@pytest.mark.parametrize(("config", "field"), NUMERIC)
@pytest.mark.parametrize("number", [True, 10**40, -(10**40), 1e300, math.nan, math.inf, "3"])
def test_no_number_is_taken_that_cannot_be_meant(config, field, number):
    others = needed_values(config)
    with pytest.raises(UsageError, match=f"^{field.name}"):
        config(**(others | {field.name: with_number(field, number)}))
    binding = f"--gin.{macro_name(field.name)}={with_number(field, number)!r}"
    if str(number) not in ("nan", "inf"):
        with pytest.raises(UsageError, match=field.name):
            parse(*required(config, field.name), binding, config=config)


@pytest.mark.parametrize(("config", "field"), NUMERIC)
def test_a_number_may_be_as_little_and_as_much_as_is_declared(config, field):
    facts = declared(field)
    others = needed_values(config)
    for number in facts.bounds:
        given = with_number(field, number)
        assert getattr(config(**(others | {field.name: given})), field.name) == given


def test_settings_of_one_name_have_one_type():
    """But for None, which one command may need and another refuse, and for what only Python takes.

    Names of prompts mean nothing where they are combined; a server takes a folder of them.
    """
    types = {}
    for path, config in CONFIGS.items():
        for field in dataclasses.fields(config):
            kinds = frozenset(kinds_of(field.type)) - {type(None)}
            types.setdefault(field.name, {})[path] = kinds
    for path in CONFIGS:
        if path == "serve" or path.startswith("combine "):
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
    ours = {name: field.default for name, field in settings_of(config).items()}
    if config is InferConfig:  # what no prompt says is as for Python
        ours = vars(as_trained(InferConfig(), None))
    both = set(ours) & set(others)
    assert {name: ours[name] for name in both} == {name: others[name] for name in both}
    return both


def test_python_and_the_command_have_the_same_defaults():
    from prompt_tuning_jax.commands.interpret import InterpretConfig
    from prompt_tuning_jax.commands.plan import LENGTHS
    from prompt_tuning_jax.model import FrozenModel

    interpreting = agree(InterpretConfig, defaults(interpret))
    assert set(settings_of(InterpretConfig)) - interpreting == {"prompt", "output"}
    sizes = {"batch_size", "max_input_length"}
    assert agree(InferConfig, defaults(answer)) == {*sizes, "prompt", "seed"}
    # Settings of generation are None: as the model's own files say.
    decoding = DecodingOptions.__annotations__.keys() - {"early_stopping"}
    assert {settings_of(InferConfig)[name].default for name in decoding} == {None}
    assert sizes <= agree(InferConfig, defaults(FrozenModel.generate))
    assert sizes <= agree(InferConfig, defaults(FrozenModel.classify))
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


@pytest.mark.slow
def test_the_bundled_tasks_are_listed_without_tensorflow():
    done = listed()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(BUNDLED_TASKS)]] == list(BUNDLED_TASKS)
    for line, task in zip(lines, BUNDLED_TASKS.values(), strict=False):
        assert line.endswith(f" bundled: {task.summary}")


@pytest.mark.data
@pytest.mark.slow
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
