"""What tasks are told when a run starts: their data directory and the model's vocabulary."""

import gzip
import json
import os
import subprocess
import sys
import zipfile

import pytest
import sentencepiece
from common import GOLDENS, NEEDS_DATA_EXTRA

from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.settings.task_config import TaskConfig, load_task
from prompt_tuning_jax.vocabularies import load_vocabulary

pytestmark = pytest.mark.data
seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
tf = pytest.importorskip("tensorflow", reason=NEEDS_DATA_EXTRA)
seqio_task = pytest.importorskip("prompt_tuning_jax.data.seqio_source").seqio_task
registration = pytest.importorskip("prompt_tuning_jax.tasks.registration")
release = pytest.importorskip("prompt_tuning_jax.tasks.release")
settings = pytest.importorskip("prompt_tuning_jax.tasks.settings")

SPIECE = BUNDLED / "spiece.model"
TEXT = tf.TensorSpec((), tf.string)


class Lines:
    """A reader of `words/SPLIT.txt`, "input<tab>target" a line."""

    splits = ("train", "validation")
    signature = {"inputs": TEXT, "targets": TEXT}  # noqa: RUF012

    def records(self, root, split):
        for _, line in release.lines(release.found(root, ["words"], [f"{split}.txt"])):
            inputs, targets = line.split("\t")
            yield {"inputs": inputs, "targets": targets}


@pytest.fixture(scope="module", autouse=True)
def tasks():
    """Two tasks that follow the settings, and a mixture with one that does not."""
    source = registration.ReleaseOrTfds("no_such_data:1.0.0", Lines())
    registration.add("words_task", source, [], verbalizers=("yes", "no"))
    registration.add("words_again", source, [], verbalizers=("yes", "no"))
    registration.add_mixture("words_mixture", ["words_task", "words_again"])
    own = seqio.Feature(seqio.ByteVocabulary())
    features = {"inputs": own, "targets": own}
    seqio.TaskRegistry.add("own_bytes", source, output_features=features)
    registration.add_mixture("words_and_bytes", {"words_task": 3.0, "own_bytes": 1.0})
    yield
    for name in ("words_task", "words_again", "own_bytes"):
        seqio.TaskRegistry.remove(name)
    for name in ("words_mixture", "words_and_bytes"):
        seqio.MixtureRegistry.remove(name)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "words").mkdir()
    for split, rows in (("train", 5), ("validation", 2)):
        lines = [f"the word {i}\t{'yes' if i % 2 else 'no'}\n" for i in range(rows)]
        (tmp_path / "words" / f"{split}.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def unset(monkeypatch):
    for variable in settings.ENVIRONMENT.values():
        monkeypatch.delenv(variable, raising=False)
    with settings.using(data_dir=None, vocabulary=None):
        yield


@pytest.mark.usefixtures("unset")
def test_what_is_told_goes_before_the_environment(monkeypatch):
    assert settings.data_dir() is None
    monkeypatch.setenv("PROMPT_TUNING_DATA_DIR", "from the environment")
    assert settings.data_dir() == "from the environment"
    settings.use(data_dir="told")
    assert settings.data_dir() == "told"
    settings.use(vocabulary=SPIECE)
    assert settings.data_dir() == "told"


@pytest.mark.usefixtures("unset")
def test_a_block_puts_back_what_was():
    settings.use(data_dir="before")
    with settings.using(data_dir="within"):
        settings.use(data_dir="changed within")
        assert settings.data_dir() == "changed within"
    assert settings.data_dir() == "before"


@pytest.mark.slow
def test_importing_tasks_reads_nothing(tmp_path):
    code = "import prompt_tuning_jax.tasks.super_glue, prompt_tuning_jax.tasks.glue"
    places = {name: str(tmp_path / "nowhere") for name in settings.ENVIRONMENT.values()}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **places})


