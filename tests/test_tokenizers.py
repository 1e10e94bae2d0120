"""Vocabularies of tokenizer.json, of vocab.json with merges.txt, and of bytes, against goldens."""

import json
import shutil

import numpy as np
import pytest
import tokenizers
from common import GOLDENS
from test_vocabulary import WORDS, train_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from prompt_tuning_jax.data.encoding import Encoder, encoder_features
from prompt_tuning_jax.vocabularies import (
    ByteVocabulary,
    SentencePieceVocabulary,
    SpecialIds,
    TokenizerVocabulary,
    has_vocabulary,
    load_vocabulary,
)

FAMILIES = GOLDENS / "families"
NAMES = ("byt5", "codet5p", "madlad", "resized", "ul2", "umt5")
# SentencePiece takes special tokens for text like any other, a thin space for no space, a word that
# begins with its own mark for two words, and a letter with two marks apart.
MARKS = ("</s>", "<pad>", "<unk>", "<s>", "\u2009", "▁", "\u0323")
CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,!?"


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def vocabulary(name):
    return load_vocabulary(FAMILIES / name)


@pytest.fixture(scope="module")
def golden(name):
    return json.loads((FAMILIES / name / "tokens.json").read_text())


def copied(name, directory, *files):
    """A directory with some files of a golden tokenizer, or with all of them."""
    directory.mkdir(exist_ok=True)
    for file in files or ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
        if (FAMILIES / name / file).is_file():
            shutil.copy(FAMILIES / name / file, directory)
    return directory


def edit(path, change):
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def right_ids(name, golden):
    """(text, ids) as the model was trained.

    transformers writes MADLAD's files without bytes, and makes what it does not know `</s>`.
    """
    for i, case in enumerate(golden["cases"]):
        ids = case["ids_without_special"]
        if name == "madlad" and str(i) in golden["sentencepiece_differs"]:
            if any(mark in case["text"] for mark in MARKS):
                continue
            ids = golden["sentencepiece_differs"][str(i)]
        yield case, ids


class TestGoldens:
    def test_ids(self, name, vocabulary, golden):
        cases, expected = zip(*right_ids(name, golden), strict=True)
        assert len(cases) >= 29
        texts = [case["text"] for case in cases]
        assert vocabulary.encode_batch(texts) == list(expected)
        for text, ids in zip(texts, expected, strict=True):
            assert vocabulary.encode(text) == ids, text
        # Many at once, as a task's texts are.
        assert vocabulary.encode_batch(texts * 9) == list(expected) * 9

    def test_the_frame(self, vocabulary, golden):
        for case in golden["cases"]:
            assert vocabulary.framed(case["ids_without_special"]) == case["ids"], case["text"]

    def test_special_ids(self, vocabulary, golden):
        assert vocabulary.size == golden["len"]
        for role in ("pad", "eos", "bos", "unk"):
            assert getattr(vocabulary, f"{role}_id") == golden[f"{role}_token_id"]

    def test_texts_of_ids(self, name, vocabulary, golden):
        for case, ids in right_ids(name, golden):
            if vocabulary.eos_id not in ids and ids == case["ids_without_special"]:
                assert vocabulary.decode(ids) == case["decoded"]
        for case in golden["decode"]:
            if vocabulary.eos_id not in case["ids"] and "<0x" not in case["decoded"]:
                assert vocabulary.decode(case["ids"]) == case["decoded"]

    def test_a_batch(self, vocabulary, golden):
        batch = golden["batch"]
        limits = {"inputs": batch["max_length"], "targets": 9}
        ids = Encoder(vocabulary, limits).batch([{"inputs": t} for t in batch["texts"]], "inputs")
        shape = np.array(batch["input_ids"]).shape
        made = encoder_features(ids, *shape, vocabulary)["encoder_input_tokens"]
        np.testing.assert_array_equal(made, batch["input_ids"])

    def test_the_models_own_inputs(self, name, vocabulary, golden):
        if not (FAMILIES / name / "io.npz").is_file():
            pytest.skip("only the tokenizer of this model is here")
        io = np.load(FAMILIES / name / "io.npz")
        limits = {"inputs": 40, "targets": 11}
        encoder, texts = Encoder(vocabulary, limits), {}
        for feature in limits:
            examples = [{feature: text} for text in golden[f"io_{feature}"]]
            texts[feature] = encoder.batch(examples, feature)
        for row, mask, own in zip(
            io["input_ids"], io["attention_mask"], texts["inputs"], strict=True
        ):
            assert row[mask > 0].tolist() == own
        for row, own in zip(io["labels"], texts["targets"], strict=True):
            assert row[row >= 0].tolist() == own

    def test_saved_and_read_again(self, name, vocabulary, golden, tmp_path):
        vocabulary.save(tmp_path)
        for file in tmp_path.iterdir():
            assert file.read_bytes() == (FAMILIES / name / file.name).read_bytes()
        again = load_vocabulary(tmp_path)
        texts = [case["text"] for case in golden["cases"]]
        assert again.encode_batch(texts) == vocabulary.encode_batch(texts)
        assert (again.special, again.fingerprint) == (vocabulary.special, vocabulary.fingerprint)

    def test_every_id_has_a_piece(self, vocabulary):
        assert all(vocabulary.id_to_piece(token) for token in range(vocabulary.size))
        with pytest.raises(ValueError, match="outside the vocabulary"):
            vocabulary.id_to_piece(vocabulary.size)

    def test_sentinels(self, name, vocabulary):
        for index in range(vocabulary.extra_ids):
            assert vocabulary.encode(f"<extra_id_{index}>") == [vocabulary.sentinel(index)]
        count = {"byt5": 125, "madlad": 0, "umt5": 300}.get(name, 100)
        assert vocabulary.extra_ids == count
        with pytest.raises(ValueError, match="extra ids"):
            vocabulary.sentinel(count)

    def test_ids_past_the_table_have_no_text(self, vocabulary):
        known = vocabulary.encode("the end")
        assert vocabulary.decode([*known, vocabulary.size + 9]) == vocabulary.decode(known)


