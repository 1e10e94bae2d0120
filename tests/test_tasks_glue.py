"""GLUE's tasks: T5's texts, TFDS's records from release files, the files' traps, and mixtures."""

import json

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
registration = pytest.importorskip("prompt_tuning_jax.tasks.registration")
settings = pytest.importorskip("prompt_tuning_jax.tasks.settings")
glue = pytest.importorskip("prompt_tuning_jax.tasks.glue")
glue_release = pytest.importorskip("prompt_tuning_jax.tasks.glue_release")

GLUE = glue_release.GLUE
TEXTS = json.loads((GOLDENS / "tasks/preprocessors.json").read_text())
CASES = [name.split("/")[1] for name in TEXTS if name.startswith("glue/")]
LENGTHS = {"inputs": 256, "targets": 16}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return task_records.write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def spiece():
    return load_vocabulary(BUNDLED / "spiece.model")


@pytest.mark.parametrize("form", ["", "taskless_"])
@pytest.mark.parametrize("case", CASES)
def test_texts_are_t5s(case, form):
    golden = TEXTS[f"glue/{case}"]
    for version in glue.VERSIONS:
        task = seqio.TaskRegistry.get(f"{form}glue_{case}_{version}")
        expected = golden["taskless" if form else "t5"]
        assert tfds_offline.texts(task, golden["raw"], GLUE[case].signature) == expected


@pytest.mark.parametrize(
    ("name", "record", "inputs", "target"),
    [
        ("cola", {"sentence": "They left."}, "cola sentence: They left.", "acceptable"),
        (
            "mnli",
            {"premise": "It rains.", "hypothesis": "It is dry."},
            "mnli hypothesis: It is dry. premise: It rains.",
            "neutral",
        ),
        (
            "mnli_mismatched",
            {"premise": "It rains.", "hypothesis": "It is dry."},
            "mnli hypothesis: It is dry. premise: It rains.",
            "neutral",
        ),
        (
            "ax",
            {"premise": "It rains.", "hypothesis": "It is dry."},
            "mnli hypothesis: It is dry. premise: It rains.",
            "neutral",
        ),
        (
            "qnli",
            {"question": "Who?", "sentence": "She did."},
            "qnli question: Who? sentence: She did.",
            "not_entailment",
        ),
        (
            "wnli",
            {"sentence1": "A b.", "sentence2": "C d."},
            "wnli sentence1: A b. sentence2: C d.",
            "entailment",
        ),
    ],
)
def test_other_texts(name, record, inputs, target):
    raw = [record | {"label": 1, "idx": 4}]
    (found,) = tfds_offline.texts(
        seqio.TaskRegistry.get(f"glue_{name}_v200"), raw, GLUE[name].signature
    )
    assert found == {"inputs": inputs, "targets": target, "idx": 4}


@pytest.mark.parametrize(
    ("score", "target"),
    [(0.0, "0.0"), (5.0, "5.0"), (2.5, "2.4"), (2.7, "2.8"), (3.8, "3.8"), (-1.0, "-1.0")],
)
def test_similarity_is_rounded_to_a_fifth(score, target):
    raw = [{"sentence1": "a", "sentence2": "b", "label": score, "idx": 0}]
    (found,) = tfds_offline.texts(
        seqio.TaskRegistry.get("glue_stsb_v002"), raw, GLUE["stsb"].signature
    )
    assert found == {"inputs": "stsb sentence1: a sentence2: b", "targets": target, "idx": 0}


def test_task_indices_are_those_of_the_reference():
    assert TEXTS["task_index"]["glue"] == glue.INDICES


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


MRPC_HEADER = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
# Rows as the release has them: unbalanced quotation marks, rows cut short, blanks at the end.
TRAPS = {
    "SST-2/train.tsv": [("sentence", "label"), ('"a fine " film ', 1), ('a dull "one ', 0)],
    "QQP/train.tsv": [
        ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        (0, 1, 2, 'Is it "so?', "Is it?", 1),
        (1, 3, 4, "Cut off"),
        (2, 5, 6, "No label", "here", ""),
        (3, 7, 8, "Who?", "Which?", 0, "one cell too many"),
    ],
    "MRPC/msr_paraphrase_train.txt": [
        MRPC_HEADER,
        (1, 10, 11, 'She said "no', "She declined ."),
        (0, 12, 13, "Two", "Three"),
        (1, 14, 15, "Four", "4"),
    ],
    "MRPC/msr_paraphrase_test.txt": [MRPC_HEADER, (1, 20, 21, "Five", "5")],
    "MRPC/dev_ids.tsv": [(12, 13)],
    "CoLA/dev.tsv": [("gj04", 0, "*", 'Sang "Anna the.'), ("gj04", 1, "", "Anna sang.")],
}


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    """The made-up release with the traps of the real one."""
    root = task_records.write_release(tmp_path_factory.mktemp("traps"))
    for name, rows in TRAPS.items():
        write(root / "glue" / name, *rows)
    mrpc = root / "glue/MRPC/msr_paraphrase_train.txt"
    mrpc.write_bytes(b"\xef\xbb\xbf" + mrpc.read_bytes().replace(b"\n", b"\r\n"))
    return root


@pytest.mark.parametrize("name", [x if x in ("cola", "mnli", "mrpc") else slow(x) for x in GLUE])
def test_release_and_tfds_give_the_same_records(name, trapped, tmp_path):
    source = registration.ReleaseOrTfds(f"glue/{name}:2.0.0", GLUE[name])
    with tfds_offline.tfds_from_release(f"glue/{name}:2.0.0", trapped / "glue", tmp_path):
        for split in source.splits:
            with settings.using(data_dir=None):
                theirs, size = source.get_dataset(split), source.num_input_examples(split)
            with settings.using(data_dir=trapped):
                tfds_offline.assert_same_records(source.get_dataset(split), theirs)
                assert source.num_input_examples(split) == size