@pytest.mark.usefixtures("unset")
def test_every_form_of_a_vocabulary_gives_the_same_ids():
    text = "a film that <extra_id_0> moves <extra_id_99> slowly"
    expected = load_vocabulary(SPIECE)
    seqios = seqio.SentencePieceVocabulary(str(SPIECE), 100)
    for chosen in (SPIECE, str(SPIECE), expected, seqios):
        settings.use(vocabulary=chosen)
        vocabulary = seqio.TaskRegistry.get("words_task").output_features["inputs"].vocabulary
        assert vocabulary.encode(text) == expected.encode(text)
        assert vocabulary.vocab_size == expected.size


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("name", ["byt5", "madlad", "resized", "umt5"])
def test_a_vocabulary_of_any_files_makes_the_ids_of_a_task(data, name):
    vocabulary = load_vocabulary(GOLDENS / "families" / name)
    settings.use(data_dir=data)
    task = seqio_task("words_task", "prompt_tuning_jax.tasks.registration", vocabulary)
    example = next(task.split("train").stream(seed=None, epoch=0))
    assert example["inputs"].tolist() == vocabulary.framed(vocabulary.encode("the word 0"))
    made = settings.vocabulary()
    assert (made.vocab_size, made.eos_id) == (vocabulary.size, vocabulary.eos_id)
    ids = [example["inputs"], vocabulary.framed(vocabulary.encode("a word"))]
    texts = made.decode_tf(tf.ragged.constant([each for each in map(list, ids)]).to_tensor())
    assert [text.decode() for text in texts.numpy()] == [vocabulary.decode(each) for each in ids]
    settings.use(vocabulary=str(GOLDENS / "families" / name))
    assert settings.vocabulary() == made


@pytest.mark.usefixtures("unset")
def test_texts_that_begin_with_a_special_token_are_not_seqios():
    settings.use(vocabulary=load_vocabulary(GOLDENS / "families" / "codet5p"))
    with pytest.raises(ValueError, match=r"begins each text with '<s>'.*files of your own"):
        settings.vocabulary()


