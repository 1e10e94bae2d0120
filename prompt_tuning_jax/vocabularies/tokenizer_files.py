"""What the `tokenizers` library reads: `tokenizer.json`, or a vocab.json with its merges.txt.

The file's own normaliser, pre-tokenizer, model, added tokens and decoder count. What differs from
the file, or from transformers 5:

- Truncation and padding, which the file keeps from the last call before it was saved, are off.
- T5Tokenizer and MT5Tokenizer: transformers 5 makes the pre-tokenizer anew (white space separates
  words, whatever there is of it) and ends every text in EOS; so does SentencePiece, with which
  these models were trained, and so does this. (SentencePiece only knows the white space that the
  model's rules map to a space; here it is all of Unicode's, as in transformers.)
- A unigram model's unknown id. transformers 5 writes 2 for every T5Tokenizer, which in MADLAD's
  files is `</s>`: an unknown character would end the text. Where the file's unknown id is its EOS,
  the token that is called unknown counts, as in SentencePiece.
- Bytes. A unigram model with a piece for each byte was trained by SentencePiece to spell what it
  does not know in bytes. transformers 5 turns that off for T5Tokenizer; here it is on.
- A special token that only tokenizer_config.json knows: transformers appends it to the vocabulary.
  Here the end of a sequence must be in the vocabulary, and other such tokens are left out.
- `clean_up_tokenization_spaces`: transformers takes the space before a full stop or in "do n't" out
  of what is decoded. Here texts are as the model wrote them.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from prompt_tuning_jax.vocabularies.files import (
    BPE_MERGES,
    BPE_VOCAB,
    FETCH,
    T5_TOKENS,
    TOKENIZER,
    VocabularyFiles,
)

T5_CLASSES = ("T5Tokenizer", "MT5Tokenizer")
_WORD = "▁"
# In JSON a quote within a text has a backslash before it, so these are keys.
_UNKNOWN_ID = re.compile(r'(?<!\\)"unk_id"\s*:\s*(\d+)')
_BYTE_FALLBACK = re.compile(r'(?<!\\)"byte_fallback"\s*:\s*(true|false)')


def read_tokenizer(files: VocabularyFiles) -> tokenizers.Tokenizer:
    """The tokenizer of a model's files.

    Raises:
      ValueError: a file is corrupt, or of a kind that this version of `tokenizers` does not know.
    """
    tokenizer = _from_json(files) if TOKENIZER in files else _from_merges(files)
    _add_tokens(tokenizer, files)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    tokenizer.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
    return tokenizer


def pre_tokenizer_types(tokenizer: tokenizers.Tokenizer) -> set[str]:
    """What cuts a text before the model does, by the names that the files have for it."""
    return {part["type"] for part in _parts(tokenizer.pre_tokenizer, "pretokenizers")}


def normalizer_types(tokenizer: tokenizers.Tokenizer) -> set[str]:
    """What changes a text first."""
    return {part["type"] for part in _parts(tokenizer.normalizer, "normalizers")}


def begins_anew_at_spaces(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether each word of a text is cut as if it stood alone.

    What stands before the split can mark or join words. After it each word is cut by itself, but
    for Metaspace's "first", which marks only the word that a text begins with.
    """
    parts = _parts(tokenizer.pre_tokenizer, "pretokenizers")
    splits_first = bool(parts) and parts[0]["type"] == "WhitespaceSplit"
    return splits_first and all(part.get("prepend_scheme") != "first" for part in parts)


def _parts(component: Any, name: str) -> list[dict[str, Any]]:
    """The members of a sequence and of those in it, or what stands alone, as JSON has them."""
    return [] if component is None else _members(json.loads(component.__getstate__()), name)


def _members(state: dict[str, Any], name: str) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [member for part in state[name] for member in _members(part, name)]


def _from_json(files: VocabularyFiles) -> tokenizers.Tokenizer:
    try:
        text = files[TOKENIZER].decode()
    except UnicodeDecodeError as error:
        raise _unreadable(files, TOKENIZER, error) from error
    tokenizer = _parsed(text, files)
    if isinstance(tokenizer.model, models.Unigram):
        spells = all(tokenizer.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256))
        trained = _as_trained(text, tokenizer, files, spells)
        tokenizer = tokenizer if trained == text else _parsed(trained, files)
        if files.tokenizer_class in T5_CLASSES:
            _make_t5(tokenizer, spells)
    return tokenizer