# --- tokenizer.json


def test_an_unknown_character_does_not_end_a_text(tmp_path):
    """Files that call `</s>` unknown, of a model that cannot spell in bytes."""
    directory = copied("madlad", tmp_path / "madlad")
    text = (directory / "tokenizer.json").read_text()
    assert '"unk_id": 2' in text
    (directory / "tokenizer.json").write_text(text.replace("<0x", "<0y"))
    vocabulary = load_vocabulary(directory)
    ids = vocabulary.encode("before 東京 after")
    assert vocabulary.eos_id == 2
    assert 2 not in ids
    assert 0 in ids
    assert vocabulary.decode(ids) == "before  after"


def test_truncation_and_padding_of_the_last_call_are_forgotten(tmp_path):
    directory = copied("ul2", tmp_path / "ul2")
    kept = load_vocabulary(directory)
    assert len(kept.encode(WORDS)) > 6
    edit(directory / "tokenizer.json", lambda facts: facts.update(truncation=None, padding=None))
    assert load_vocabulary(directory).fingerprint == kept.fingerprint
    edit(directory / "tokenizer.json", lambda facts: facts["model"]["vocab"][40].__setitem__(1, -1))
    assert load_vocabulary(directory).fingerprint != kept.fingerprint


@pytest.mark.parametrize("name", ["T5Tokenizer", "T5TokenizerFast"])
def test_white_space_is_as_in_training_whoever_wrote_the_file(tmp_path, name):
    """transformers 4 wrote a T5's tokenizer.json with other rules for white space."""
    directory = copied("resized", tmp_path / "resized")
    expected = load_vocabulary(directory)

    def as_version_4(facts):
        spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
        facts["normalizer"] = {"type": "Sequence", "normalizers": [facts["normalizer"], spaces]}
        facts["pre_tokenizer"] = facts["pre_tokenizer"]["pretokenizers"][1]
        facts["post_processor"] = None

    edit(directory / "tokenizer.json", as_version_4)
    alone = Tokenizer.from_file(str(directory / "tokenizer.json"))
    edit(directory / "tokenizer_config.json", lambda facts: facts.update(tokenizer_class=name))
    read = load_vocabulary(directory)
    for text in (" two words ", "two  words", "\ttwo\n words", WORDS, "<task_a> of  it"):
        assert read.encode(text) == expected.encode(text)
        assert read.framed(read.encode(text))[-1] == read.eos_id
    assert alone.encode(" two words ").ids != expected.encode(" two words ")


