"""SuperGLUE's tasks: T5's texts, TFDS's records from release files, WSC, mixtures and average."""

import collections
import json

import numpy as np
import pytest
import task_records
from common import GOLDENS, NEEDS_DATA_EXTRA, NEEDS_SHARED, shared_dir, slow

from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.data.task import target_text
from prompt_tuning_jax.vocabularies import load_vocabulary

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)

tf = pytest.importorskip("tensorflow", reason=NEEDS_DATA_EXTRA)
tfds_offline = pytest.importorskip("tfds_offline")
seqio_task = pytest.importorskip("prompt_tuning_jax.data.seqio_source").seqio_task
glue_preprocessors = pytest.importorskip("prompt_tuning_jax.tasks.glue_preprocessors")
registration = pytest.importorskip("prompt_tuning_jax.tasks.registration")
settings = pytest.importorskip("prompt_tuning_jax.tasks.settings")
super_glue = pytest.importorskip("prompt_tuning_jax.tasks.super_glue")
super_glue_release = pytest.importorskip("prompt_tuning_jax.tasks.super_glue_release")

SUPER_GLUE, DprRelease = super_glue_release.SUPER_GLUE, super_glue_release.DprRelease
TEXTS = json.loads((GOLDENS / "tasks/preprocessors.json").read_text())
READERS = SUPER_GLUE | {
    "wsc_simple_train": SUPER_GLUE["wsc.fixed"],
    "wsc_simple_eval": SUPER_GLUE["wsc.fixed"],
}
NAMES = {"wsc_simple_train": "wsc_v102_simple_train", "wsc_simple_eval": "wsc_v102_simple_eval"}
CASES = [name.split("/")[1] for name in TEXTS if name.startswith("super_glue/")]
SPLITS = ("train", "validation", "test")
LENGTHS = {"inputs": 512, "targets": 16}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return task_records.write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def spiece():
    return load_vocabulary(BUNDLED / "spiece.model")


@pytest.mark.parametrize("form", ["", "taskless_"])
@pytest.mark.parametrize("case", CASES)
def test_texts_are_t5s(case, form):
    golden = TEXTS[f"super_glue/{case}"]
    task = seqio.TaskRegistry.get(f"{form}super_glue_{NAMES.get(case, case + '_v102')}")
    expected = golden["taskless" if form else "t5"]
    assert tfds_offline.texts(task, golden["raw"], READERS[case].signature) == expected


@pytest.mark.parametrize("form", ["", "taskless_"])
def test_definite_pronouns_are_t5s(form):
    golden = TEXTS["dpr_simple"]
    task = seqio.TaskRegistry.get(f"{form}dpr_v001_simple")
    found = tfds_offline.texts(task, golden["raw"], DprRelease.signature)
    assert found == golden["taskless" if form else "t5"]


def test_the_first_word_goes_as_t5_removes_it():
    for case in TEXTS["remove_first_text_token_cases"]:
        data = tf.data.Dataset.from_tensors({"inputs": case["inp"]})
        (found,) = glue_preprocessors.without_task_name(data).as_numpy_iterator()
        assert found["inputs"].decode() == case["out"]


@pytest.mark.parametrize(
    ("text", "index", "pronoun", "marked"),
    [
        ('Well done for him," she said. ', 3, "him", 'Well done for *him* ," she said.'),
        ("They want to use it , but not now", 3, "it", "They want to use *it* , but not now"),
        ("  Two blanks before it here", 5, "it", "  Two blanks before *it* here"),
        ("He likes Bob .", 0, "He", "*He* likes Bob ."),
        ("He, who likes Bob .", 0, "He", "*He* , who likes Bob ."),
    ],
)
def test_a_pronoun_with_punctuation_or_a_word_late(text, index, pronoun, marked):
    raw = {"text": text, "span1_text": "She", "span2_index": np.int32(index)}
    raw |= {"span2_text": pronoun, "label": np.int64(1), "idx": np.int32(0)}
    data = glue_preprocessors.wsc_simple(tf.data.Dataset.from_tensors(raw), true_only=True)
    (found,) = data.as_numpy_iterator()
    assert found["inputs"].decode() == f"wsc: {marked}"


