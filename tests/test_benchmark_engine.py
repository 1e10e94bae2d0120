"""benchmark_engine.py at a tiny size; how fast it is is not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xla_flags

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import benchmark_engine

    return benchmark_engine


@pytest.mark.slow
def test_all_tokens_come_and_prompts_make_a_difference(tmp_path):
    output = tmp_path / "results" / "engine.json"
    command = [sys.executable, str(SCRIPTS / "benchmark_engine.py"), "--tiny"]
    environment = os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE}
    done = subprocess.run([*command, f"--output={output}"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"tokens/s" in done.stdout
    results = json.loads(output.read_text())
    assert results["command"] == "python scripts/benchmark_engine.py --tiny --output=engine.json"
    assert results["device"] == "cpu"
    assert {"cpu", "cores"} <= set(results["machine"])
    assert {"jax", "python"} <= set(results["versions"])
    sizes = results["sizes"]
    assert list(results["slots"]) == [str(slots) for slots in sizes["slots"]]
    for slots, found in results["slots"].items():
        assert found["requests"] == sizes["rounds"] * int(slots)
        assert found["output_tokens"] == found["requests"] * sizes["tokens"]
        assert found["different_answers_to_one_text"] == sizes["prompts"]
        # A text to begin with; then full batches alone, a step between two of one round.
        assert found["reads"] == 1 + found["requests"] // sizes["batch"]
        late = int(slots) // sizes["batch"] - 1
        assert found["steps"] == 1 + sizes["rounds"] * sizes["tokens"] + late
        assert found["seconds"] > 0
        assert found["set_up_seconds"] > 0
        assert found["peak_bytes"] > 2**20
        rates = found["output_tokens_a_second"], found["requests_a_second"]
        assert rates[0] == pytest.approx(sizes["tokens"] * rates[1])


def test_an_answer_that_ends_early_is_no_measurement(engine):
    class Hasty:
        """Says that it has made all tokens, and has made one."""

        def submit(self, request):
            request.tell(engine.Token(3, -1.0))
            request.tell(engine.Finished("length"))

    with pytest.raises(ValueError, match="not as long as it should be"):
        engine.answers(Hasty(), [([5, 6], "p0")], 2, 10)
    found, seconds = engine.answers(Hasty(), [([5, 6], "p0"), ([7], "p1")], 1, 10)
    assert [one.tokens for one in found] == [[3], [3]]
    assert seconds > 0


def test_published_figures_stand_beside_ours(engine, capsys):
    figures = {"output_tokens_a_second": 4000.0, "requests_a_second": 31.25, "seconds": 3.0}
    figures |= {"set_up_seconds": 60.0, "peak_bytes": 2**30}
    slots = {f"{each}": figures | engine.published(each) for each in (2, 32)}
    assert slots["2"]["published_requests_a_second"] is None
    assert slots["32"]["published_requests_a_second"] == pytest.approx(45.3, abs=0.05)
    engine.show({"device": "cpu", "versions": {"jax": "0.0"}, "slots": slots})
    assert "3,312.0 published" in capsys.readouterr().out


def test_sizes_are_those_that_are_asked_for(engine):
    args = engine.parse_arguments(["--slots", "8", "16", "--prompts=9", "--rounds=2"])
    sizes = engine.sizes_of(args)
    assert (sizes.slots, sizes.prompts, sizes.rounds, sizes.batch) == ((8, 16), 9, 2, 32)
    assert engine.shapes_of(sizes, 8).lengths == (540,)
    assert engine.sizes_of(engine.parse_arguments(["--tiny"])) == engine.TINY
