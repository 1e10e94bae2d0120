"""Words of a command line as values, and what cannot be meant; configs made in Python too."""

from collections.abc import Sequence

import pytest

from prompt_tuning_jax.errors import UsageError, spelling
from prompt_tuning_jax.layout import LAYOUTS
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.setting import setting, settings
from prompt_tuning_jax.settings.train_config import TrainConfig


def parse(*argv, config=TrainConfig):
    return command_line.parse(config, list(argv))


# --- what words mean


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--train_steps", "1000"], "train_steps", 1000),
        (["--learning_rate", "3"], "learning_rate", 3.0),
        (["--learning_rate", "1e-3"], "learning_rate", 1e-3),
        (["--learning_rate", "None"], "learning_rate", None),
        (["--z_loss", "1e-3"], "z_loss", 1e-3),
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
