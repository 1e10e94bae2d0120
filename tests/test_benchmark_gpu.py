"""benchmark_gpu.py with stand-ins for its workers, and, at a tiny size, with its own."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xla_flags

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
OURS = "prompt_tuning_jax"
WORKER = """
import json, sys, time
settings = json.loads(sys.argv[1])
if "error" in settings:
    sys.exit("first line\\n" + settings["error"])
time.sleep(settings.get("sleep", 0))
print(json.dumps({"versions": {}}))
for line in sys.stdin:
    print(json.dumps({"seconds": int(line), "peak_bytes": 2**30}))
"""
SETTINGS = {"batch": 2, "inputs": 12, "prompt": 4, "targets": 4}


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """The program, whose workers are WORKER."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_gpu

    for name in ("benchmark_jax.py", "benchmark_torch.py"):
        (tmp_path / name).write_text(WORKER)
    monkeypatch.setattr(benchmark_gpu, "HERE", tmp_path)
    return benchmark_gpu


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_gpu_checks

    return benchmark_gpu_checks


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / "benchmark_gpu.py"), "--tiny", *arguments]
    flags = {"XLA_FLAGS": xla_flags.ONE_DEVICE, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=os.environ | flags | environment)


@pytest.mark.slow
def test_from_a_checkout_few_packages_are_needed():
    """Beside JAX's own only what a machine for measuring has."""
    absent = ("tensorboardX", "tensorflow", "seqio", "fastapi", "ray", "sklearn", "matplotlib")
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    program = f"import sys\n{blocked}import benchmark_jax, benchmark_engine, benchmark_gpu_checks"
    environment = os.environ | {"PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_a_worker_takes_the_turns_it_is_told_to(gpu):
    facts, turns = gpu.run_worker(sys.executable, "benchmark_jax.py", {}, 60, [3, 3])
    assert facts == {"versions": {}}
    assert [turn["seconds"] for turn in turns] == [3, 3]


def test_a_worker_that_is_not_done_in_time_is_stopped(gpu):
    started = time.monotonic()
    with pytest.raises(gpu.SkippedError, match="not done within 1 seconds"):
        gpu.run_worker(sys.executable, "benchmark_jax.py", {"sleep": 60}, 1)
    assert time.monotonic() - started < 30


def test_a_worker_that_fails_says_why(gpu, capfd):
    with pytest.raises(gpu.SkippedError, match=r"^no such device$"):
        gpu.run_worker(sys.executable, "benchmark_jax.py", {"error": "no such device"}, 60)
    assert "first line" in capfd.readouterr().err


def test_figures_are_compared_within_a_row(gpu, tmp_path, capsys):
    output = tmp_path / "results" / "gpu.json"
    args = gpu.parse_arguments(["--tiny", "--rows", "xl_short", f"--output={output}"])
    rows = {"xl_short": gpu.ROWS["xl_short"]}
    report = gpu.Report(rows, args)
    report.results["check"] = {"useful_flops": {"xl_short": 10}, "matrix_rate": 100}
    first, *others = gpu.in_order(rows)
    report.measure(*first)
    for row, name, contender in others:
        slower = dataclasses.replace(contender, settings={**contender.settings, "error": "out"})
        report.measure(row, name, slower if name == OURS else contender)
    report.compare()
    gpu.show(report.results, rows)
    found = json.loads(output.read_text())["rows"]["xl_short"]["contenders"]
    assert found[OURS] == {"skipped": "out", "against": {}}
    isolated = found[f"{OURS}, isolated prompt"]
    assert isolated["against"] == {"PEFT": 1.0}
    assert isolated["useful_share"] == 0.1
    assert isolated["peak_gibibytes"] == 1
    assert "skipped" in capsys.readouterr().out


def test_the_important_rows_come_first_and_name_each_other(gpu):
    order = [(row, name) for row, name, _ in gpu.in_order(gpu.ROWS)]
    assert {row for row, _ in order[:7]} == {"xl_long", "xxl_long", "xl_short"}
    assert {name.partition(",")[0] for _, name in order[:7]} == {"PEFT", OURS}
    for row in gpu.ROWS.values():
        for contender in row.contenders.values():
            assert set(contender.against) <= set(row.contenders)


@pytest.mark.slow
def test_useful_work_counts_every_row_and_half_where_nothing_trains(checks, gpu):
    chosen = {name: row for name, row in gpu.ROWS.items() if row.size == "xl"}
    rows = gpu.check_settings(chosen, tiny=False)["rows"]
    flops = {name: checks.least_flops(row) for name, row in rows.items()}
    per_row = {name: flops[name] / rows[name]["lengths"]["batch"] for name in flops}
    assert per_row["many"] == per_row["xl_short"] == 2 * per_row["decode"]
    assert rows["many"]["lengths"]["batch"] == 32
    causal = gpu.check_settings({"llama_3b": gpu.ROWS["llama_3b"]}, tiny=False)["rows"]["llama_3b"]
    # Llama 3.2 3B has 2.82e9 weights in its layers, and an output layer for 8 targets a row.
    assert checks.least_flops(causal) / (4 * 2.82e9 * 16 * 619) == pytest.approx(1, abs=0.01)
    # Of XL's 2.85e9 weights 1.22e9 are the encoder's, with the embedding of 66e6 apart.
    assert flops["xl_long"] / (4 * 1.22e9 * 32 * 612) == pytest.approx(1, abs=0.05)


SHAPE = {
    "vocab_size": 64,
    "emb_dim": 32,
    "num_heads": 2,
    "head_dim": 16,
    "mlp_dim": 64,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "dtype": "float32",
}
CAUSAL = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "dtype": "float32",
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SHAPE, CAUSAL], ids=["t5", "causal"])
def test_gradients_are_compared_and_a_form_may_be_missing(checks, monkeypatch, shape):
    forms = {"dense": {"attention": "dense"}, "chunks of 8": {"attention_chunk": 8}}
    missing = {"missing": {"attention_chunk": -1}}
    monkeypatch.setattr(checks, "attention_forms", lambda: forms | missing)
    config = shape | {"dtype": "bfloat16"}
    errors = checks.gradient_errors({"config": config, **SETTINGS})
    assert 0 < errors["dense"] < checks.LIMIT
    assert 0 < errors["chunks of 8"] < checks.LIMIT
    assert "attention_chunk must be 1 or more" in errors["missing"]