@pytest.mark.usefixtures("unset")
def test_a_model_file_that_holds_extra_ids_gets_no_more(tmp_path):
    """As mT5's published spiece.model does."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words of a text", "and some more of them"] * 5),
        model_prefix=str(tmp_path / "with_ids"),
        vocab_size=140,
        hard_vocab_limit=False,
        user_defined_symbols=[f"▁<extra_id_{i}>" for i in reversed(range(100))],
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path / "with_ids.model"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    for chosen in (path, load_vocabulary(path)):
        settings.use(vocabulary=chosen)
        assert settings.vocabulary().vocab_size == pieces


@pytest.mark.usefixtures("unset")
def test_the_same_task_serves_one_model_after_another(data):
    task = seqio.TaskRegistry.get("words_task")
    settings.use(data_dir=data, vocabulary=SPIECE)
    first = next(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    settings.use(vocabulary=seqio.ByteVocabulary())
    second = next(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    assert first["inputs"].tolist() == [*load_vocabulary(SPIECE).encode("the word 0"), 1]
    assert second["inputs"].tolist() == [*(byte + 3 for byte in b"the word 0"), 1]


@pytest.mark.usefixtures("unset")
def test_a_run_names_its_data_dir_and_model_only(data):
    class Model:
        vocabulary = load_vocabulary(SPIECE)

    module = "prompt_tuning_jax.tasks.registration"
    config = TaskConfig(task="words_mixture", task_module=module, data_dir=str(data))
    task = load_task(config, Model.vocabulary)
    assert task.verbalizers == ("yes", "no")
    assert len(list(task.split("validation").stream(seed=None, epoch=0))) == 4
    assert len(task.splits["train"]) == 10


@pytest.mark.usefixtures("unset")
def test_a_task_with_its_own_data_takes_no_data_dir():
    with pytest.raises(ValueError, match="'own_bytes' chooses its own data"):
        seqio_task("own_bytes", data_dir="data")


@pytest.mark.usefixtures("unset")
def test_a_mixture_of_vocabularies_is_refused():
    settings.use(vocabulary=SPIECE)
    with pytest.raises(
        ValueError, match=r"'words_and_bytes' has tasks with different vocabularies: own_bytes "
    ):
        seqio_task("words_and_bytes")
    with pytest.raises(ValueError, match="'own_bytes' does not use the model's vocabulary"):
        seqio_task("words_and_bytes", vocabulary=load_vocabulary(SPIECE))


def test_a_mixture_of_unknown_tasks_is_refused():
    with pytest.raises(ValueError, match=r"not registered: \['words_tsk'\]"):
        registration.add_mixture("broken_mixture", ["words_task", "words_tsk"])


@pytest.mark.usefixtures("unset")
def test_a_wrong_vocabulary_is_named(tmp_path):
    task = seqio.TaskRegistry.get("words_task")
    settings.use(vocabulary=tmp_path / "none.model")
    with pytest.raises(FileNotFoundError, match=r"none\.model.*PROMPT_TUNING_VOCABULARY"):
        _ = task.output_features["inputs"]
    (tmp_path / "text.model").write_text("no model")
    settings.use(vocabulary=tmp_path / "text.model")
    with pytest.raises(ValueError, match=r"text\.model"):
        _ = task.output_features["inputs"]


@pytest.mark.usefixtures("unset")
def test_wrong_places_and_splits_are_named(data):
    source = seqio.TaskRegistry.get("words_task").source
    settings.use(data_dir=data / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"elsewhere\. Set data_dir or PROMPT_TUNING_"):
        source.get_dataset("train")
    for place in (None, data):
        with (
            settings.using(data_dir=place),
            pytest.raises(ValueError, match="no split 'dev'; it has train, validation"),
        ):
            source.get_dataset("dev")
    settings.use(data_dir=data)
    (data / "words/train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"No release file at .*words/train\.txt"):
        source.get_dataset("train")


def test_a_typo_in_a_task_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'taskless_super_glue_boolq_v102'"):
        seqio_task("taskles_super_glue_boolq_v102", "prompt_tuning_jax.tasks.super_glue")


ROWS = [{"a": i, "text": "word " * 50} for i in range(40)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def pack(root, form):
    """Writes JSONL as `Set/train.jsonl` in one of the forms it is released in."""
    if form == "zip":
        with zipfile.ZipFile(root / "Set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/Set/train.jsonl", "not this")
            archive.writestr("Set/train.jsonl", JSONL)
        return root / "Set.zip"
    path = root / "Set" / ("train.jsonl.gz" if form == "gzip" else "train.jsonl")
    path.parent.mkdir()
    path.write_bytes(gzip.compress(JSONL.encode()) if form == "gzip" else JSONL.encode())
    return path


def read(root):
    return [row for _, row in release.json_lines(release.found(root, ["Set"], ["train.jsonl"]))]


@pytest.mark.parametrize("form", ["folder", "zip", "gzip"])
def test_a_release_is_read_packed_or_not(form, tmp_path):
    pack(tmp_path, form)
    assert read(tmp_path) == ROWS


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("folder", r"train\.jsonl:\d+: malformed line, not JSON"),
        ("zip", r"Set\.zip is no complete zip archive"),
        ("gzip", r"train\.jsonl\.gz: incomplete archive"),
    ],
)
def test_a_half_downloaded_release_is_named(form, words, tmp_path):
    path = pack(tmp_path, form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{words}.*download it again"):
        read(tmp_path)


def test_a_damaged_archive_is_named(tmp_path):
    path = pack(tmp_path, "zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"Set/train.jsonl", 90) + 40] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"Set\.zip.*download it again"):
        read(tmp_path)


def test_empty_and_unreadable_files_are_named(tmp_path):
    path = pack(tmp_path, "folder")
    path.write_text("")
    with pytest.raises(ValueError, match=r"train\.jsonl is empty"):
        read(tmp_path)
    path.write_bytes(b'{"a": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl:1: not UTF-8"):
        read(tmp_path)


@pytest.mark.usefixtures("unset")
def test_where_tfds_fails_the_other_way_is_named(tmp_path):
    source = seqio.TaskRegistry.get("words_task").source  # TFDS has no such data set
    with pytest.raises(Exception, match="no_such_data") as raised:
        source.get_dataset("train")
    assert "set data_dir or PROMPT_TUNING_DATA_DIR" in raised.value.__notes__[0]
    seqio.set_tfds_data_dir_override(str(tmp_path))
    source = registration.ReleaseOrTfds("super_glue/cb:1.0.2", Lines())
    assert source.num_input_examples("train") is None
    seqio.set_tfds_data_dir_override(None)
