"""Tasks whose targets begin with a sentinel: ids, answers, and scores that overlook it."""

import json

import pytest
from common import NEEDS_DATA_EXTRA

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)

from prompt_tuning_jax.data.seqio_source import seqio_task  # noqa: E402
from prompt_tuning_jax.tasks import sentinel, settings  # noqa: E402

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
