"""MRPC to QQP and back: whose words the scores understand, and what the mixtures hold."""

import pytest
from common import NEEDS_DATA_EXTRA, slow

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)

from prompt_tuning_jax.data.seqio_source import seqio_task  # noqa: E402
from prompt_tuning_jax.tasks import glue_transfer, settings  # noqa: E402

MODULE = "prompt_tuning_jax.tasks.glue_transfer"
LENGTHS = {"inputs": 64, "targets": 8}
LABELS = {
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
}
FORMS = ("", "taskless_", "task_index_")
PAIRS = pytest.mark.parametrize(("source", "target"), [("mrpc", "qqp"), ("qqp", "mrpc")])
ONE_PAIR = pytest.mark.parametrize(("source", "target"), [("mrpc", "qqp"), slow("qqp", "mrpc")])


@pytest.fixture
def root(tmp_path, vocabulary):
    """A data directory, chosen, with two records a split of either task."""
    mrpc = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    mrpc += [f"{label}\t1\t2\tMoss grows .\tMoss is growing ." for label in (1, 0)]
    qqp = ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"]
    qqp += [f"{i}\t3\t4\tWhat is moss?\tWhat do you call moss?\t{i}" for i in (1, 0)]
    for name, lines in (("MRPC", mrpc), ("QQP", qqp)):
        (tmp_path / "glue" / name).mkdir(parents=True)
        for split in ("train", "dev"):
            (tmp_path / "glue" / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    with settings.using(data_dir=tmp_path, vocabulary=vocabulary):
        yield tmp_path


@PAIRS
def test_scores_take_the_words_of_the_task_that_was_tuned_on(source, target):
    task = seqio.TaskRegistry.get(f"glue_{target}_from_{source}_v200")
    for spoken in (source, target):
        assert [task.postprocess_fn(word, is_target=True) for word in LABELS[spoken]] == [0, 1]
    assert task.postprocess_fn("yes", is_target=False) == -1
    f1, accuracy = task.predict_metric_fns
    assert f1([0, 1, 1], [0, 1, -1]) == {"f1": pytest.approx(200 / 3)}
    assert accuracy([0, 1, 1], [0, 1, -1]) == {"accuracy": pytest.approx(200 / 3)}
    assert list(task.splits) == ["validation"]


@PAIRS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", ["v002", "v200"])
def test_mixtures_train_on_one_and_add_the_other(source, target, form, version):
    for suffix in ("", "_examples"):
        name = f"{form}glue_{target}_from_{source}_zeroshot_{version}{suffix}"
        assert {task.name for task in seqio.MixtureRegistry.get(name).tasks} == {
            f"{form}glue_{source}_{version}",
            f"{form}glue_{target}_from_{source}_{version}{suffix}",
        }
        assert glue_transfer.VERBALIZERS[name] == LABELS[source]


@ONE_PAIR
@pytest.mark.slow
def test_a_model_that_speaks_one_tasks_words_is_right_on_both(root, vocabulary, source, target):
    name = f"taskless_glue_{target}_from_{source}_zeroshot_v200"
    task = seqio_task(name, MODULE, vocabulary, LENGTHS)
    assert task.verbalizers == LABELS[source]
    trained_on = [next(task.split("train").stream(seed=0, epoch=0)) for _ in range(3)]
    assert trained_on
    targets = [e["target_text"] for e in task.split("validation").stream(seed=None, epoch=0)]
    assert set(targets) == {*LABELS["mrpc"], *LABELS["qqp"]}
    spoken = dict(zip(LABELS[target], LABELS[source], strict=True))
    scores = task.score(targets, [spoken.get(each, str(each)) for each in targets])
    assert set(scores.values()) == {100.0}
    assert f"taskless_glue_{target}_from_{source}_v200/f1" in scores


@ONE_PAIR
def test_texts_are_the_targets_own(root, source, target):
    other = {"mrpc": "sentence1: Moss grows .", "qqp": "question1: What is moss?"}[target]
    for form, start in (("", f"{target} {other}"), ("taskless_", other), ("task_index_", other)):
        task = seqio.TaskRegistry.get(f"{form}glue_{target}_from_{source}_v200")
        dataset = task.get_dataset(LENGTHS, "validation", shuffle=False)
        example = next(dataset.as_numpy_iterator())
        assert example["inputs_pretokenized"].decode().startswith(start)
        assert example["targets_pretokenized"].decode() == LABELS[target][1]
