"""The commands of the README and of the pages it leads to, as written, at a small step count."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import documented
import numpy as np
import pytest
import xla_flags

from prompt_tuning_jax import TrainConfig, load_prompt
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.compare_config import CompareConfig
from prompt_tuning_jax.settings.setting import settings_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LIBRARY = (ROOT / "prompt_tuning_jax" / "README.md").read_text()
BLOCKS = [
    block
    for page in documented.pages(ROOT)
    for block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)
]
BASH = [text for language, text in BLOCKS if language == "bash"]
FEW_STEPS = "--train_steps 2 --eval_period 2 --eval_limit 8"

needs_model = pytest.mark.skipif(
    not (BUNDLED / "model.safetensors").exists(), reason="the bundled model is not made yet"
)


def run(command, folder):
    """A command line, with this environment's `python`; returns its standard output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=os.environ | {"PATH": path, "XLA_FLAGS": xla_flags.ONE_DEVICE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def block(word):
    (found,) = [text for text in BASH if word in text]
    return found


def changed(command, **settings):
    """The command with other values of settings that it gives."""
    for name, value in settings.items():
        command, count = re.subn(rf"--{name} \S+", f"--{name} {value}", command)
        assert count == 1
    return command


def test_the_two_commands_are_there_and_ci_calls_the_second():
    assert "scripts/quickstart.sh\n" in BASH
    assert "scripts/test.sh\n" in BASH
    for script in ("scripts/quickstart.sh", "scripts/test.sh"):
        assert os.access(ROOT / script, os.X_OK)
        help_text = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True)
        assert ".venv" in help_text.stdout
    assert "\nscripts/test.sh\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
@needs_model
def test_quickstart_runs_its_comparison(tmp_path):
    command = (ROOT / "scripts" / "quickstart.sh").read_text().partition("exec .venv/bin/")[2]
    (tmp_path / "wordings.txt").write_text("Who is it? {input}\n{input}\n")
    few = "--method_steps prompt=2 model=1 --eval_limit 12 --test_limit 12 --rates model=0.003"
    printed = run(command.replace('"$@"', f"{few} --text_prompts wordings.txt"), tmp_path)
    found = json.loads((tmp_path / "runs/quickstart/comparison.json").read_text())
    assert found["task"] in BUNDLED_TASKS
    assert [row["method"] for row in found["rows"]] == list(METHODS)
    assert all(0 <= score <= 100 for row in found["rows"] for score in row["scores"])
    assert json.loads(printed) == found["rows"]


METHODS = ("majority", "no_prompt", "hand_written", "prompt", "model")


def test_the_full_table_is_measured_as_the_record_says(tmp_path):
    """With as many seeds and steps for each task, and every figure of the README's table."""
    (tmp_path / "scripts/results/comparison").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "full_table.sh", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable}\n{STAND_IN}")
    python.chmod(0o755)
    made = {}
    for line in run("scripts/full_table.sh SST-2 superglue", tmp_path).splitlines():
        config = parse(CompareConfig, json.loads(line)[4:])
        made[Path(config.model_dir).name] = config
    for file in (ROOT / "scripts/results/comparison").glob("*.json"):
        found, config = json.loads(file.read_text()), made.pop(file.stem)
        ours = {name: getattr(config, name) for name in found["settings"]}
        assert json.loads(json.dumps(ours)) == found["settings"], file
        (line,) = [x for x in README.splitlines() if re.match(rf"\| `?{file.stem}`? \|", x)]
        shown = [cell.strip() for cell in line.split("|")[2:-1]]
        assert shown == [_cell(row["scores"]) for row in found["rows"]], file
    assert not made


STAND_IN = """import json, pathlib, sys
directory = pathlib.Path(sys.argv[sys.argv.index("--model_dir") + 1])
directory.mkdir(parents=True)
for name in ("comparison.json", "comparison.png"):
    (directory / name).touch()
print(json.dumps(sys.argv))
"""