def test_bos_and_eos_are_added_as_the_config_says(tmp_path):
    directory = copied("codet5p", tmp_path / "codet5p")
    for bos, eos in ((True, False), (False, True), (True, True)):
        flags = {"add_bos_token": bos, "add_eos_token": eos}
        edit(directory / "tokenizer_config.json", lambda facts, new=flags: facts.update(new))
        assert load_vocabulary(directory).framed([9]) == [1] * bos + [9] + [2] * eos


def save_letter(directory, single):
    """A tokenizer.json that knows one letter, which is no "a", and frames texts with `single`."""
    made = Tokenizer(models.BPE({"</s>": 0, "<s>": 1, "x": 2}, []))
    ends = [("</s>", 0), ("<s>", 1)]
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    made.save(str(directory / "tokenizer.json"))


@pytest.mark.parametrize(
    ("single", "framed"),
    [("<s> $A </s>", [1, 2, 0]), ("$A </s> <s>", [2, 0, 1]), ("<s> $A", [1, 2]), ("$A", [2])],
)
def test_the_frame_is_found_whatever_the_vocabulary_can_encode(tmp_path, single, framed):
    save_letter(tmp_path, single)
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.encode("a") == []
    assert vocabulary.framed(vocabulary.encode("x")) == framed


def test_a_frame_without_a_text_is_refused(tmp_path):
    save_letter(tmp_path, "<s> </s>")
    with pytest.raises(ValueError, match=r"\(tokenizer\.json\): its post_processor.*Fetch"):
        load_vocabulary(tmp_path)


def test_tokens_that_only_the_config_adds(tmp_path):
    directory = copied("resized", tmp_path / "resized")
    before = load_vocabulary(directory)

    def add(facts):
        facts["added_tokens_decoder"] = {str(before.size): {"content": "<more>", "special": True}}

    edit(directory / "tokenizer_config.json", add)
    more = load_vocabulary(directory)
    assert more.size == before.size + 1
    assert more.encode("a <more> a") == [*before.encode("a"), before.size, *before.encode("a")]
    assert more.fingerprint != before.fingerprint
    added = {"900": {"content": "<more>"}}
    edit(
        directory / "tokenizer_config.json", lambda facts: facts.update(added_tokens_decoder=added)
    )
    with pytest.raises(ValueError, match=r"adds '<more>' as id 900.*room for it at"):
        load_vocabulary(directory)


def test_files_that_cannot_be_read_are_named(tmp_path):
    directory = copied("resized", tmp_path / "resized")
    path = directory / "tokenizer.json"
    whole = path.read_bytes()
    for content in (whole[:-100], b"{}", b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"resized \(tokenizer\.json\) cannot be read.*Fetch"):
            load_vocabulary(directory)


def test_a_tokenizer_without_an_end_is_no_models(tmp_path):
    bert = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]"))
    bert.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"no file says what ends a sequence.*came with"):
        load_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(ValueError, match=r"'<end>', which should end a sequence, is not in"):
        load_vocabulary(tmp_path)