def test_rows_that_are_compared_are_padded(checks):
    batch = checks.padded_batch({"config": SHAPE, **SETTINGS})
    assert (batch["encoder_input_tokens"] > 0).sum(axis=1).tolist() == [12, 3]
    assert batch["decoder_loss_weights"].sum(axis=1).tolist() == [4, 3]
    assert (batch["decoder_target_tokens"] > 0).sum() == 7


def test_forms_of_attention_are_fields_of_the_config(checks):
    forms = checks.attention_forms()
    assert "dense" in forms
    assert len(forms) > 1
    for shape in (SHAPE, CAUSAL):
        config, _ = checks.config_and_spread(shape)
        assert all(dataclasses.replace(config, **form) for form in forms.values())


def test_the_matrix_rate_is_a_rate(checks):
    assert np.isfinite(checks.matrix_rate(64))


@pytest.mark.slow
def test_without_time_everything_is_recorded_as_skipped(tmp_path):
    output = tmp_path / "gpu.json"
    assert run("--limit_minutes=0", f"--output={output}").returncode == 1
    results = json.loads(output.read_text())
    assert results["check"] == {"skipped": "the time limit"}
    for row in results["rows"].values():
        for found in row["contenders"].values():
            assert found["skipped"] == "the time limit"


@pytest.mark.slow
def test_all_rows_run_at_a_tiny_size(tmp_path):
    output = tmp_path / "gpu.json"
    done = run("--limit_minutes=60", "--compile_seconds=0.1", f"--output={output}")
    assert done.returncode == 0
    results = json.loads(output.read_text())
    assert results["command"].startswith("python scripts/benchmark_gpu.py --tiny")
    assert results["check"]["device"] == "cpu"
    for name, row in results["rows"].items():
        ours = {n: found for n, found in row["contenders"].items() if not n.startswith("PEFT")}
        assert len(ours) >= (1 if name.startswith("llama") else 2), name
        for found in ours.values():
            assert found["median_seconds"] > 0
            assert found["useful_share"] > 0
            assert found["peak_gibibytes"] > 0.1
            assert len(found["seconds"]) == 2
