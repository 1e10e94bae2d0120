"""A vocabulary that the `tokenizers` library reads and runs."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence

import tokenizers
from tokenizers import models

from prompt_tuning_jax.vocabularies.files import (
    BPE_MERGES,
    BPE_VOCAB,
    CONFIG,
    FETCH,
    GPT2_TOKENS,
    SENTENCEPIECE,
    T5_TOKENS,
    TOKENIZER,
    VocabularyFiles,
)
from prompt_tuning_jax.vocabularies.many_texts import ByWords, Remembered
from prompt_tuning_jax.vocabularies.sentencepiece_model import SentencePieceVocabulary
from prompt_tuning_jax.vocabularies.tokenizer_files import (
    T5_CLASSES,
    begins_anew_at_spaces,
    normalizer_types,
    pre_tokenizer_types,
    read_tokenizer,
)
from prompt_tuning_jax.vocabularies.vocabulary import SpecialIds, Vocabulary, sentinels

_WORD = "▁"
# Classes that never look at `add_bos_token` and `add_eos_token`, though files may hold them.
_DEAF_TO_FLAGS = ("Qwen2Tokenizer",)
# These neither cut nor join anything in printable ASCII but at white space.
_PLAIN_NORMALIZERS = {"Precompiled", "NFC", "NFD", "NFKC", "NFKD", "Lowercase"}


class TokenizerVocabulary(Vocabulary):
    """What the `tokenizers` library makes of a model's files; see `tokenizer_files`."""

    def __init__(self, files: VocabularyFiles):
        """Builds from tokenizer.json, or from vocab.json and merges.txt.

        Raises:
          ValueError: a file is corrupt, or of a model that has no end of sequence.
        """
        self._files, self._tokenizer = files, read_tokenizer(files)
        special = _special_ids(self._tokenizer, files)
        super().__init__(special, *_frame(self._tokenizer, files, special), name=files.place)
        self._sentinels = sentinels(self._find_sentinel)
        self.extra_ids = len(self._sentinels)

    @functools.cached_property
    def size(self) -> int:
        added = self._tokenizer.get_added_tokens_decoder()
        return max([self.pieces - 1, *added]) + 1

    @functools.cached_property
    def pieces(self) -> int:
        if isinstance(self._tokenizer.model, models.BPE):  # whose ids may have gaps
            own = self._tokenizer.get_vocab(with_added_tokens=False).values()
            return max(own, default=-1) + 1
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    @functools.cached_property
    def fingerprint(self) -> str:
        """That of the spiece.model beside the file where both have the same pieces."""
        beside = self._same_as_beside()
        if beside is not None:
            return beside.fingerprint
        if TOKENIZER in self._files:
            facts = self._files.json(TOKENIZER)
            # These two change with each call that comes before saving.
            facts = {name: facts[name] for name in facts if name not in ("truncation", "padding")}
        else:
            facts = {name: self._files[name].decode() for name in (BPE_VOCAB, BPE_MERGES)}
        facts["added"] = [[i, token.content] for i, token in self._files.added_tokens.items()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._remembered.encode_batch(texts)
        if self.rows is not None and self.rows < self.size:
            self._refuse_ids_past(self.rows, encoded)
        return encoded

    def _refuse_ids_past(self, rows: int, encoded: list[list[int]]) -> None:
        past = next((token for ids in encoded for token in ids if token >= rows), None)
        if past is not None:
            raise ValueError(
                f"A text has the token {self.id_to_piece(past)!r}, which was added to this "
                f"vocabulary with the id {past}, but the model embeds only the ids 0 to "
                f"{rows - 1}: leave it out, or give the model's embedding a row for it."
            )

    def id_to_piece(self, token: int) -> str:
        if not 0 <= token < self.size:
            raise ValueError(f"Id {token} is outside the vocabulary of {self.size} ids.")
        piece = self._tokenizer.id_to_token(int(token))
        if piece is None:
            return f"<unused_{token}>"
        if "ByteLevel" in pre_tokenizer_types(self._tokenizer) and token not in self._added:
            return self._tokenizer.decoder.decode([piece]).replace(" ", _WORD)
        return piece

    def save(self, directory: str | os.PathLike[str]) -> None:
        self._files.save(directory)

    def _text(self, ids: list[int]) -> str:
        known = [token for token in ids if token >= 0]
        return self._tokenizer.decode(known, skip_special_tokens=True)

    def _sentinel(self, index: int) -> int:
        return self._sentinels[index]

    def _find_sentinel(self, name: str) -> int | None:
        found = self._tokenizer.token_to_id(name)  # mT5's are pieces that begin a word
        return self._tokenizer.token_to_id(_WORD + name) if found is None else found

    @functools.cached_property
    def _added(self) -> dict[int, str]:
        """Id -> text of the tokens that are found in a text as they stand."""
        tokens = self._tokenizer.get_added_tokens_decoder()
        return {token: added.content for token, added in tokens.items()}

    @functools.cached_property
    def _remembered(self) -> Remembered:
        def encode(texts: Sequence[str]) -> list[list[int]]:
            encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encoded]

        apart = begins_anew_at_spaces(self._tokenizer)
        if apart and normalizer_types(self._tokenizer) <= _PLAIN_NORMALIZERS:
            return Remembered(ByWords(encode, self._added.values()).encode_batch)
        return Remembered(encode)

    def _same_as_beside(self) -> SentencePieceVocabulary | None:
        """The vocabulary of the spiece.model beside the file, if every id is the same piece."""
        if SENTENCEPIECE not in self._files or TOKENIZER not in self._files:
            return None
        try:
            other = SentencePieceVocabulary.from_files(self._files)
        except ValueError:
            return None
        pieces = [_common_name(other.id_to_piece(i)) for i in range(other.size)]
        own = [_common_name(self._tokenizer.id_to_token(i)) for i in range(self.size)]
        return other if pieces == own else None


