"""Tasks on the real data sets, where these are present: counts and labels of the official splits.

Run with the real T5 vocabulary too, so that the lengths and ids are those that a run on a published
model sees.
"""

import collections
import itertools

import pytest
from common import NEEDS_DATA_EXTRA, NEEDS_SHARED, shared_dir, slow

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(shared_dir() is None, reason=NEEDS_SHARED),
]
pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
seqio_source = pytest.importorskip("prompt_tuning_jax.data.seqio_source")
settings = pytest.importorskip("prompt_tuning_jax.tasks.settings")

LARGE = 10_000  # examples above which records are counted without making token ids of them
SUPER_GLUE, GLUE, QA = (f"prompt_tuning_jax.tasks.{m}" for m in ("super_glue", "glue", "qa"))

# (module, task) -> split -> examples by target, or their number where the target is free text.
SPLITS = {
    (SUPER_GLUE, "taskless_super_glue_cb_v102"): {
        "train": {"entailment": 115, "contradiction": 119, "neutral": 16},
        "validation": {"entailment": 23, "contradiction": 28, "neutral": 5},
    },
    (SUPER_GLUE, "taskless_super_glue_copa_v102"): {
        "train": {"choice1": 195, "choice2": 205},
        "validation": {"choice1": 55, "choice2": 45},
    },
    (SUPER_GLUE, "taskless_super_glue_rte_v102"): {
        "train": {"entailment": 1249, "not_entailment": 1241},
        "validation": {"entailment": 146, "not_entailment": 131},
    },
    (SUPER_GLUE, "taskless_super_glue_wic_v102"): {
        "train": {"True": 2714, "False": 2714},
        "validation": {"True": 319, "False": 319},
    },
    (SUPER_GLUE, "taskless_super_glue_multirc_v102"): {
        "train": {"True": 12025, "False": 27243 - 12025},
        "validation": {"True": 2075, "False": 4848 - 2075},
    },
    (SUPER_GLUE, "taskless_super_glue_boolq_v102"): {
        "train": {"True": 41, "False": 28},  # of 9427; the others are not in the copy
        "validation": {"True": 2033, "False": 1237},
    },
    # Trained on the referents that are right, evaluated on all.
    (SUPER_GLUE, "taskless_super_glue_wsc_v102_simple_train"): {"train": 259},
    (SUPER_GLUE, "taskless_super_glue_wsc_v102_simple_eval"): {"validation": 104},
    (GLUE, "taskless_glue_sst2_v002"): {
        "train": {"positive": 37569, "negative": 29780},
        "validation": {"positive": 444, "negative": 428},
    },
    (GLUE, "taskless_glue_mrpc_v002"): {
        "train": {"equivalent": 2474, "not_equivalent": 1194},
        "validation": {"equivalent": 279, "not_equivalent": 129},
        "test": {"<unk>": 1725},
    },
    (GLUE, "taskless_glue_qqp_v002"): {
        "train": {"not_duplicate": 2591, "duplicate": 1409},  # of 363,846
        "validation": {"not_duplicate": 623, "duplicate": 377},
    },
    (QA, "squad_v010_allanswers"): {"validation": 10570},
    (QA, "mrqa_news_qa_v100"): {"validation": 17},  # the release's sample
}
MANY = 200  # examples above which counting them takes long


def case(module, name, split, expected):
    count = expected if isinstance(expected, int) else sum(expected.values())
    mark = slow if count > MANY else pytest.param
    return mark(module, name, split, expected, id=f"{name}-{split}")


CASES = [
    case(*task, split, expected)
    for task, found in SPLITS.items()
    for split, expected in found.items()
]


@pytest.fixture(scope="module", autouse=True)
def release(tmp_path_factory):
    """The real files under their official names, and T5's vocabulary."""
    data = shared_dir() / "data"
    root = tmp_path_factory.mktemp("real")
    for name in ("superglue", "glue", "squad"):
        (root / name).symlink_to(data / name)
    (root / "mrqa/dev").mkdir(parents=True)
    (root / "mrqa/dev/NewsQA.jsonl").symlink_to(data / "mrqa/NewsQA_sample.jsonl")
    with settings.using(data_dir=str(root), vocabulary=str(data / "t5/sentencepiece.model")):
        yield root


@pytest.mark.parametrize(("module", "name", "split", "expected"), CASES)
def test_counts_and_labels_are_those_of_the_official_split(module, name, split, expected):
    task = seqio_source.seqio_task(name, module=module)
    source = task.split(split)
    if isinstance(expected, int):
        records = source.records() if expected > LARGE else source.stream(seed=None, epoch=0)
        assert sum(1 for _ in records) == expected
    elif sum(expected.values()) > LARGE:
        labels = (task.verbalizers[record["label"]] for record in source.records())
        assert collections.Counter(labels) == expected
    else:
        targets = (str(e["target_text"]) for e in source.stream(seed=None, epoch=0))
        assert collections.Counter(targets) == expected
        assert split == "test" or set(expected) == set(task.verbalizers)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_record_has_an_example_for_each_answer_and_a_record_for_each_query(split):
    task = seqio_source.seqio_task("taskless_super_glue_record_v102", module=SUPER_GLUE)
    source = task.split(split)
    records = list(source.records())
    assert len(records) == {"train": 43, "validation": 32}[split]
    examples = [e["target_text"].example for e in source.stream(seed=None, epoch=0)]
    if split == "train":
        assert len(examples) == sum(len(record["answers"]) for record in records)
    queries = {(int(e["idx/passage"]), int(e["idx/query"])) for e in examples}
    assert len(queries) == len(records)


def test_the_last_words_of_long_passages_are_not_lost_unseen():
    """Inputs are cut to the feature length with their EOS kept."""
    lengths = {"inputs": 128, "targets": 16}
    task = seqio_source.seqio_task(
        "taskless_super_glue_boolq_v102", module=SUPER_GLUE, feature_lengths=lengths
    )
    some = itertools.islice(task.split("validation").stream(seed=None, epoch=0), 200)
    rows = [example["inputs"] for example in some]
    assert max(map(len, rows)) == 128
    assert all(row[-1] == 1 for row in rows)