def _cell(scores):
    """As the README's table shows them."""
    mean = f"{np.mean(scores):.1f}"
    return mean if len(scores) == 1 else f"{mean} ({min(scores):.1f}-{max(scores):.1f})"


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Where a prompt was tuned on files, as the README does it."""
    folder = tmp_path_factory.mktemp("own")
    data = folder / "my_data"
    data.mkdir()
    rows = [
        {"sentence": f"it was {word}", "label": label}
        for label, word in [(0, "dull"), (1, "lovely")] * 20
    ]
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train = block("--eval_period 100 --model_dir runs/mine")
    run(changed(train, train_steps=4, eval_period=2), folder)
    return folder


@needs_model
@pytest.mark.slow
def test_your_own_data(own_data):
    printed = run(block("prompt-tuning evaluate --prompt runs/mine"), own_data).splitlines()
    scores, answer = json.loads(printed[-2]), json.loads(printed[-1])
    best = json.loads((own_data / "runs/mine/best/prompt.json").read_text())
    assert scores["accuracy"] == pytest.approx(best["scores"]["accuracy"], abs=1e-3)
    assert answer["prediction"] in ("negative", "positive")


@pytest.mark.slow
@needs_model
def test_a_sweep_and_a_comparison(own_data):
    few = {"train_steps": 2, "eval_period": 1}
    printed = run(changed(block("--grid learning_rate"), halve_at=1, **few), own_data)
    assert json.loads(printed)["settings"]["learning_rate"] in (0.1, 0.3)
    assert load_prompt(own_data / "runs/sweep/best").values.shape == (20, 192)
    printed = run(changed(block("--methods majority,no_prompt"), **few), own_data)
    methods = [row["method"] for row in json.loads(printed)]
    assert methods == ["majority", "no_prompt", "prompt", "lora", "ia3", "model"]


@pytest.mark.slow
@needs_model
def test_t5x_checkpoints(own_data):
    printed = run(block("checkpoint diff bundled bundled-hf"), own_data)
    assert "70 leaves compared, 0 differ" in printed
    tuned, extracted = (load_prompt(own_data / path) for path in ("runs/mine/best", "prompts/mine"))
    np.testing.assert_array_equal(extracted.values, tuned.values)


@needs_model
def test_show_task(tmp_path):
    printed = run(block("show-task bundled_sentiment").splitlines()[0], tmp_path)
    assert "[prompt 0..19]" in printed
    assert "negative" in printed


@pytest.mark.slow
@needs_model
def test_many_prompts(tmp_path):
    lines = run(block("--prompt_field prompt"), tmp_path).splitlines()
    sentiment, topic = map(json.loads, lines)
    assert (sentiment["prediction"], topic["prediction"]) == ("negative", "restaurant")
    ensemble = block("prompt-tuning evaluate bundled_woman").rstrip()
    scores = json.loads(run(f"{ensemble} --limit 20", tmp_path))
    assert len(scores["members"]) == 5
    assert scores["ensemble"]["accuracy"] >= scores["mean"]["accuracy"]
    run(f"{block('--runs slow').rstrip()} {FEW_STEPS}", tmp_path)
    slow, fast = (load_prompt(tmp_path / f"runs/women/{name}/best") for name in ("slow", "fast"))
    assert np.abs(slow.values - fast.values).max() > 0.01
    run(block("prompt-tuning combine"), tmp_path)
    ends = [load_prompt(name).values for name in ("bundled_sentiment", "bundled_season")]
    between = load_prompt(tmp_path / "runs/between").values
    np.testing.assert_allclose(between, 0.75 * ends[0] + 0.25 * ends[1], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@needs_model
def test_interpret_and_exchange(tmp_path):
    run(block("prompt-tuning interpret"), tmp_path)
    assert "film" in (tmp_path / "runs/topic_page/index.html").read_text()
    run(block("prompt-tuning export"), tmp_path)
    ours = load_prompt("bundled_topic").values
    for name in ("prompts/topic", "topic-adapter", "topic.npy"):
        np.testing.assert_array_equal(load_prompt(tmp_path / name).values, ours)


@pytest.mark.slow
@needs_model
def test_more_devices_and_less_memory(tmp_path):
    run(f"{block('--model_dtype int8').rstrip()} {FEW_STEPS}", tmp_path)
    assert load_prompt(tmp_path / "runs/small_memory/best").values.shape == (20, 192)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="need libtpu: pip install '.[plan]'"
)
def test_a_plan(tmp_path):
    """Of the block's: what a method takes, of the smallest model."""
    (line,) = [x for x in block("prompt-tuning plan").splitlines() if "--method model" in x]
    printed = run(changed(line, model="small", topology="v5e:1x1") + " --tries 1", tmp_path)
    assert "model trains 76,963,840 numbers; the model has 76,963,840." in printed
    assert "fits" in printed