def test_a_pronoun_that_is_not_there_is_refused():
    raw = {"text": "Anna won the cup .", "span2_index": np.int32(1), "span2_text": "she"}
    raw |= {"span1_text": "Anna", "label": np.int64(1), "idx": np.int32(7)}
    data = glue_preprocessors.wsc_simple(tf.data.Dataset.from_tensors(raw), true_only=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="WSC: no `span2_text`"):
        next(iter(data))


def test_task_indices_are_those_of_the_reference(spiece):
    assert TEXTS["task_index"]["super_glue"] == super_glue.INDICES
    raw, signature = TEXTS["super_glue/rte"]["raw"], SUPER_GLUE["rte"].signature
    with settings.using(vocabulary=spiece):
        task = seqio.TaskRegistry.get("task_index_super_glue_axg_v102")
        data = tf.data.Dataset.from_generator(lambda: iter(raw), output_signature=signature)
        first = next(iter(task.preprocess_precache(data).as_numpy_iterator()))
    expected = spiece.encode(TEXTS["super_glue/rte"]["taskless"][0]["inputs"])
    assert first["inputs"].tolist() == [spiece.sentinel(5), *expected]


@pytest.mark.parametrize(
    "name", [x if x in ("multirc", "record", "wsc.fixed") else slow(x) for x in SUPER_GLUE]
)
def test_release_and_tfds_give_the_same_records(name, release, tmp_path):
    source = registration.ReleaseOrTfds(f"super_glue/{name}:1.0.2", SUPER_GLUE[name])
    tfds_name = f"super_glue/{name}:1.0.2"
    with tfds_offline.tfds_from_release(tfds_name, release / "superglue", tmp_path):
        for split in source.splits:
            with settings.using(data_dir=None):
                ours, size = source.get_dataset(split), source.num_input_examples(split)
            with settings.using(data_dir=release):
                tfds_offline.assert_same_records(source.get_dataset(split), ours)
                assert source.num_input_examples(split) == size


@pytest.mark.skipif(shared_dir() is None, reason=NEEDS_SHARED)
@pytest.mark.parametrize(
    "name",
    [slow(x) if x == "multirc" else x for x in SUPER_GLUE if not x.startswith("ax")],
)
def test_real_files_are_read_as_tfds_reads_them(name, tmp_path):
    reader, root = SUPER_GLUE[name], shared_dir() / "data"
    for split in ("train", "validation"):
        file = root / "superglue" / reader.folder / reader.files[split]
        theirs = tfds_offline.generated(
            f"super_glue/{name}:1.0.2", tmp_path, data_file=file, split=split
        )
        assert list(reader.records(root, split)) == theirs


def wsc_split(name, split, **choices):
    task = seqio.get_mixture_or_task(name)
    return list(task.get_dataset(LENGTHS, split, shuffle=False, **choices).as_numpy_iterator())


