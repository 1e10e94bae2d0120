"""The gin files: complete, readable, and free of order."""

import itertools
import re
from pathlib import Path

import gin
import jax
import pytest
import shell
import t5x_runs

from prompt_tuning_jax import gin_configs, load_model
from prompt_tuning_jax.models.t5 import mt5, t5_1_1

ROOT = Path(gin_configs.__file__).parent / "t5x"
GIN = t5x_runs.GIN
SIZES = ("small", "base", "large", "xl", "xxl")
EXPERIMENTS = sorted(path.name for path in ROOT.glob("experiments/*.gin"))
# What every run must be told, beside its files.
NEEDED = {
    "MIXTURE_OR_TASK_NAME": "bundled_sentiment",
    "MIXTURE_OR_TASK_MODULE": "prompt_tuning_jax.tasks.bundled",
    "TASK_FEATURE_LENGTHS": {"inputs": 128, "targets": 8},
}
OUTPUTS = {
    "train": {"MODEL_DIR": "runs/x", "TRAIN_STEPS": 1_130_000},
    "eval": {"EVAL_OUTPUT_DIR": "out", "PROMPT_FILE": "prompts/x"},
    "infer": {"INFER_OUTPUT_DIR": "out", "PROMPT_FILE": "prompts/x"},
}
pytestmark = pytest.mark.t5x


@pytest.fixture(autouse=True)
def clean():
    yield
    gin.clear_config()


def config(program, files, bindings):
    """All bindings that the files and the command line make together, as text."""
    t5x_runs.parse(program, tuple(f"{GIN}/{file}" for file in files), bindings)
    return gin.config_str()


FILES = {
    "train": ("models/t5_1_1_lm100k_base.gin", "prompts/class_labels.gin", "runs/train.gin"),
    "eval": ("models/bundled.gin", "decoding/beam_search.gin", "runs/eval.gin"),
    "infer": ("models/t5_1_1_lm100k_xxl.gin", "decoding/sampling.gin", "runs/infer.gin"),
}


@pytest.mark.parametrize("program", FILES)
def test_files_may_come_in_any_order(program):
    orders = itertools.permutations(FILES[program])
    configs = [config(program, order, NEEDED | OUTPUTS[program]) for order in orders]
    assert len(set(map(bindings_of, configs))) == 1


def bindings_of(text):
    """The bindings without the order and names of the imports, which follow the files'."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return "\n".join(sorted(line for line in lines if re.match(r"[\w/.]+ = ", line)))


def test_the_files_of_one_kind_set_the_same_macros_and_no_others_do():
    """So a run may include one of each kind, in any order."""
    programs = ("train.gin", "eval.gin", "infer.gin")
    set_by = {
        kind: {
            macro
            for path in (ROOT / kind).glob("*.gin")
            for macro in re.findall(r"^([A-Z_0-9]+) =", path.read_text(), re.MULTILINE)
        }
        for kind in ("architectures", "models", "prompts", "methods", "decoding", "runs")
    }
    assert all((ROOT / "runs" / name).exists() for name in programs)
    assert all(set_by.values())
    for a, b in itertools.combinations(set_by.values(), 2):
        assert not a & b


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_needs_nothing_but_its_own_file(name):
    text = config("train", (f"experiments/{name}",), {"MODEL_DIR": "runs/x"})
    own = (ROOT.parent / "experiments" / name).read_text()
    named = re.findall(r"^MIXTURE_OR_TASK_\w+ = '[\w.]+'", own, re.MULTILINE)
    assert named, "the library's own experiment of the same name has the same task"
    for line in named:
        assert line in text
    used = set(re.findall(r"%([A-Z_0-9]+)", text))
    given = set(re.findall(r"^([A-Z_0-9]+) =", text, re.MULTILINE))
    assert used <= given


REQUIRED = {
    "train": ("MODEL_DIR", "TRAIN_STEPS"),
    "eval": ("EVAL_OUTPUT_DIR",),
    "infer": ("INFER_OUTPUT_DIR",),
}


@pytest.mark.parametrize("program", FILES)
def test_a_setting_that_is_missing_is_named_and_stands_in_the_header(program):
    header = re.match(r"(#.*\n)+", (ROOT / FILES[program][-1]).read_text()).group()
    for macro in ("MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", *REQUIRED[program]):
        given = {key: x for key, x in (NEEDED | OUTPUTS[program]).items() if key != macro}
        with pytest.raises(ValueError, match=f"No bindings specified for '{macro}"):
            config(program, FILES[program], given)
        assert macro in header


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_header_says_what_score_hardware_and_command(name):
    header = re.match(r"(#.*\n)+", (ROOT / "experiments" / name).read_text()).group()
    for word in ("Reproduces:", "Expected:", "Hardware:", "Command:", name):
        assert word in header, f"{name} lacks {word}"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_command_in_a_header_is_the_experiments(name):
    """As a shell gives it to the program."""
    header = re.match(r"(#.*\n)+", (ROOT / "experiments" / name).read_text()).group()
    lines = re.sub(r"^# ?", "", header.split("# Command:\n")[1], flags=re.MULTILINE)
    *before, words = shell.commands(lines)
    assert words[:3] == ["python", "-m", "t5x.train"]
    assert f"--gin_file={GIN}/experiments/{name}" in words
    bindings = dict(word[6:].split("=", 1) for word in words if word.startswith("--gin."))
    bindings = {macro: t5x_runs.Gin(value) for macro, value in bindings.items()}
    assert config("train", (f"experiments/{name}",), bindings)
    for convert in before:
        assert convert[:3] == ["prompt-tuning", "checkpoint", "convert"]
        assert gin.query_parameter("INITIAL_CHECKPOINT_PATH/macro.value").startswith(convert[4])


def transformer(file):
    """The network that a models/ file describes."""
    settings = {"ACTIVATION_DTYPE": "float32", "DROPOUT_RATE": 0.0, "PROMPT_LENGTH": 3}
    settings["PROMPT_LAYOUT"] = "prefix"
    text = config("infer", (file, "runs/infer.gin"), NEEDED | OUTPUTS["infer"] | settings)
    assert "encoder/prompt" not in text
    return gin.get_configurable("Transformer")()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "make", "folder"),
    [("t5_1_1_lm100k", t5_1_1, "t5_1_1_lm100k_{}"), ("mt5_lm100k", mt5, "mt5_lm_adapted/{}")],
)
def test_a_models_file_is_the_published_model(name, make, folder, size):
    network = transformer(f"models/{name}_{size}.gin")
    assert network.config == make(size)
    path = gin.query_parameter("INITIAL_CHECKPOINT_PATH/macro.value")
    assert path.endswith(f"{folder.format(size)}/checkpoint_1100000")


def test_the_bundled_models_file_is_the_bundled_model():
    network = transformer("models/bundled.gin")
    assert network.config == load_model("bundled").config
    assert network.prompt().length == 3


def test_a_prompt_has_the_axes_that_the_rules_know(base):
    from t5x import partitioning

    from prompt_tuning_jax.t5x_plugin.partitioning import additional_rules

    network = transformer("models/bundled.gin")
    tokens = jax.ShapeDtypeStruct((1, 2), "int32")
    shapes = jax.eval_shape(lambda t: network.init(jax.random.key(0), t, t, t), tokens)
    axes = shapes["params_axes"]["encoder"]["prompt"]["prompt_axes"].names
    rules = dict(partitioning.standard_logical_axis_rules(additional_rules=additional_rules()))
    assert tuple(axes) == ("prompt", "embed")
    assert [rules[axis] for axis in axes] == [None, None]