def test_gpt2s_end_is_known_though_no_file_names_it(tmp_path):
    """Its published tokenizer_config.json says the greatest length, and nothing of tokens."""
    pieces = {"a": 0, "b": 1, "<|endoftext|>": 2}
    Tokenizer(models.BPE(pieces, [])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    found = load_vocabulary(tmp_path)
    assert (found.eos_id, found.bos_id, found.framed([0])) == (2, 2, [0])


def test_dropout_of_merges_is_for_training_tokenizers(tmp_path):
    directory = copied("codet5p", tmp_path / "codet5p")
    expected = load_vocabulary(directory).encode(WORDS)
    edit(directory / "tokenizer.json", lambda facts: facts["model"].update(dropout=0.9))
    assert all(load_vocabulary(directory).encode(WORDS) == expected for _ in range(3))


def test_a_byte_level_piece_is_shown_as_text():
    vocabulary = load_vocabulary(FAMILIES / "codet5p")
    pieces = [vocabulary.id_to_piece(token) for token in vocabulary.encode("a ferry é")]
    assert "".join(pieces).replace("�", "").startswith("a▁ferry▁")


def split_in_two(directory):
    """vocab.json and merges.txt instead of a tokenizer.json, which is given."""
    whole = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").unlink()
    model = whole["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return whole


def test_vocab_and_merges_give_the_ids_of_the_tokenizer(tmp_path):
    directory = copied("codet5p", tmp_path / "codet5p")
    golden = json.loads((FAMILIES / "codet5p" / "tokens.json").read_text())
    expected = load_vocabulary(directory)
    whole = split_in_two(directory)
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    (directory / "added_tokens.json").write_text(json.dumps(added))
    special = {"additional_special_tokens": whole["added_tokens"]}  # and what they do to spaces
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
    read = load_vocabulary(directory)
    assert isinstance(read, TokenizerVocabulary)
    assert (read.special, read.prefix, read.suffix) == (expected.special, (1,), (2,))
    texts = [case["text"] for case in golden["cases"]]
    assert read.encode_batch(texts) == expected.encode_batch(texts)
    read.save(tmp_path)
    assert load_vocabulary(tmp_path).fingerprint == read.fingerprint
    (directory / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match=r"vocab\.json"):
        load_vocabulary(directory)


# --- beside a SentencePiece model


def save_as_tokenizer(model_bytes, path, *added):
    """A SentencePiece model as a tokenizer.json, with tokens added after the sentinels."""
    model = SentencePieceVocabulary(model_bytes)
    processor = model._processor
    pieces = [model.id_to_piece(i).replace("▁<", "<") for i in range(model.size)]
    scores = [processor.get_score(i) for i in range(model.size)]
    made = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=2))
    made.normalizer = normalizers.NFKC()
    metaspace = {"replacement": "▁", "prepend_scheme": "always"}
    made.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
    made.decoder = decoders.Metaspace(**metaspace)
    special = [piece for piece in pieces if piece.startswith("<")] + ["</s>"]
    made.add_special_tokens([tokenizers.AddedToken(piece, normalized=False) for piece in special])
    made.add_tokens(list(added))
    made.save(str(path))


@pytest.fixture
def both(tmp_path):
    """A directory with a spiece.model and the same as tokenizer.json."""
    model = train_model()
    (tmp_path / "spiece.model").write_bytes(model)
    save_as_tokenizer(model, tmp_path / "tokenizer.json")
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_tokenizer_json_counts_where_it_adds_tokens(both):
    model = load_vocabulary(both / "spiece.model")
    same = load_vocabulary(both)
    assert isinstance(same, TokenizerVocabulary)
    assert isinstance(model, SentencePieceVocabulary)
    assert same.encode(f"{WORDS} <extra_id_3>") == model.encode(f"{WORDS} <extra_id_3>")
    # Prompt files name the vocabulary that they were tuned with, from before there were two.
    assert same.fingerprint == model.fingerprint
    save_as_tokenizer(model.model_bytes, both / "tokenizer.json", "<ent>")
    more = load_vocabulary(both)
    assert more.encode("<ent> bread") == [model.size, *model.encode("bread")]
    assert more.fingerprint != model.fingerprint


@pytest.mark.parametrize("name", ["", "tokenizer.json", "spiece.model"])
def test_one_vocabulary_whichever_file_is_named(both, name):
    expected = load_vocabulary(both).fingerprint
    assert load_vocabulary(both / name).fingerprint == expected
    saved = both / "saved"
    saved.mkdir()
    load_vocabulary(both / name).save(saved)
    assert load_vocabulary(saved).fingerprint == expected


@pytest.mark.parametrize("config", [True, False])
def test_tokens_added_beside_a_sentencepiece_model(both, config):
    (both / "tokenizer.json").unlink()
    if not config:
        (both / "tokenizer_config.json").unlink()
    plain = load_vocabulary(both)
    size = plain.size
    (both / "added_tokens.json").write_text(json.dumps({"<ent>": size, "<extra_id_3>": size - 4}))
    added = load_vocabulary(both)
    assert (added.size, added.eos_id) == (size + 1, 1)
    bread, fish = plain.encode("bread"), plain.encode("fish")
    assert added.encode("<ent> bread<ent>fish") == [size, *bread, size, *fish]
    assert added.encode_batch(["bread", "", "<ent>"]) == [bread, [], [size]]
    assert added.decode([*fish, size, *bread]) == "fish<ent> bread"  # nothing calls it special
    assert added.id_to_piece(size) == "<ent>"
    assert added.fingerprint != plain.fingerprint
    saved = both / "saved"
    saved.mkdir()
    added.save(saved)
    again = load_vocabulary(saved)
    assert isinstance(again, SentencePieceVocabulary)
    assert (again.special, again.fingerprint) == (added.special, added.fingerprint)
    assert again.encode("<ent> bread<ent>fish") == [size, *bread, size, *fish]
    assert again.decode([*fish, size, *bread]) == "fish<ent> bread"
    for wrong in ({"<ent>": 7}, {"bread": size + 3, "</s>": 5}, {"<extra_id_0>": size + 1}):
        (both / "added_tokens.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"give '.*' the id \d+.*Save the tokenizer"):
            load_vocabulary(both)


def configure(directory, **changes):
    """Changes what a tokenizer_config.json says."""
    path = directory / "tokenizer_config.json"
    facts = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(facts | changes))


