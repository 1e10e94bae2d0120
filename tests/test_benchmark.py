"""The benchmark programs run at a tiny size; what they measure is not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import xla_flags

from prompt_tuning_jax import load_model, load_vocabulary

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SIZES = ("--size=tiny", "--batch=4", "--inputs=32", "--prompt=4", "--targets=8")


def run_script(name: str, *arguments: str) -> None:
    environment = os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE}
    subprocess.run([sys.executable, str(SCRIPTS / name), *arguments], check=True, env=environment)


def save_vocabulary(folder: Path) -> Path:
    path = folder / "spiece.model"
    path.write_bytes(tiny.make_vocabulary().model_bytes)
    return path


@pytest.mark.slow
def test_train_step_records_time_memory_and_what_trains(tmp_path):
    output = tmp_path / "results" / "benchmark.json"
    run_script(
        "benchmark.py", "train_step", *SIZES, "--steps=1", "--repeats=1", f"--output={output}"
    )
    result = json.loads(output.read_text())["train_step"]
    assert {"cpu", "cores", "memory_gigabytes", "system"} <= set(result["machine"])
    assert result["settings"]["batch"] == 4
    assert result["command"].startswith("python scripts/benchmark.py train_step --size=tiny")
    ours = result["contenders"]["prompt_tuning_jax"]
    assert ours["trained"] == {"encoder/prompt/prompt": [4, 64]}
    assert len(ours["seconds"]) == 1
    assert ours["median_seconds"] > 0
    assert ours["peak_gigabytes"] > 0.1
    assert {"jax", "python"} <= set(ours["versions"])
    assert list(result["ratios"]) == ["prompt_tuning_jax"]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["isolated", "many", "decode", "long_step"])
def test_other_comparisons_run(tmp_path, benchmark):
    output = tmp_path / "benchmark.json"
    run_script("benchmark.py", benchmark, *SIZES, "--steps=1", "--repeats=1", f"--output={output}")
    result = json.loads(output.read_text())[benchmark]
    first, *others = result["contenders"]
    assert result["contenders"][first]["median_seconds"] > 0
    assert list(result["ratios"]) == others
    assert len(others) == {"isolated": 1, "many": 2, "long_step": 2, "decode": 1}.get(benchmark, 0)


@pytest.mark.slow
def test_real_size_trains_on_files_and_keeps_other_figures(tmp_path):
    output = tmp_path / "benchmark.json"
    output.write_text('{"earlier": {"kept": true}}')
    vocabulary = save_vocabulary(tmp_path)
    run_script(
        "benchmark.py",
        "real_size",
        *SIZES,
        "--steps=2",
        f"--vocabulary={vocabulary}",
        f"--output={output}",
    )
    results = json.loads(output.read_text())
    assert results["earlier"] == {"kept": True}
    figures = results["real_size"]
    assert figures["steps_per_second"] > 0
    assert figures["peak_gigabytes"] > 0.1
    assert figures["prompt_file_megabytes"] < figures["model_megabytes"]
    assert str(tmp_path) not in json.dumps(results)


def test_random_t5_loads(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from make_random_t5 import save_random_t5

    vocabulary = load_vocabulary(save_vocabulary(tmp_path))
    config = save_random_t5(tmp_path / "model", "tiny", vocabulary)
    model = load_model(tmp_path / "model")
    assert model.config == config
    assert config.vocab_size % 128 == 0
    assert config.vocab_size >= vocabulary.size
    assert model.vocabulary.fingerprint == vocabulary.fingerprint
    spread = float(model.params["decoder"]["logits_dense"]["kernel"].std())
    assert abs(spread * config.emb_dim**0.5 - 1) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("saving", ["int8", "isolated"])
def test_costs_are_measured(tmp_path, saving):
    output = tmp_path / "costs.json"
    arguments = (saving, "--tasks", "bundled_topic", "--limit=8", f"--output={output}")
    run_script("measure_costs.py", *arguments, *(["--steps=2"] if saving == "isolated" else []))
    (section,) = json.loads(output.read_text()).items()
    assert section[0] == {"int8": "int8", "isolated": "isolated, 2 steps"}[saving]
    costs = section[1]["tasks"]["bundled_topic"]
    before, after, *_ = costs.values()
    assert before > 80
    assert 0 <= after <= 100
    assert costs.get("drift", 0) < 0.02
