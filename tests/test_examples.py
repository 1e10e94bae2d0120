"""Every program under scripts/examples/ runs, and shows what it says."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xla_flags
from embedding_models import HERE

from prompt_tuning_jax import load_embedding_model, load_prompt
from prompt_tuning_jax.commands.cli import main

EXAMPLES = Path(__file__).resolve().parents[1] / "scripts" / "examples"
WOMAN = ["bundled_woman", *(f"bundled_woman_seed{seed}" for seed in range(1, 5))]


def run(name, folder, *arguments, **settings):
    """The lines that an example prints, run in `folder` with this environment's commands."""
    program = [str(EXAMPLES / name), *arguments]
    environment = os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        program if name.endswith(".sh") else [sys.executable, *program],
        cwd=folder,
        env=environment | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def test_every_example_is_tested():
    tests = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        assert f'run("{path.name}", ' in tests
        assert len(path.read_text().splitlines()) <= 45


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir()))
def test_help_says_what_it_shows_and_how_long_it_takes(tmp_path, name, monkeypatch, capsys):
    if name.endswith(".sh"):
        printed = " ".join(run(name, tmp_path, "--help"))
    else:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert not ended.value.code
        printed = capsys.readouterr().out
    assert re.search("second|minute", printed)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tune_on_your_files(tmp_path):
    *_, scores, answer = run("tune_on_your_files.sh", tmp_path, STEPS="4")
    assert 0 <= json.loads(scores)["accuracy"] <= 100
    assert json.loads(answer)["prediction"] in ("positive", "negative")
    assert load_prompt(tmp_path / "runs/examples/tune/run/best").shape == (20, 192)


@pytest.mark.slow
def test_serve_many_prompts(tmp_path):
    answers = [line.split()[:2] for line in run("serve_many_prompts.py", tmp_path)]
    assert answers == [
        ["bundled_topic", "restaurant"],
        ["bundled_sentiment", "negative"],
        ["bundled_sentiment", "positive"],
        ["bundled_topic", "hotel"],
    ]


@pytest.mark.slow
def test_ensemble(tmp_path):
    scores, answer = map(json.loads, run("ensemble.sh", tmp_path, LIMIT="20"))
    assert list(scores["members"]) == WOMAN
    accuracies = [member["accuracy"] for member in scores["members"].values()]
    assert scores["mean"]["accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-3)
    assert scores["ensemble"]["accuracy"] >= scores["mean"]["accuracy"]
    assert sum(answer["votes"].values()) == len(WOMAN)


@pytest.mark.slow
def test_average_and_interpolate(tmp_path):
    printed = run("average_and_interpolate.py", tmp_path, "--limit=8")
    scores = [float(re.search(r"([\d.]+) %", line)[1]) for line in printed]
    assert len(scores) == 6
    assert scores[0] > 80  # the ends are prompts that were tuned
    assert scores[4] > 80


@pytest.mark.slow
def test_interpret_a_prompt(tmp_path):
    printed = run("interpret_a_prompt.sh", tmp_path)
    assert any("nearest" in line for line in printed)
    page = tmp_path / "runs/examples/meaning/index.html"
    assert str(page.relative_to(tmp_path)) in printed[-1]
    assert "bundled_topic" in page.read_text()


@pytest.mark.slow
def test_exchange_with_peft(tmp_path):
    *_, ours, theirs = run("exchange_with_peft.sh", tmp_path)
    assert json.loads(ours) == json.loads(theirs)
    folder = tmp_path / "runs/examples/peft"
    assert (folder / "adapter" / "adapter_config.json").exists()
    array = np.load(folder / "topic.npy", allow_pickle=False)
    np.testing.assert_array_equal(array, load_prompt("bundled_topic").values)


@pytest.mark.slow
def test_show_a_task(tmp_path):
    printed = run("show_a_task.sh", tmp_path)
    assert any("[prompt 0..19]" in line for line in printed)
    assert printed[-1].startswith("facts: ")


@pytest.mark.slow
def test_convert_to_t5x(tmp_path):
    printed = run("convert_to_t5x.sh", tmp_path)
    assert any("0 differ" in line for line in printed)
    back = load_prompt(tmp_path / "runs/examples/t5x/prompt")
    np.testing.assert_array_equal(back.values, load_prompt("bundled_topic").values)


@pytest.fixture
def index(tmp_path):
    """A folder of `prompt-tuning index`, and which documents a question is to find, in order."""
    documents = {
        f"d{i}": f"number {i} of {word}" for i, word in enumerate(("tea", "stone", "rain"))
    }
    vectors = load_embedding_model(HERE / "bert" / "model").embed([*documents.values(), "of rain"])
    found = np.array(list(documents))[np.argsort(-(vectors[:-1] @ vectors[-1]))]
    lines = [json.dumps({"_id": key, "text": text}) for key, text in documents.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    words = ["--documents", str(tmp_path / "corpus.jsonl"), "--output", str(tmp_path / "index")]
    main(["index", "--model", str(HERE / "bert" / "model"), *words])
    return tmp_path / "index", found.tolist()


@pytest.mark.slow
def test_search_with_faiss(tmp_path, index):
    pytest.importorskip("faiss")
    for _ in range(2):  # the second finds the store of the first
        lines = run("search_with_faiss.py", tmp_path, str(index[0]), "of rain")
        assert [line.split()[1] for line in lines] == index[1]


@pytest.mark.slow
def test_search_with_qdrant(tmp_path, index):
    pytest.importorskip("qdrant_client")
    for _ in range(2):
        lines = run("search_with_qdrant.py", tmp_path, str(index[0]), "of rain")
        assert [line.split()[1] for line in lines] == index[1]


@pytest.mark.slow
def test_tune_a_query_side(tmp_path):
    lines = run("tune_a_query_side.py", tmp_path)
    (best,) = [re.search("^best: .*recall@1 ([^,]+)", line) for line in lines if "best:" in line]
    assert float(best[1]) > 25  # one of six by chance