def _common_name(piece: str | None) -> str | None:
    """The piece, a sentinel as transformers calls it."""
    return piece.removeprefix(_WORD) if piece and "<extra_id_" in piece else piece


def _special_ids(tokenizer: tokenizers.Tokenizer, files: VocabularyFiles) -> SpecialIds:
    """The ids of the tokens that the files name, else of those called as T5's or GPT-2's are."""
    named = files.special_tokens
    for names in (T5_TOKENS | named, GPT2_TOKENS | named):
        found = {role: tokenizer.token_to_id(name) for role, name in names.items()}
        if (eos := found["eos"]) is not None:
            break
    else:
        why = f"no file says what ends a sequence, which {CONFIG} does"
        if "eos" in named:
            why = f"{named['eos']!r}, which should end a sequence, is not in this vocabulary"
        raise ValueError(
            f"{files.place}: {why}. Pass the tokenizer that came with the model, all of its files."
        )
    pad = found.get("pad")
    pad = eos if pad is None else pad
    return SpecialIds(pad, eos, pad, found.get("bos"), found["unk"])


def _frame(
    tokenizer: tokenizers.Tokenizer, files: VocabularyFiles, special: SpecialIds
) -> tuple[Sequence[int], Sequence[int]]:
    """The ids before and after a text's own.

    Raises:
      ValueError: the file's post-processor leaves the text itself out.
    """
    if files.tokenizer_class in T5_CLASSES:
        return (), (special.eos,)
    flags = {role: files.config.get(f"add_{role}_token") for role in ("bos", "eos")}
    is_obeyed = files.tokenizer_class not in _DEAF_TO_FLAGS
    if is_obeyed and any(flag is not None for flag in flags.values()):
        prefix = (special.bos,) if flags["bos"] and special.bos is not None else ()
        return prefix, (special.eos,) if flags["eos"] else ()
    # The frame has its own ids, so one known word shows it; the vocabulary itself may know none.
    shown = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    shown.post_processor = tokenizer.post_processor
    encoded = shown.encode("a")
    own = [i for i, is_frame in enumerate(encoded.special_tokens_mask) if not is_frame]
    if not own:
        raise ValueError(
            f"{files.place} ({TOKENIZER}): its post_processor leaves the text itself out. {FETCH}"
        )
    return encoded.ids[: own[0]], encoded.ids[own[-1] + 1 :]