def test_wsc_trains_on_true_referents_and_is_scored_on_all(release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        assert [e["label"] for e in wsc_split("super_glue_wsc_v102_simple_train", "train")] == [1]
        name = "taskless_super_glue_wsc_and_dev_v102_simple"
        task = seqio_task(name, vocabulary=spiece, feature_lengths=LENGTHS)
        examples = list(task.split("validation").stream(seed=None, epoch=0))
    targets = [target_text(example, spiece) for example in examples]
    assert targets == ["Anna", "Berta"]
    # She is Anna: who always says so is right of both candidates, who echoes them of one.
    assert task.score(targets, ["Anna", "Anna"]) == {"accuracy": 100.0, "mean": 100.0}
    assert task.score(targets, targets) == {"accuracy": 50.0, "mean": 50.0}


def test_record_has_an_example_an_answer_and_a_score_a_query(release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        task = seqio_task("super_glue_record_v102", vocabulary=spiece, feature_lengths=LENGTHS)
        examples = list(task.split("validation").stream(seed=None, epoch=0))
        (record,) = task.split("validation").records()
    targets = [target_text(example, spiece) for example in examples]
    assert targets == [answer.decode() for answer in record["answers"]] == ["Anna", "Berta"]
    assert task.score(targets, ["anna", "anna"]) == {"em": 100.0, "f1": 100.0, "mean": 100.0}


def test_multirc_is_scored_by_question(release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        task = seqio_task("super_glue_multirc_v102", vocabulary=spiece, feature_lengths=LENGTHS)
        examples = list(task.split("validation").stream(seed=None, epoch=0))
    targets = [target_text(example, spiece) for example in examples]
    wrong = [*targets[:-1], "True"]
    scores = task.score(targets, wrong)
    assert scores["exact_match"] == 50.0
    assert scores["f1"] == pytest.approx(80)


def test_the_models_vocabulary_and_data_dir_need_no_setting(release, spiece):
    with settings.using(data_dir=None, vocabulary=None):
        task = seqio_task(
            "taskless_super_glue_cb_v102",
            "prompt_tuning_jax.tasks.super_glue",
            vocabulary=spiece,
            data_dir=str(release),
        )
        examples = list(task.split("train").stream(seed=None, epoch=0))
        assert len(examples) == len(task.split("train")) == len(task_records.CB)
    assert task.verbalizers == ("entailment", "contradiction", "neutral")
    text = "hypothesis: she was dry premise: It rained. She took her coat."
    assert examples[0]["inputs"].tolist() == [*spiece.encode(text), 1]


def test_shuffling_reaches_the_whole_split(release, spiece):
    source = seqio.TaskRegistry.get("super_glue_cb_v102").source
    with settings.using(data_dir=release, vocabulary=spiece):
        orders = {
            tuple(e["label"] for e in source.get_dataset("train", True, seed).as_numpy_iterator())
            for seed in range(8)
        }
        again = source.get_dataset("train", True, tf.constant(3, tf.int64))
        first, second = (tuple(e["idx"] for e in again.as_numpy_iterator()) for _ in range(2))
    assert len(orders) > 2
    assert first == second


def test_hosts_read_disjoint_parts(release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        parts = [
            {
                int(e["idx"])
                for e in wsc_split("super_glue_cb_v102", "train", shard_info=seqio.ShardInfo(i, 2))
            }
            for i in range(2)
        ]
    assert parts == [{0, 2}, {1}]


def test_the_average_is_that_of_the_benchmark():
    scores = {
        "taskless_super_glue_boolq_v102/accuracy": 80.0,
        "taskless_super_glue_cb_v102/accuracy": 90.0,
        "taskless_super_glue_cb_v102/mean_3class_f1": 70.0,
        "taskless_super_glue_copa_v102/accuracy": 60.0,
        "taskless_super_glue_multirc_v102/f1": 70.0,
        "taskless_super_glue_multirc_v102/exact_match": 30.0,
        "taskless_super_glue_record_v102/em": 80.0,
        "taskless_super_glue_record_v102/f1": 82.0,
        "taskless_super_glue_rte_v102/accuracy": 75.0,
        "taskless_super_glue_wic_v102/accuracy": 65.0,
        "taskless_super_glue_wsc_v102_simple_eval/accuracy": 85.0,
        "taskless_super_glue_axb_v102/matthews_corrcoef": 1.0,
        "mean": 12.0,
    }
    assert super_glue.average(scores) == pytest.approx((80 + 80 + 60 + 50 + 81 + 75 + 65 + 85) / 8)
    del scores["taskless_super_glue_rte_v102/accuracy"]
    with pytest.raises(ValueError, match="no scores of rte"):
        super_glue.average(scores)


def test_evaluating_the_mixture_gives_the_average(release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        task = seqio_task(
            "taskless_super_glue_v102_equal", vocabulary=spiece, feature_lengths=LENGTHS
        )
        examples = list(task.split("validation").stream(seed=None, epoch=0))
        targets = [target_text(example, spiece) for example in examples]
        predictions = ["True" if i % 3 else target for i, target in enumerate(targets)]
        scores = task.score(targets, predictions)
    assert scores["mean"] == pytest.approx(super_glue.average(scores))


@pytest.mark.parametrize(
    ("name", "dpr"),
    [
        ("super_glue_v102_proportional", True),
        ("taskless_super_glue_v102_proportional", False),
        ("task_index_super_glue_v102_examples_proportional", False),
        ("task_index_super_glue_with_dpr_v102_examples_proportional", True),
    ],
)
def test_a_mixture_is_proportional_to_size(name, dpr):
    mixture = seqio.MixtureRegistry.get(name)
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    sizes = sorted(rate for rate in rates.values() if rate)
    expected = [250, 259, 400, 2490, 5428, 9427, 27243, 138854] + [1322] * dpr
    assert sizes == sorted(expected)
    assert all(
        rate == 0
        for task, rate in rates.items()
        if "eval" in task or "axb" in task or "axg" in task
    )


@pytest.mark.slow
def test_an_equal_mixture_draws_each_task_alike(release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        mixture = seqio.get_mixture_or_task("taskless_super_glue_v102_equal")
        data = mixture.get_dataset(LENGTHS, "train", shuffle=True, seed=0, num_epochs=None)
        starts = collections.Counter(
            spiece.decode(e["inputs"].tolist()).split(":")[0]
            for e in data.take(400).as_numpy_iterator()
        )
    # BoolQ begins "passage:", COPA "choice1:", and so on; CB and RTE share "hypothesis:".
    assert starts["hypothesis"] == pytest.approx(100, abs=35)
    assert starts["passage"] == pytest.approx(50, abs=25)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_examples_tasks_show_texts_beside_the_same_scores(release, spiece, split):
    with settings.using(data_dir=release, vocabulary=spiece):
        task = seqio.TaskRegistry.get("super_glue_rte_v102_examples")
        examples = wsc_split(task.name, split)
    predictions = [
        task.postprocess_fn(text, example=example, is_target=False)
        for text, example in zip(("entailment", "maybe"), examples, strict=True)
    ]
    targets = [
        task.postprocess_fn(
            tfds_offline.decoded(example["targets_pretokenized"]), example=example, is_target=True
        )
        for example in examples
    ]
    accuracy, shown = (metric(targets, predictions) for metric in task.predict_metric_fns)
    assert accuracy == {"accuracy": 50.0}
    everything, wrong = (text.textdata for text in shown.values())
    assert "prediction: maybe" in wrong
    assert "prediction: entailment" in everything
    assert "prediction: entailment" not in wrong
    assert "rte hypothesis: The heron slept." in wrong


MALFORMED = {
    "BoolQ": '{"question": "q", "passage": "p", "idx": 0, "label": tr',
    "CB": '{"premise": "p", "hypothesis": "h", "idx": 0}',
    "COPA": '{"premise": "p", "choice1": "a", "choice2": "b", "question": "c", "label": 2}',
    "MultiRC": '{"idx": 0, "passage": {"text": "t", "questions": [{"idx": 0, "answers": []}, {}]}}',
    "ReCoRD": '{"idx": 0, "passage": {"text": "t", "entities": [{"start": 1}]}, "qas": []}',
    "RTE": '["premise"]',
    "WiC": '{"word": "w", "sentence1": null, "sentence2": "s", "idx": 0, "label": true}',
    "WSC": '{"text": "t", "target": [], "idx": 0, "label": true}',
}


@pytest.mark.parametrize("folder", MALFORMED)
def test_a_malformed_line_is_named(folder, release, tmp_path):
    good = (release / f"superglue/{folder}/train.jsonl").read_text()
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "train.jsonl").write_text(good + MALFORMED[folder] + "\n")
    name = {"WSC": "wsc.fixed"}.get(folder, folder.lower())
    source = seqio.TaskRegistry.get(f"super_glue_{name}_v102").source
    line = good.count("\n") + 1
    with (
        settings.using(data_dir=tmp_path),
        pytest.raises(ValueError, match=rf"{folder}/train\.jsonl:{line}: .*"),
    ):
        source.get_dataset("train")


PROBLEM = "The bee saw it.\nit\nThe bee,The flower\nThe flower\n\n"


def test_pronoun_problems_are_those_of_tfds(tmp_path):
    (tmp_path / "dpr").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"dpr/{split}.c.txt").write_text(PROBLEM * 2)
    source = seqio.TaskRegistry.get("dpr_v001_simple").source
    name = "definite_pronoun_resolution:1.1.0"
    with tfds_offline.tfds_from_release(name, tmp_path / "dpr", tmp_path / "tfds"):
        for split in source.splits:
            with settings.using(data_dir=None):
                theirs = source.get_dataset(split)
            with settings.using(data_dir=tmp_path):
                tfds_offline.assert_same_records(source.get_dataset(split), theirs)


def test_a_malformed_pronoun_problem_is_named(tmp_path):
    (tmp_path / "dpr").mkdir()
    (tmp_path / "dpr/train.c.txt").write_text(PROBLEM + "The bee saw it.\nit\nThe bee\n")
    with pytest.raises(ValueError, match=r"train\.c\.txt:6: malformed problem"):
        list(DprRelease().records(tmp_path, "train"))
