"""The commands of the README and of the pages it leads to, as written, at a small step count."""

import argparse
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
    last = (ROOT / "scripts" / "quickstart.sh").read_text().strip().splitlines()[-1]
    command = last.removeprefix("exec .venv/bin/").replace("scripts/", f"{ROOT}/scripts/")
    (tmp_path / "wordings.txt").write_text("Who is it? {input}\n{input}\n")
    few = "--steps 2 --model_steps 1 --limit 12 --rates 0.003 --text_prompts wordings.txt"
    command = command.replace('"$@"', f"{few} --output out.json")
    printed = run(command, tmp_path)
    figures = json.loads((tmp_path / "out.json").read_text())
    (row,) = figures.values()
    assert row["task"] in BUNDLED_TASKS
    assert row["task"] in printed
    for method in ("majority", "no prompt", "hand-written", "prompt tuning", "model tuning"):
        assert method in printed
        assert 0 <= (row[method][0] if isinstance(row[method], list) else row[method]) <= 100


def test_the_full_table_is_measured_as_the_record_says(tmp_path):
    """With as many seeds and steps for each task, and the picture that is shown."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "full_table.sh", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n")
    python.chmod(0o755)
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", nargs="+")
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--plot")
    for name in ("--seeds", "--steps", "--model_steps"):
        parser.add_argument(name, type=int)
    made, plots = {}, []
    for line in run("scripts/full_table.sh SST-2 superglue", tmp_path).splitlines():
        args, _ = parser.parse_known_args(json.loads(line)[2:])
        for name in args.task or [args.data_dir.name]:
            made[name] = [args.seeds, args.steps, args.model_steps]
        plots.append(args.plot)
    record = json.loads((ROOT / "scripts/results/comparison.json").read_text())
    for name, row in record.items():
        assert made.pop(name) == [
            len(row["prompt tuning"]),
            row["steps"],
            row["model tuning steps"],
        ]
    assert not made
    (picture,) = filter(None, plots)
    assert f"]({picture})" in README


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
    train = block("prompt-tuning train --data_dir my_data")
    run(changed(train, train_steps=4, eval_period=2), folder)
    return folder


@needs_model
def test_your_own_data(own_data):
    printed = run(block("prompt-tuning evaluate --prompt runs/mine"), own_data).splitlines()
    scores, answer = json.loads(printed[-2]), json.loads(printed[-1])
    best = json.loads((own_data / "runs/mine/best/prompt.json").read_text())
    assert scores["accuracy"] == pytest.approx(best["scores"]["accuracy"], abs=1e-3)
    assert answer["prediction"] in ("negative", "positive")


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
    assert "fits" in run(block("prompt-tuning plan"), tmp_path)


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
    (snippet,) = [text for language, text in BLOCKS if language == "python"]
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
