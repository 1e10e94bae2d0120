"""Tasks whose targets begin with a sentinel: ids, answers, and scores that overlook it."""

import json

import pytest
from common import GOLDENS, NEEDS_DATA_EXTRA

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)

from prompt_tuning_jax.data.seqio_source import seqio_task  # noqa: E402
from prompt_tuning_jax.data.task_facts import task_facts  # noqa: E402
from prompt_tuning_jax.tasks import sentinel, settings, super_glue  # noqa: E402
from prompt_tuning_jax.vocabularies import load_vocabulary  # noqa: E402

NAME = "sentinel_taskless_super_glue_boolq_v102"
LENGTHS = {"inputs": 64, "targets": 8}
ROWS = [
    {"question": "is moss green", "passage": "Moss -- Moss is green.", "label": True, "idx": 0},
    {"question": "is moss red", "passage": "Moss -- Moss is green.", "label": False, "idx": 1},
]


@pytest.fixture
def task(tmp_path, vocabulary):
    folder = tmp_path / "superglue" / "BoolQ"
    folder.mkdir(parents=True)
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with settings.using(data_dir=str(tmp_path)):
        yield seqio_task(NAME, "prompt_tuning_jax.tasks.sentinel", vocabulary, LENGTHS)


def test_targets_begin_with_the_sentinel_and_inputs_do_not_change(task, vocabulary):
    plain = seqio.TaskRegistry.get(NAME.removeprefix("sentinel_"))
    expected = plain.get_dataset(LENGTHS, "validation", shuffle=False).as_numpy_iterator()
    for found, other in zip(
        task.split("validation").stream(seed=None, epoch=0), expected, strict=True
    ):
        assert found["inputs"].tolist() == other["inputs"].tolist()
        first = vocabulary.sentinel(0)
        assert found["targets"].tolist() == [first, *other["targets"].tolist()]


@pytest.mark.parametrize("family", ["resized", "byt5"])
def test_the_sentinel_is_the_vocabularys_own(tmp_path, family):
    """Not its last id where others follow; what `resized` adds does, and bytes count upwards."""
    other = load_vocabulary(GOLDENS / "families" / family)
    assert other.sentinel(0) != other.size - 1
    folder = tmp_path / "superglue" / "BoolQ"
    folder.mkdir(parents=True)
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (first,) = other.encode("<extra_id_0>")
    assert first == other.sentinel(0)
    with settings.using(data_dir=str(tmp_path)):
        task = seqio_task(NAME, "prompt_tuning_jax.tasks.sentinel", other, LENGTHS)
        facts = task_facts(task, "validation", other, LENGTHS, prompt_length=2)
        for example in task.split("validation").stream(seed=None, epoch=0):
            assert example["targets"][0] == first
        index = "task_index_super_glue_boolq_v102"
        of_index = seqio_task(index, "prompt_tuning_jax.tasks.super_glue", other, LENGTHS)
        row = next(iter(of_index.split("validation").stream(seed=None, epoch=0)))
    assert row["inputs"][0] == other.sentinel(super_glue.INDICES["boolq"])
    assert [word["ids"][0] for word in facts["verbalizers"]] == [first] * 2
    # To bytes, the space after a label's sentinel is a token, which targets do not have.
    assert facts["targets"]["not_verbalizers"] == (2 if family == "byt5" else 0)


def test_scores_overlook_the_sentinel(task):
    targets = [e["target_text"] for e in task.split("validation").stream(seed=None, epoch=0)]
    assert task.verbalizers == ("<extra_id_0> False", "<extra_id_0> True")
    for predictions, expected in (
        (["<extra_id_0> True", "<extra_id_0> False"], 100),
        (["True", "False"], 100),
        (["<extra_id_0> True", "<extra_id_0> <extra_id_0> False"], 50),
    ):
        assert task.score(targets, predictions)["accuracy"] == expected


def test_every_task_has_the_form():
    assert len(sentinel.TASKS) == 10 + 2 + 2 * 12
    assert {f"sentinel_{name}" for name in sentinel.TASKS} <= set(seqio.TaskRegistry.names())
    mixture = seqio.MixtureRegistry.get("sentinel_taskless_super_glue_wsc_and_dev_v102_simple")
    assert len(mixture.tasks) == 2