def added_tokens(first):
    """A token that is text, and the special one after it."""
    contents = enumerate((("<ent>", False), ("<sp>", True)), first)
    return {str(i): {"content": text, "special": special} for i, (text, special) in contents}


ADDED = ("a <ent> fish", "<ent> fish", "a fish<ent>", "a<ent>fish", "<ent><ent>", "<sp> a <ent>")


def test_added_tokens_that_are_not_special_are_text(both):
    """The spaces are those of the library."""
    model = load_vocabulary(both / "spiece.model")
    configure(both, added_tokens_decoder=added_tokens(model.size))
    library = load_vocabulary(both)
    (both / "tokenizer.json").unlink()
    vocabulary = load_vocabulary(both)
    for text in ADDED:
        ids = vocabulary.encode(text)
        assert ids == library.encode(text)
        assert vocabulary.decode(ids) == library.decode(ids), text
    fish, ent, special = vocabulary.encode("fish"), model.size, model.size + 1
    assert vocabulary.decode([*fish, ent, special, *fish, ent, 1, ent]) == "fish<ent> fish<ent>"
    assert vocabulary.decode([special, *fish]) == "fish"


@pytest.mark.parametrize("files", ["all", "spiece.model", "bytes"])
@pytest.mark.parametrize(
    ("file", "facts"),
    [
        ("special_tokens_map.json", {"additional_special_tokens": ["<ent>"]}),
        ("special_tokens_map.json", {"additional_special_tokens": [{"content": "<ent>"}]}),
        ("special_tokens_map.json", {"mask_token": "<ent>"}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "<ent>"}}),
        ("tokenizer_config.json", {"extra_special_tokens": ["</s>", "<ent>"]}),
        ("tokenizer_config.json", {"bos_token": {"content": "<ent>"}}),
    ],
)
def test_a_token_of_added_tokens_is_special_if_a_file_names_it(both, files, file, facts):
    if files == "bytes":
        (both / "spiece.model").unlink()
        configure(both, tokenizer_class="ByT5Tokenizer")
    if files != "all":
        (both / "tokenizer.json").unlink()
    size = load_vocabulary(both).size
    sentinels = {} if files == "all" else {"<extra_id_0>": load_vocabulary(both).sentinel(0)}
    (both / "added_tokens.json").write_text(json.dumps({"<ent>": size} | sentinels))
    plain = load_vocabulary(both)
    ids = plain.encode("a<ent>")
    assert ids[-1] == size
    assert plain.decode(ids) == "a<ent>"
    if file == "tokenizer_config.json":
        configure(both, **facts)
    else:
        (both / file).write_text(json.dumps(facts))
    named = load_vocabulary(both)
    assert named.encode("a<ent>") == ids
    assert named.decode(ids) == "a"
    assert named.fingerprint == plain.fingerprint
    if files == "bytes":
        assert named.decode(named.encode("a<extra_id_0>")) == "a"


def test_padding_named_by_the_config(tmp_path):
    """MADLAD pads with <s>, and has no sentinels."""
    model = train_model(pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "</s>"}
    (tmp_path / "spiece.model").write_bytes(model)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.special == SpecialIds(pad=2, eos=2, start=2, bos=1, unk=0)
    assert vocabulary.size == SentencePieceVocabulary(model, 0).size


# --- bytes


