"""Macros from gin files and the command line, in any order, become a config."""

import sys
import warnings

import pytest

from prompt_tuning_jax.commands import command
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.settings import command_line
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.monitor import NotFiniteError

SIZES = "TRAIN_STEPS = 40\nBATCH_SIZE = 8\n"
PLACE = "MODEL_DIR = 'runs/a'\nTASK_FEATURE_LENGTHS = {'inputs': 16, 'targets': 4}\n"
REFERS = "EVAL_PERIOD = %TRAIN_STEPS\n"


def parse(*argv: str, config=TrainConfig):
    return command_line.parse(config, list(argv), "")


@pytest.fixture
def gin_file(tmp_path):
    def write(text: str, name: str = "a.gin") -> str:
        (tmp_path / name).write_text(text)
        return f"--gin_file={tmp_path / name}"

    return write


def test_no_settings_are_the_defaults():
    assert parse() == TrainConfig()


def test_defaults_are_the_papers_recipe_but_for_what_is_measured_to_be_better():
    config = parse()
    assert (config.train_steps, config.batch_size, config.prompt_length) == (30_000, 32, 100)
    assert (config.optimizer, config.learning_rate, config.schedule) == (None, None, "constant")
    assert (config.z_loss, config.dropout, config.averaging) == (1e-4, 0.0, 0.95)


def test_files_give_the_same_config_in_every_order(gin_file):
    files = [gin_file(SIZES, "s.gin"), gin_file(PLACE, "p.gin"), gin_file(REFERS, "r.gin")]
    config = parse(*files)
    assert config == parse(*reversed(files))
    assert (config.train_steps, config.batch_size, config.eval_period) == (40, 8, 40)
    assert config.feature_lengths == {"inputs": 16, "targets": 4}


def test_the_command_line_wins_over_files(gin_file):
    config = parse("--gin.TRAIN_STEPS=7", gin_file(SIZES), gin_file(REFERS, "r.gin"))
    assert (config.train_steps, config.batch_size, config.eval_period) == (7, 8, 7)


def test_settings_of_an_earlier_command_are_forgotten(gin_file):
    parse(gin_file(SIZES))
    assert parse() == TrainConfig()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("runs/sentiment", "runs/sentiment"),
        ("'runs/sentiment'", "runs/sentiment"),
        ('"runs/sentiment"', "runs/sentiment"),
        ("/data/it's here", "/data/it's here"),
        ("a = b", "a = b"),
        ("None", None),
        ("{premise} hypothesis: {hypothesis}", "{premise} hypothesis: {hypothesis}"),
        ("data:1,model:2", "data:1,model:2"),
    ],
)
def test_a_bare_word_is_a_string(value, expected):
    assert parse(f"--gin.MODEL_DIR={value}").model_dir == expected


def test_a_macro_of_ones_own_may_serve_a_setting():
    assert parse("--gin.MODEL_DIR=%PLACE", "--gin.PLACE=runs/a").model_dir == "runs/a"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("8", 8), ("0.5", 0.5), ("True", True), ("[1, 2]", [1, 2]), ("{'a': 'b'}", {"a": "b"})],
)
def test_other_values_are_python_literals(value, expected):
    assert parse(f"--gin.PROMPT_INIT={value}").prompt_init == expected


def test_a_tilde_is_the_home_wherever_a_path_stands(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert parse("--gin.MODEL_DIR=~/runs/a").model_dir == "/home/ada/runs/a"
    assert parse("--gin.INPUT_TEMPLATE=~{text}").input_template == "~{text}"
    runs = parse("--gin.RUNS={'a': {'train_file': '~/a.tsv', 'seed': 1}}").runs
    assert runs == {"a": {"train_file": "/home/ada/a.tsv", "seed": 1}}


def test_a_whole_number_may_stand_for_a_float():
    assert parse("--gin.LEARNING_RATE=1").learning_rate == 1


def test_t5x_macro_names():
    config = parse(
        "--gin.MIXTURE_OR_TASK_NAME=food",
        "--gin.MIXTURE_OR_TASK_MODULE=my.tasks",
        "--gin.INITIAL_CHECKPOINT_PATH=checkpoints/t5",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
        "--gin.RANDOM_SEED=3",
    )
    assert (config.task, config.task_module, config.model) == ("food", "my.tasks", "checkpoints/t5")
    assert config.feature_lengths == {"inputs": 16, "targets": 4}
    assert config.seed == 3


def test_a_reference_makes_an_object(gin_file):
    rule = "TRAINABLE = [('encoder/prompt/prompt', @adam())]\nadam.learning_rate = %RATE\n"
    config = parse(gin_file(rule), "--gin.RATE=0.5")
    assert config.trainable[0][0] == "encoder/prompt/prompt"
    assert callable(config.trainable[0][1].update)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--gin.TRAIN_STEP=3", "no setting TRAIN_STEP; did you mean TRAIN_STEPS"),
        ("--gin.train_steps=3", "TRAIN_STEPS"),
        ("--gin.SEED=3", "no setting SEED; did you mean RANDOM_SEED"),
        ("--gin.TRAIN_STEPS", "--gin.TRAIN_STEPS needs a value"),
        ("--gin.BATCH_SIZE=eight", "batch_size must be a whole number, not 'eight'"),
        ("--gin.TRAIN_STEPS=1e3", "train_steps must be a whole number, not 1000.0"),
        ("--gin.LEARNING_RATE=fast", "learning_rate must be a number or None, not 'fast'"),
        ("--gin.PACK=1", "pack must be True or False, not 1"),
        ("--gin.VERBALIZERS=[1,", "VERBALIZERS"),
        ("--gin.TRAINABLE=@no_such_thing()", "no_such_thing"),
        ("--gin.TRAINABLE=[('a', @adam())]", "TRAINABLE: .*missing .* 'learning_rate'"),
        ("--gin.no_such_thing.learning_rate=1", "no_such_thing"),
        ("--gin.EVAL_PERIOD=%NO_SUCH_MACRO", "EVAL_PERIOD: nothing sets %NO_SUCH_MACRO"),
    ],
)
def test_a_mistaken_argument_is_named(argument, words):
    with pytest.raises(ValueError, match=words):
        parse(argument)


