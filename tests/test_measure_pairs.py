"""measure_pairs.py on made-up files, in the form of the real ones, and a small model."""

import json
from pathlib import Path

import pytest
from common import GOLDENS

import prompt_tuning_jax as pt

ROOT = Path(__file__).resolve().parents[1]
MODEL = GOLDENS / "embed" / "bert" / "model"
ALIKE = [("The ferry leaves at noon.", "The ferry leaves at noon.", 1), ("tea", "tea", 1)]
APART = [("The ferry leaves.", "A cold soup of peas.", 0), ("tea", "He ran for the train.", 0)]


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import measure_pairs

    return measure_pairs


@pytest.fixture
def data(tmp_path):
    heads = {"QQP": ("question1", "question2", "is_duplicate")}
    heads["MRPC"] = "#1 String", "#2 String", "Quality"
    test = {"QQP": "dev.tsv", "MRPC": "msr_paraphrase_test.txt"}
    for name, head in heads.items():
        (tmp_path / name).mkdir()
        for file in dict.fromkeys(("train.tsv", "dev.tsv", test[name])):
            rows = [head, *(ALIKE + APART) * (4 if file == "train.tsv" else 2)]
            lines = ["\t".join(map(str, row)) for row in rows]
            (tmp_path / name / file).write_text("\n".join(lines) + "\n", "utf-8-sig")
    (tmp_path / "STS-B").mkdir()
    for split in ("train", "dev", "test"):
        rows = [f'"{a}",{b},{5 * same - 0.5 * (a == "tea")}' for a, b, same in ALIKE + APART]
        text = "\n".join(rows * 3) + "\n"
        (tmp_path / "STS-B" / f"stsb-en-{split}.csv").write_text(text)
    return tmp_path


def test_texts_that_are_the_same_are_told_apart_from_others(program, data):
    parts = program.qqp(data, 6)
    assert [len(parts[split]) for split in ("train", "validation", "test")] == [10, 6, 8]
    model = pt.load_embedding_model(MODEL)
    assert program.scores(model, parts, None, None, program.BINARY) == {
        "average_precision": 100,
        "accuracy": 100,
    }
    swapped = {split: [(a, b, 1 - same) for a, b, same in x] for split, x in parts.items()}
    found = program.scores(model, swapped, None, None, program.BINARY)
    assert found["average_precision"] < 60
    assert found["accuracy"] < 100


def test_the_threshold_is_that_of_validation(program, data):
    """Where the most distant pairs there say the same, so do all of the test: half are wrong."""
    parts = program.mrpc(data, 8)
    parts["validation"] = [(a, b, 1) for a, b, _ in APART]
    model = pt.load_embedding_model(MODEL)
    found = program.scores(model, parts, None, None, program.BINARY)
    assert found == {"average_precision": 100, "accuracy": 50}


def test_scores_that_people_gave_are_compared_with_cosines(program, data):
    parts = program.sts(data, 6)
    assert [len(parts[split]) for split in ("train", "validation", "test")] == [12, 6, 12]
    assert sorted({score for _, _, score in parts["test"]}) == [-0.5, 0, 4.5, 5]
    model = pt.load_embedding_model(MODEL)
    found = program.scores(model, parts, None, None, program.GRADED)
    assert found.keys() == {"spearman", "pearson"}
    assert found["spearman"] > 50
    turned = {split: [(a, b, -score) for a, b, score in x] for split, x in parts.items()}
    opposite = program.scores(model, turned, None, None, program.GRADED)
    assert opposite == pytest.approx({name: -value for name, value in found.items()})


@pytest.mark.slow
def test_all_rows_are_measured_and_what_is_kept_is_not_again(program, data, tmp_path, monkeypatch):
    output = tmp_path / "pairs.json"
    few = "--examples=20 --held_out=6 --test_limit=6 --prompt_length=2 --steps=1 --eval_period=1"
    asked = [f"--model={MODEL}", f"--data={data}", f"--output={output}", *few.split()]
    program.main([*asked, "--batch_size=2", "--seeds=1"])
    found = json.loads(output.read_text())
    assert found["scores"].keys() == program.SETS.keys()
    assert all(rows.keys() == program.ROWS.keys() for rows in found["scores"].values())
    del found["scores"]["MRPC"]["as it is"]
    output.write_text(json.dumps(found))
    monkeypatch.setattr(program, "tuned", None)  # nothing but that row is measured
    program.main([*asked, "--batch_size=2", "--seeds=1"])
    assert "as it is" in json.loads(output.read_text())["scores"]["MRPC"]