def _parsed(text: str, files: VocabularyFiles) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise _unreadable(files, TOKENIZER, error) from error


def _unreadable(files: VocabularyFiles, name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{files.place} ({name}) cannot be read ({error}). The file may be cut short, or written "
        f"by a later version of the tokenizers library than {tokenizers.__version__}. {FETCH}"
    )


def _as_trained(
    text: str, tokenizer: tokenizers.Tokenizer, files: VocabularyFiles, spells: bool
) -> str:
    """A unigram model's file with the right unknown id, and with bytes if it `spells` in them."""
    stored = _UNKNOWN_ID.search(text)
    names = T5_TOKENS | files.special_tokens
    unknown, eos = (tokenizer.token_to_id(names[role]) for role in ("unk", "eos"))
    if stored and int(stored[1]) == eos and unknown not in (None, eos):
        text = _UNKNOWN_ID.sub(f'"unk_id":{unknown}', text, count=1)
    if not spells:
        return text
    if _BYTE_FALLBACK.search(text):
        return _BYTE_FALLBACK.sub('"byte_fallback":true', text, count=1)
    return _UNKNOWN_ID.sub(r'\g<0>,"byte_fallback":true', text, count=1)


def _make_t5(tokenizer: tokenizers.Tokenizer, spells: bool) -> None:
    """Everything but the pieces as transformers 5 has it for a T5Tokenizer."""
    if normalizer_types(tokenizer) - {"Precompiled"}:
        maps = [
            part.get("precompiled_charsmap") for part in _parts(tokenizer.normalizer, "normalizers")
        ]
        found = [normalizers.Precompiled(base64.b64decode(m)) for m in maps if m]
        tokenizer.normalizer = found[0] if found else normalizers.Sequence([])
    words = pre_tokenizers.Metaspace(_WORD, prepend_scheme="always", split=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    if spells:
        spaces, first = decoders.Replace(_WORD, " "), decoders.Strip(" ", 1, 0)
        parts = [spaces, decoders.ByteFallback(), decoders.Fuse(), first]
        tokenizer.decoder = decoders.Sequence(parts)
    else:
        tokenizer.decoder = decoders.Metaspace(_WORD, prepend_scheme="always", split=True)


def _from_merges(files: VocabularyFiles) -> tokenizers.Tokenizer:
    """The byte-level tokenizer of GPT-2 and RoBERTa; the latter's class frames texts."""
    lines = files[BPE_MERGES].decode(errors="replace").splitlines()
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    try:
        merges = [(first, second) for first, second in pairs]
        model = models.BPE(vocab=files.json(BPE_VOCAB), merges=merges)
    except Exception as error:  # the library raises nothing narrower
        raise _unreadable(files, f"{BPE_VOCAB}, {BPE_MERGES}", error) from error
    tokenizer = tokenizers.Tokenizer(model)
    prefix = bool(files.config.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    named = {token: tokenizer.token_to_id(token) for token in files.special_tokens.values()}
    tokenizer.add_special_tokens([token for token, number in named.items() if number is not None])
    if files.tokenizer_class == "RobertaTokenizer":
        tokenizer.post_processor = _between_bos_and_eos(tokenizer, files.special_tokens)
    return tokenizer


def _between_bos_and_eos(
    tokenizer: tokenizers.Tokenizer, names: Mapping[str, str]
) -> processors.PostProcessor | None:
    """What puts a text between the two, if the vocabulary has both."""
    bos, eos = (tokenizer.token_to_id(names[role]) for role in ("bos", "eos"))
    if bos is None or eos is None:
        return None
    return processors.RobertaProcessing((names["eos"], eos), (names["bos"], bos))


def _add_tokens(tokenizer: tokenizers.Tokenizer, files: VocabularyFiles) -> None:
    """Adds what the files beside the tokenizer add to it, where they say.

    Raises:
      ValueError: the library would give a token another id than the file.
    """
    known = tokenizer.get_added_tokens_decoder()
    for number, token in files.added_tokens.items():
        if number in known and known[number].content == token.content:
            continue
        flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
        added = AddedToken(
            token.content, normalized=token.normalized, special=token.special, **flags
        )
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([added])
        found = tokenizer.token_to_id(token.content)
        if found != number:
            raise ValueError(
                f"{files.place} adds {token.content!r} as id {number}, where the vocabulary has "
                f"room for it at {found}: these files are not of one tokenizer. {FETCH}"
            )