def test_quotation_marks_are_text_and_broken_rows_no_examples(trapped):
    records = list(GLUE["sst2"].records(trapped, "train"))
    assert [each["sentence"] for each in records] == ['"a fine " film ', 'a dull "one ']
    records = list(GLUE["qqp"].records(trapped, "train"))
    assert [(each["idx"], each["label"]) for each in records] == [(0, 1), (3, 0)]


def test_mrpc_comes_as_glue_packs_it_and_as_its_makers_do(release, trapped):
    ours = list(GLUE["mrpc"].records(release, "validation"))
    assert [each["label"] for each in ours] == [1, 0]
    ours = list(GLUE["mrpc"].records(trapped, "validation"))
    assert ours == [{"sentence1": "Two", "sentence2": "Three", "label": 0, "idx": 1}]
    assert [each["label"] for each in GLUE["mrpc"].records(trapped, "test")] == [-1]


@pytest.mark.parametrize(
    ("file", "row", "words"),
    [
        ("RTE/train.tsv", (7, "only a premise"), "no 'sentence2'"),
        ("RTE/train.tsv", (7, "premise", "hypothesis", "entailmen"), "label 'entailmen'"),
        ("SST-2/train.tsv", ("a film", 2), "label '2' is not negative, positive"),
        ("STS-B/dev.tsv", (*"0123456", "a", "b", "none"), "label 'none' is not a number"),
        ("CoLA/dev.tsv", ("gj04", 1), "no 'sentence'"),
        ("QQP/train.tsv", (1, 2, 3, "What"), "the last line is not complete"),
    ],
)
def test_a_malformed_row_is_named(file, row, words, release, tmp_path):
    good = (release / "glue" / file).read_text()
    bad = tmp_path / "glue" / file
    bad.parent.mkdir(parents=True)
    bad.write_text(good + "\t".join(map(str, row)))
    folder, name = file.split("/")
    reader = next(each for each in GLUE.values() if each.folder == folder)
    split = "train" if name == "train.tsv" else "validation"
    with pytest.raises(ValueError, match=rf"{name}:{good.count(chr(10)) + 1}: .*{words}"):
        list(reader.records(tmp_path, split))


def test_a_file_of_another_form_is_named(tmp_path):
    write(tmp_path / "glue/SST-2/train.tsv", ("a film", "1"), ("a book", "0"))
    with pytest.raises(ValueError, match=r"train\.tsv:2: .*no 'sentence'; it has a film, 1"):
        list(GLUE["sst2"].records(tmp_path, "train"))


@pytest.mark.parametrize("place", ["diagnostic/diagnostic.tsv", "AX/AX.tsv", "AX.tsv"])
def test_the_diagnostics_go_by_several_names(place, tmp_path):
    write(tmp_path / "glue" / place, ("index", "sentence1", "sentence2"), (0, "A", "B"))
    (record,) = GLUE["ax"].records(tmp_path, "test")
    assert record == {"premise": "A", "hypothesis": "B", "label": -1, "idx": 0}


@pytest.mark.skipif(shared_dir() is None, reason=NEEDS_SHARED)
@pytest.mark.parametrize("name", [slow("sst2"), "qqp"])
def test_real_files_are_read_as_tfds_reads_them(name, tmp_path):
    reader, root = GLUE[name], shared_dir() / "data"
    for split in ("train", "validation"):
        file = root / "glue" / reader.folder / reader.files[split][0]
        theirs = tfds_offline.generated(
            f"glue/{name}:2.0.0", tmp_path, data_file=file, split=file.stem
        )
        assert list(reader.records(root, split)) == theirs


def test_mnli_is_scored_on_both_validation_sets(release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        name = "taskless_glue_mnli_and_dev_v200"
        task = seqio_task(
            name,
            "prompt_tuning_jax.tasks.glue",
            vocabulary=spiece,
            feature_lengths=LENGTHS,
        )
        examples = list(task.split("validation").stream(seed=None, epoch=0))
        train = next(task.split("train").stream(seed=0, epoch=0))
    targets = [target_text(example, spiece) for example in examples]
    assert set(task.score(targets, targets)) == {
        "taskless_glue_mnli_matched_v200/accuracy",
        "taskless_glue_mnli_mismatched_v200/accuracy",
        "mean",
    }
    assert task.verbalizers == ("entailment", "neutral", "contradiction")
    assert spiece.decode(train["inputs"].tolist()).startswith("hypothesis:")


def test_a_mixture_is_proportional_to_size():
    mixture = seqio.MixtureRegistry.get("taskless_glue_v200_proportional")
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert rates["taskless_glue_mnli_v200"] == 392_702
    assert rates["taskless_glue_mnli_matched_v200"] == 0
    assert sum(rates.values()) == 949_101
    assert "taskless_glue_wnli_v200" not in rates


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("cola", {"matthews_corrcoef"}),
        ("stsb", {"pearson_corrcoef", "spearman_corrcoef"}),
        ("qqp", {"f1", "accuracy"}),
        ("wnli", {"accuracy"}),
    ],
)
def test_metrics_are_t5s(name, metrics, release, spiece):
    with settings.using(data_dir=release, vocabulary=spiece):
        task = seqio_task(f"glue_{name}_v200", vocabulary=spiece, feature_lengths=LENGTHS)
        examples = task.split("validation").stream(seed=None, epoch=0)
        targets = [target_text(example, spiece) for example in examples]
    scores = task.score(targets, targets)
    assert scores == pytest.approx(dict.fromkeys({*metrics, "mean"}, 100.0))
