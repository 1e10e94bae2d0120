"""Vocabulary: seqio's ids without TensorFlow, sentinels, and clear errors on bad files."""

import io

import pytest
import sentencepiece
from common import NEEDS_DATA_EXTRA, NEEDS_SHARED, shared_dir

from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, SpecialIds, load_vocabulary

WORDS = "the river runs down to a small town where people sell bread fish and apples every day"
TEXTS = [
    "the river runs",
    "",
    "  two   spaces\tand\na newline ",
    "naïve café “quoted” … 東京 🙂 ½ ﬁ",
    "I like <extra_id_0> and <extra_id_1>ly bread <extra_id_99>",
    "jel<extra_id_3> in a word",
    "<extra_id_0>",
    "<pad> </s> <unk> <extra_id_100>",
]


def train_model(**overrides) -> bytes:
    """A tiny unigram model with T5's special ids."""
    model = io.BytesIO()
    settings = {"vocab_size": 60, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 3),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **(settings | overrides),
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    path.write_bytes(train_model())
    return path


@pytest.fixture(scope="module")
def vocabulary(model_path):
    return load_vocabulary(model_path)


@pytest.fixture(scope="module")
def t5_model_path():
    path = shared_dir() and shared_dir() / "data/t5/sentencepiece.model"
    if not path or not path.is_file():
        pytest.skip(NEEDS_SHARED)
    return path


def test_text_survives_the_round_trip(vocabulary):
    assert vocabulary.decode(vocabulary.encode(WORDS)) == WORDS


def test_special_ids(vocabulary):
    assert vocabulary.eos_id == 1
    assert vocabulary.eos_id not in vocabulary.encode(WORDS)


def test_sentinels_stand_at_the_end_in_reverse(vocabulary):
    assert vocabulary.sentinel(0) == vocabulary.size - 1
    assert vocabulary.sentinel(99) == vocabulary.size - 100
    assert vocabulary.id_to_piece(vocabulary.size - 1) == "▁<extra_id_0>"
    assert vocabulary.encode("<extra_id_7>") == [vocabulary.sentinel(7)]
    with pytest.raises(ValueError, match="extra ids"):
        vocabulary.sentinel(100)


def test_number_of_extra_ids(model_path, vocabulary):
    without = SentencePieceVocabulary(model_path.read_bytes(), extra_ids=0)
    assert without.size == vocabulary.size - 100
    assert without.fingerprint != vocabulary.fingerprint
    with pytest.raises(ValueError, match="extra_ids"):
        SentencePieceVocabulary(model_path.read_bytes(), extra_ids=-1)


def test_model_that_brings_its_own_extra_ids(vocabulary):
    pieces = ["▁<extra_id_1>", "▁<extra_id_0>"]  # as in mT5's published model
    own = SentencePieceVocabulary(train_model(user_defined_symbols=pieces), extra_ids=0)
    assert own.extra_ids == 2
    assert own.encode("<extra_id_1>") == [own.sentinel(1)]
    assert SentencePieceVocabulary(own.model_bytes, extra_ids=2).size == own.size


def test_decode_stops_at_eos_and_drops_padding(vocabulary):
    river = vocabulary.encode("the river")
    assert vocabulary.decode([0, *river, 0, 1, *river, 0]) == "the river"
    assert vocabulary.decode([]) == ""


def test_decode_reads_ids_past_the_table_as_unknown(vocabulary):
    # Embedding tables are padded to a multiple of 128, so a model can emit such an id.
    assert vocabulary.decode([vocabulary.size + 5]) == vocabulary.decode([vocabulary.unk_id])


def test_fingerprint_is_of_the_model(vocabulary, model_path):
    assert SentencePieceVocabulary(model_path.read_bytes()).fingerprint == vocabulary.fingerprint
    other = SentencePieceVocabulary(train_model(user_defined_symbols=["xyz"]))
    assert other.fingerprint != vocabulary.fingerprint


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"spiece\.model"):
        load_vocabulary(tmp_path / "none.model")


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_corrupt_file_names_it(tmp_path, model_path, cut):
    path = tmp_path / "cut.model"
    path.write_bytes(model_path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"cut\.model"):
        load_vocabulary(path)


def test_file_of_another_kind(tmp_path):
    path = tmp_path / "text.model"
    path.write_bytes(b"\x93NUMPY this is no vocabulary" * 30)
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        load_vocabulary(path)


def test_special_ids_are_the_models():
    """MADLAD's order; it pads with <s>, as its tokenizer_config.json says."""
    model = train_model(pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    vocabulary = SentencePieceVocabulary(model)
    assert vocabulary.special == SpecialIds(pad=1, eos=2, start=1, bos=1, unk=0)
    assert vocabulary.framed([5]) == [5, 2]
    assert vocabulary.decode([5, 1, 6, 2, 7]) == vocabulary.decode([5, 6])


def test_a_model_without_an_end_is_refused():
    with pytest.raises(ValueError, match="no token that ends a sequence"):
        SentencePieceVocabulary(train_model(eos_id=-1))


def test_t5s_own_vocabulary(t5_model_path):
    vocabulary = load_vocabulary(t5_model_path)
    assert vocabulary.size == 32100
    assert vocabulary.sentinel(0) == 32099
    assert vocabulary.encode("a sentence of words") == [3, 9, 7142, 13, 1234]


@pytest.mark.data
@pytest.mark.parametrize("extra_ids", [0, 100])
@pytest.mark.parametrize("which", ["model_path", "t5_model_path"])
def test_ids_are_seqios(request, which, extra_ids):
    seqio = pytest.importorskip("seqio", reason=NEEDS_DATA_EXTRA)
    path = request.getfixturevalue(which)
    theirs = seqio.SentencePieceVocabulary(str(path), extra_ids=extra_ids)
    ours = SentencePieceVocabulary(path.read_bytes(), extra_ids)
    assert ours.size == theirs.vocab_size
    for text in [*TEXTS, WORDS]:
        assert ours.encode(text) == list(theirs.encode(text)), text
    rows = [theirs.encode(text) for text in TEXTS] + [[3, 0, 4, 1, 5], [ours.size + 3, 5]]
    for ids in rows:
        assert ours.decode(ids) == theirs.decode(ids), ids