def test_bytes_need_no_file(tmp_path):
    assert not has_vocabulary(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json or spiece\.model"):
        load_vocabulary(tmp_path)
    (tmp_path / "config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert has_vocabulary(tmp_path)
    vocabulary = load_vocabulary(tmp_path)
    assert isinstance(vocabulary, ByteVocabulary)
    assert vocabulary.encode("né") == [113, 198, 172]
    assert vocabulary.decode([113, 198, 172, 1, 113]) == "né"
    assert (vocabulary.size, vocabulary.sentinel(0)) == (384, 259)
    assert [vocabulary.id_to_piece(i) for i in (0, 35, 113, 198)] == ["<pad>", "▁", "n", "<0xC3>"]
    vocabulary.save(tmp_path)
    assert load_vocabulary(tmp_path).fingerprint == vocabulary.fingerprint
    golden = load_vocabulary(FAMILIES / "byt5")
    assert golden.fingerprint == vocabulary.fingerprint


def test_tokens_added_to_bytes(tmp_path):
    tokens = {"<ent>": 384, "<extra_id_0>": 259}
    (tmp_path / "added_tokens.json").write_text(json.dumps(tokens))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.encode("a<ent>b <extra_id_0>") == [100, 384, 101, 35, 259]
    (tmp_path / "added_tokens.json").write_text('{"<ent>": 100}')
    with pytest.raises(ValueError, match="'<ent>' an id that ByT5 has for"):
        load_vocabulary(tmp_path)


def test_tokens_added_to_bytes_that_are_not_special_are_text(tmp_path):
    copied("byt5", tmp_path)
    facts = json.loads((tmp_path / "tokenizer_config.json").read_text())
    configure(tmp_path, added_tokens_decoder=facts["added_tokens_decoder"] | added_tokens(384))
    vocabulary = load_vocabulary(tmp_path)
    for text in ADDED:
        assert vocabulary.decode(vocabulary.encode(text)) == text.replace("<sp>", "")
    assert vocabulary.decode(vocabulary.encode("é<ent>é <extra_id_0>.")) == "é<ent>é ."
    assert vocabulary.decode([198, 384, 172]) == "<ent>"  # not the two halves of a letter
    assert vocabulary.decode([2, 384, 999]) == "<ent>"


# --- where a vocabulary is looked for


def test_a_slow_tokenizer_of_another_kind(tmp_path):
    config = {"tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=r"its BertTokenizer needs.*transformers 5"):
        load_vocabulary(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"spiece\.model or a tokenizer\.json"):
        load_vocabulary(tmp_path / "none")


def test_a_file_of_the_two_can_be_named(both):
    assert isinstance(load_vocabulary(both / "tokenizer.json"), TokenizerVocabulary)
    shutil.copy(both / "spiece.model", both / "sentencepiece.model")
    assert load_vocabulary(both / "sentencepiece.model").extra_ids == 100


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_either_of_vocab_and_merges_can_be_named(tmp_path, name):
    directory = copied("codet5p", tmp_path / "codet5p")
    split_in_two(directory)
    whole, named = load_vocabulary(directory), load_vocabulary(directory / name)
    assert named.encode_batch([WORDS]) == whole.encode_batch([WORDS])
    assert named.fingerprint == whole.fingerprint
    assert has_vocabulary(directory)
    other = directory / ({"vocab.json", "merges.txt"} - {name}).pop()
    other.unlink()
    assert not has_vocabulary(directory)
    for path in (directory, directory / name):
        lacks = rf": {name} needs {other.name} beside it.*Fetch it.*transformers 5"
        with pytest.raises(FileNotFoundError, match=lacks):
            load_vocabulary(path)


@pytest.mark.parametrize("name", ["mine.json", "mine"])
def test_a_tokenizer_json_is_known_by_what_it_holds(both, name):
    expected = load_vocabulary(both / "tokenizer.json").encode(WORDS)
    shutil.copy(both / "tokenizer.json", both / name)
    vocabulary = load_vocabulary(both / name)
    assert isinstance(vocabulary, TokenizerVocabulary)
    assert vocabulary.encode(WORDS) == expected
    (both / name).write_text("{")
    with pytest.raises(ValueError, match=rf"{name} \(tokenizer\.json\) cannot be read"):
        load_vocabulary(both / name)


def test_special_ids_of_the_models_config():
    vocabulary = load_vocabulary(FAMILIES / "madlad")
    assert (vocabulary.pad_id, vocabulary.start_id) == (1, 1)
    fitted = vocabulary.with_ids(start_id=0)
    assert (fitted.pad_id, fitted.start_id, vocabulary.start_id) == (1, 0, 1)
    assert vocabulary.with_ids(eos_id=5).framed([9]) == [9, 5]
    with pytest.raises(ValueError, match=r"eos id 470 is not among the vocabulary's 470 ids"):
        vocabulary.with_ids(eos_id=470)