def test_the_settings_of_its_tables_are_there():
    page = (ROOT / "prompt_tuning_jax" / "devices" / "README.md").read_text()
    settings = re.findall(r"^\| `--([a-z_]+)", page, re.MULTILINE)
    assert len(settings) == 10
    assert set(settings) <= set(settings_of(TrainConfig))


@needs_model
@pytest.mark.t5x
@pytest.mark.data
def test_under_t5x(tmp_path):
    lines = block("python -m t5x.eval").replace("\\\n", " ").splitlines()
    (convert,) = [line for line in lines if "checkpoint convert" in line]
    (train,) = [line for line in lines if "t5x.train" in line]
    run(convert, tmp_path)
    settings = "--gin.TRAIN_STEPS=2 --gin.CHECKPOINT_PERIOD=2 --gin.EVAL_PERIOD=100"
    run(f"{train} {settings}", tmp_path)
    assert load_prompt(tmp_path / "runs/sentiment/prompts/2").values.shape == (20, 192)


@needs_model
@pytest.mark.slow
def test_a_first_run(tmp_path):
    train = block("train bundled_topic --prompt_length 20")
    run(changed(train, train_steps=2).rstrip() + " --eval_period 2 --eval_limit 8", tmp_path)
    assert load_prompt(tmp_path / "runs/topic/best").values.shape == (20, 192)


@pytest.mark.slow
@needs_model
def test_a_run_of_a_gin_file(tmp_path):
    run(f"{block('runs/gin_topic').rstrip()} {FEW_STEPS}", tmp_path)
    assert load_prompt(tmp_path / "runs/gin_topic/best").values.shape == (20, 192)


@needs_model
def test_the_first_answer(tmp_path):
    (shown,) = [json.loads(text) for language, text in BLOCKS if language == "json"]
    printed = json.loads(run(block("infer --prompt bundled_topic"), tmp_path))
    assert printed["prediction"] == shown["prediction"]
    assert printed["scores"] == pytest.approx(shown["scores"], abs=1e-2)


@needs_model
def test_the_causal_sibling_answers(tmp_path):
    printed = json.loads(run(block("infer --prompt bundled_causal_topic"), tmp_path))
    assert printed["prediction"] == "restaurant"


@pytest.mark.slow
@needs_model
def test_python(tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippet.splitlines()) == 10
    for many, few in (('steps": 60', 'steps": 2'), ('period": 30', 'period": 1, "eval_limit": 8')):
        assert many in snippet
        snippet = snippet.replace(many, few)
    (tmp_path / "snippet.py").write_text(snippet + "print(len(history))\n")
    printed = run("python snippet.py", tmp_path)
    assert printed.startswith("['film']\n")
    assert printed.endswith("['film']\n2\n")


def test_every_module_is_in_the_map():
    folders = {
        path.parent.name + "/" for path in (ROOT / "prompt_tuning_jax").glob("*/__init__.py")
    }
    modules = {path.name for path in (ROOT / "prompt_tuning_jax").glob("*.py")} - {"__init__.py"}
    missing = sorted(name for name in modules | folders if name not in LIBRARY)
    assert not missing
