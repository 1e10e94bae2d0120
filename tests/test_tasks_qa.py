"""SQuAD and MRQA: release files, texts, scores, and what is said of bad ones."""

import gzip
import json
import shutil

import pytest
from common import GOLDENS, NEEDS_DATA_EXTRA, NEEDS_SHARED, shared_dir

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
tf = pytest.importorskip("tensorflow", reason=NEEDS_DATA_EXTRA)

from prompt_tuning_jax.data.seqio_source import seqio_task  # noqa: E402
from prompt_tuning_jax.tasks import qa, settings  # noqa: E402

golden = json.loads((GOLDENS / "tasks" / "preprocessors.json").read_text(encoding="utf-8"))

LENGTHS = {"inputs": 128, "targets": 16}
SQUAD_ARTICLE = {
    "title": "Gardens",
    "paragraphs": [
        {
            "context": "The pond (built in 1901) is round.",
            "qas": [
                {
                    "id": "a",
                    "question": "What is round?",
                    "answers": [
                        {"text": "The pond", "answer_start": 0},
                        {"text": "pond", "answer_start": 4},
                    ],
                },
                {
                    "id": "b",
                    "question": "When was it built?",
                    "answers": [{"text": "1901", "answer_start": 19}],
                },
            ],
        }
    ],
}
MRQA_LINES = [
    {"header": {"dataset": "BioASQ", "split": "dev"}},
    {
        "context": " Moss grows on stones. ",
        "qas": [
            {"qid": "m0", "question": " What grows? ", "answers": ["Moss", "moss"]},
            {"qid": "m1", "question": "Where?", "answers": ["on stones"]},
        ],
    },
    {
        "context": "Ferns like shade.",
        "qas": [{"qid": "m2", "question": "Who likes shade?", "answers": ["Ferns"]}],
    },
]


@pytest.fixture
def root(tmp_path, vocabulary):
    """A data directory, chosen, with SQuAD and the evaluation part of BioASQ."""
    (tmp_path / "squad").mkdir()
    for name in ("train", "dev"):
        text = json.dumps({"version": "1.1", "data": [SQUAD_ARTICLE]})
        (tmp_path / "squad" / f"{name}-v1.1.json").write_text(text)
    write_mrqa(tmp_path / "mrqa" / "BioASQ.jsonl")
    with settings.using(data_dir=tmp_path, vocabulary=vocabulary):
        yield tmp_path


def write_mrqa(path, lines=MRQA_LINES):
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def examples(name, split="validation"):
    dataset = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, split, shuffle=False)
    return list(dataset.as_numpy_iterator())


def texts(name, split="validation"):
    return [
        (e["inputs_pretokenized"].decode(), e["targets_pretokenized"].decode())
        for e in examples(name, split)
    ]


def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return [plain(each) for each in value] if hasattr(value, "__len__") else value


@pytest.mark.parametrize("name", ["squad", "mrqa"])
def test_texts_are_those_of_the_reference(name):
    for raw, expected in zip(golden[name]["raw"], golden[name]["t5"], strict=True):
        dataset = tf.data.Dataset.from_tensors(raw)
        (made,) = getattr(qa, name)(dataset).as_numpy_iterator()
        assert {field: plain(value) for field, value in made.items()} == expected


def test_squads_release_becomes_tfds_records(root):
    source = seqio.TaskRegistry.get("squad_v010_allanswers").source
    records = list(source.get_dataset("train", shuffle=False).as_numpy_iterator())
    assert [r["id"] for r in records] == [b"a", b"b"]
    assert records[0]["answers"]["text"].tolist() == [b"The pond", b"pond"]
    assert records[0]["answers"]["answer_start"].tolist() == [0, 4]
    assert records[1]["title"] == b"Gardens"
    assert source.num_input_examples("train") == 2
    assert texts("squad_v010_allanswers") == [
        ("question: What is round ? context: The pond ( built in 1901 ) is round . ", "The pond"),
        ("question: When was it built ? context: The pond ( built in 1901 ) is round . ", "1901"),
    ]


@pytest.mark.parametrize("path", ["BioASQ.jsonl", "dev/BioASQ.jsonl.gz"])
@pytest.mark.parametrize("header", [True, False])
def test_mrqa_release(root, path, header):
    (root / "mrqa" / "BioASQ.jsonl").unlink()
    write_mrqa(root / "mrqa" / path, MRQA_LINES if header else MRQA_LINES[1:])
    assert texts("mrqa_bio_asq_v100") == [
        ("question: What grows ? context: Moss grows on stones . ", "Moss"),
        ("question: Where ? context: Moss grows on stones . ", "on stones"),
        ("question: Who likes shade ? context: Ferns like shade . ", "Ferns"),
    ]
    source = seqio.TaskRegistry.get("mrqa_bio_asq_v100").source
    record = next(source.get_dataset("validation", shuffle=False).as_numpy_iterator())
    assert (record["subset"], record["context"]) == (b"BioASQ", b"Moss grows on stones.")


def test_in_domain_sets_have_a_training_part(root):
    write_mrqa(root / "mrqa" / "train" / "NaturalQuestionsShort.jsonl.gz")
    write_mrqa(root / "mrqa" / "dev" / "NaturalQuestionsShort.jsonl.gz", MRQA_LINES[:2])
    assert len(texts("mrqa_natural_questions_v100", "train")) == 3
    assert len(texts("mrqa_natural_questions_v100")) == 2
    assert list(seqio.get_mixture_or_task("mrqa_drop_v100").splits) == ["validation"]