@pytest.mark.parametrize(
    ("macros", "circle"),
    [
        (["BATCH_SIZE=%BATCH_SIZE"], "BATCH_SIZE = %BATCH_SIZE"),
        (["BATCH_SIZE=%A", "A=%B", "B=%A"], "A = %B, B = %A"),
        (["COLUMNS=['a', %A]", "A=[%B]", "B={'x': %COLUMNS}"], "A = %B, B = %COLUMNS"),
        (["MINE=%MINE"], "MINE = %MINE"),
        (["TRAINABLE=[('a', @adam())]", "adam.learning_rate=%A", "A=@adam()"], "itself"),
    ],
)
def test_a_macro_made_of_itself_is_named(macros, circle):
    with pytest.raises(UsageError, match=f"refers to itself.*{circle}|refers to {circle}"):
        parse(*(f"--gin.{macro}" for macro in macros))


def test_a_percent_sign_in_text_is_no_reference():
    assert parse("--gin.MODEL_DIR='50%MODEL_DIR'").model_dir == "50%MODEL_DIR"


@pytest.mark.parametrize("names", ["a.gin", "a.gin b.gin", "a.gin b.gin c.gin"])
def test_files_that_include_themselves_are_named(gin_file, tmp_path, names):
    names = names.split()
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        gin_file(f"# first\ninclude '{tmp_path / following}'\nBATCH_SIZE = 3\n", name)
    files = " includes ".join(str(tmp_path / name) for name in [*names, names[0]])
    with pytest.raises(UsageError, match=f"in a circle: {files}"):
        parse(f"--gin_file={tmp_path / names[0]}")


def test_a_file_may_be_included_twice(gin_file, tmp_path):
    gin_file(SIZES, "s.gin")
    twice = gin_file(f"include '{tmp_path / 's.gin'}'\n" * 2)
    assert parse(twice).train_steps == 40


def test_an_include_in_a_text_is_no_include(gin_file, tmp_path):
    text = gin_file(f"INPUT_TEMPLATE = '''\ninclude '{tmp_path / 'a.gin'}'\n'''\n")
    assert "include" in parse(text).input_template


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("BATCHSIZE = 3", "BATCHSIZE; did you mean BATCH_SIZE"),
        ("BATCH_SIZE = \n", "a.gin"),
        ("BATCH_SIZE = eight", "a.gin"),
    ],
)
def test_a_mistake_in_a_file_is_named(gin_file, text, words):
    with pytest.raises(ValueError, match=words):
        parse(gin_file(text))


def test_a_missing_file_is_named_with_those_that_exist():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gin.*experiments/"):
        parse("--gin_file=nowhere.gin")


def test_files_are_found_in_search_paths(gin_file, tmp_path):
    gin_file(SIZES, "mine.gin")
    assert parse("--gin_file=mine.gin", f"--gin_search_paths={tmp_path}").train_steps == 40


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError, NotFiniteError])
def test_a_mistake_ends_in_one_line(error, capsys):
    def main():
        raise error("set X:\nlike this")

    with pytest.raises(SystemExit) as stopped:
        command.run(main)
    assert capsys.readouterr().err == "error: set X: like this\n"
    assert stopped.value.code == 1


def test_what_cannot_be_understood_has_a_status_of_its_own(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.run(lambda: parse("--gin.TRAIN_STEP=3"))
    assert "TRAIN_STEPS" in capsys.readouterr().err
    assert stopped.value.code == 2


def test_an_exit_code_passes_through():
    with pytest.raises(SystemExit) as stopped:
        command.run(lambda: sys.exit(143))
    assert stopped.value.code == 143


def test_a_warning_is_one_line_without_the_place_in_the_code(capsys):
    command.run(lambda: warnings.warn("a file\nis not used", stacklevel=1))
    assert capsys.readouterr().err == "warning: a file is not used\n"