def test_every_set_and_shift_is_registered():
    for name in qa.OUT_OF_DOMAIN:
        for suffix in ("", "_examples"):
            members = {f"{qa.SQUAD}{suffix}", f"mrqa_{name}_v100{suffix}"}
            mixture = seqio.MixtureRegistry.get(f"squad_to_{name}{suffix}")
            assert {task.name for task in mixture.tasks} == members
    assert len(qa.IN_DOMAIN) == len(qa.OUT_OF_DOMAIN) == 6
    assert len(seqio.MixtureRegistry.get("mrqa_v100").tasks) == 12
    assert len(seqio.MixtureRegistry.get("squad_to_mrqa_examples").tasks) == 7


def test_a_shift_trains_on_squad_alone_and_scores_both(root, vocabulary):
    task = seqio_task("squad_to_bio_asq", "prompt_tuning_jax.tasks.qa", vocabulary, LENGTHS)
    stream = task.split("train").stream(seed=0, epoch=0)
    seen = {vocabulary.decode(next(stream)["inputs"].tolist()) for _ in range(20)}
    assert len(seen) == 2
    targets = [e["target_text"] for e in task.split("validation").stream(seed=None, epoch=0)]
    answers = {"The pond": "pond", "1901": "in 1901"}
    scores = task.score(targets, [answers.get(target, str(target)) for target in targets])
    assert scores["squad_v010_allanswers/em"] == 50
    assert scores["squad_v010_allanswers/f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert scores["mrqa_bio_asq_v100/em"] == 100


def test_the_examples_form_shows_predictions_beside_the_same_scores(root):
    task = seqio.get_mixture_or_task("mrqa_bio_asq_v100_examples")
    found = examples("mrqa_bio_asq_v100_examples")
    targets = [task.postprocess_fn("", example=each, is_target=True) for each in found]
    predictions = [task.postprocess_fn("moss", example=each, is_target=False) for each in found]
    score, show = task.predict_metric_fns
    assert score(targets, predictions)["em"] == pytest.approx(100 / 3)
    shown = show(targets, predictions)
    assert any("Who likes shade" in text.textdata for text in shown.values())


def test_bad_files_are_named(root):
    squad = root / "squad" / "dev-v1.1.json"
    with pytest.raises(FileNotFoundError, match=r"mrqa/dev/DROP\.jsonl.*unset the data directory"):
        examples("mrqa_drop_v100")
    squad.write_text(squad.read_text()[:-40])
    with pytest.raises(ValueError, match=r"dev-v1\.1\.json:1: not JSON.*download it again"):
        examples("squad_v010_allanswers")
    unanswered = json.loads(json.dumps(SQUAD_ARTICLE))
    unanswered["paragraphs"][0]["qas"][1]["answers"] = []
    squad.write_text(json.dumps({"data": [unanswered]}))
    with pytest.raises(ValueError, match=r"question b has no answers.*SQuAD 1\.1"):
        examples("squad_v010_allanswers")
    squad.write_text(json.dumps({"data": [{"title": "Gardens"}]}))
    with pytest.raises(ValueError, match="no 'paragraphs'"):
        examples("squad_v010_allanswers")
    squad.write_text("[]")
    with pytest.raises(ValueError, match="where an object should be"):
        examples("squad_v010_allanswers")


def test_bad_lines_and_archives_are_named(root):
    path = root / "mrqa" / "BioASQ.jsonl"
    whole = path.read_text().splitlines()
    for line, message in (
        (whole[1][:50], "not JSON"),
        (json.dumps({"context": 3, "qas": []}), "'context' is 3 and no str"),
        (json.dumps({"context": "a", "qas": [{"answers": []}]}), "'answers' must be texts"),
        (json.dumps({"context": "a", "qas": ["b"]}), "'b' where an object should be"),
    ):
        path.write_text("\n".join([whole[0], line]) + "\n")
        with pytest.raises(ValueError, match=rf"BioASQ\.jsonl:2: malformed.*{message}"):
            examples("mrqa_bio_asq_v100")
    path.unlink()
    archive = root / "mrqa" / "dev" / "BioASQ.jsonl.gz"
    write_mrqa(archive, MRQA_LINES * 50)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"BioASQ\.jsonl\.gz: incomplete archive"):
        examples("mrqa_bio_asq_v100")


def test_an_unknown_split_is_named(root):
    with pytest.raises(ValueError, match="validation"):
        examples("mrqa_bio_asq_v100", "train")


@pytest.mark.skipif(shared_dir() is None, reason=NEEDS_SHARED)
def test_the_real_files(tmp_path):
    data = shared_dir() / "data"
    records = list(qa.SquadRelease().records(data, "validation"))
    assert len(records) == len({record["id"] for record in records}) == 10570
    assert sum(len(record["answers"]["text"]) for record in records) == 34726
    for record in records[::50]:
        for text, start in zip(*record["answers"].values(), strict=True):
            assert record["context"][start : start + len(text)] == text
    (tmp_path / "mrqa").mkdir()
    shutil.copy(data / "mrqa" / "NewsQA_sample.jsonl", tmp_path / "mrqa" / "NewsQA.jsonl")
    news = qa.MrqaRelease(qa.IN_DOMAIN["news_qa"], ("validation",))
    assert len(list(news.records(tmp_path, "validation"))) == 17
