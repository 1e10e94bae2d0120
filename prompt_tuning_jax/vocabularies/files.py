"""The files that a vocabulary may come in, and what they say about special and added tokens."""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_tuning_jax.json_values import json_object

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "spiece.model"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
BPE_VOCAB, BPE_MERGES = "vocab.json", "merges.txt"
NAMES = (TOKENIZER, SENTENCEPIECE, CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, BPE_VOCAB, BPE_MERGES)
# What is read with a file that is named: a tokenizer.json has the fingerprint of the spiece.model
# beside it, and the two files of a BPE are one vocabulary.
_BESIDE = {TOKENIZER: (SENTENCEPIECE,), BPE_VOCAB: (BPE_MERGES,), BPE_MERGES: (BPE_VOCAB,)}

FETCH = "Fetch it again."
ROLES = ("bos", "eos", "unk", "pad")
_FRAMES = {"bos": "cls", "eos": "sep"}
SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")
_SENTINEL = re.compile(r"<extra_id_\d+>")  # special whether or not a file says so
# What transformers' classes take for granted where a file names no such token.
T5_TOKENS = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
GPT2_TOKENS = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
CLASS_TOKENS = {
    "BertTokenizer": {"bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]", "pad": "[PAD]"},
    "ByT5Tokenizer": T5_TOKENS,
    "MT5Tokenizer": T5_TOKENS,
    "T5Tokenizer": T5_TOKENS,
    "RobertaTokenizer": T5_TOKENS | {"bos": "<s>"},
}


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text as it stands, before the text is cut into pieces.

    Attributes:
      lstrip, rstrip: whether it takes the white space before or after it along.
      single_word: whether it is found only where no letter touches it.
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = True
    normalized: bool = False


@dataclasses.dataclass(frozen=True)
class VocabularyFiles:
    """The bytes of a vocabulary's files, by their names.

    Attributes:
      place: the directory, or the file that was named; errors begin with it.
    """

    place: str
    contents: Mapping[str, bytes]

    @classmethod
    def of(cls, path: Path) -> "VocabularyFiles":
        """Those in a directory; or a file, whatever it is called, and those that belong to it."""
        if path.is_dir():
            found = {name: path / name for name in NAMES if (path / name).is_file()}
        else:
            own = path.name if path.name in NAMES else _kind(path)
            beside = (CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, *_BESIDE.get(own, ()))
            found = {
                name: path.with_name(name) for name in beside if path.with_name(name).is_file()
            }
            found[own] = path
        return cls(str(path), {name: file.read_bytes() for name, file in found.items()})

    def __contains__(self, name: str) -> bool:
        return name in self.contents

    def __getitem__(self, name: str) -> bytes:
        return self.contents[name]

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty where there is no such file."""
        if name not in self.contents:
            return {}
        return json_object(self.contents[name], f"{self.place} ({name})", FETCH)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the files as they came."""
        for name, content in self.contents.items():
            (Path(directory) / name).write_bytes(content)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        return self.json(CONFIG)

    @property
    def tokenizer_class(self) -> str | None:
        """The tokenizer's class in transformers, without the ending that version 4 gave it."""
        name = self.config.get("tokenizer_class")
        return name.removesuffix("Fast") if isinstance(name, str) else None

    @functools.cached_property
    def special_tokens(self) -> dict[str, str]:
        """ "bos", "eos", "unk", "pad" -> the token's text, for those that the files name."""
        found = dict(CLASS_TOKENS.get(self.tokenizer_class or "", {}))
        for described in (self.json(SPECIAL_TOKENS), self.config):
            for role in ROLES:
                token = described.get(f"{role}_token")
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str):
                    found[role] = content
        for role, other in _FRAMES.items():  # BERT's has no other begin and end than its frame
            content = self.config.get(f"{other}_token")
            content = content.get("content") if isinstance(content, dict) else content
            if role not in found and isinstance(content, str):
                found[role] = content
        return found

    @functools.cached_property
    def added_tokens(self) -> dict[int, AddedToken]:
        """Id -> token, of added_tokens.json and tokenizer_config.json's `added_tokens_decoder`.

        Raises:
          ValueError: a file has something else where tokens should be.
        """
        found, named = {}, self._named_special()
        for content, token in self.json(ADDED_TOKENS).items():
            number = self._id(ADDED_TOKENS, token)
            special = content in named or _SENTINEL.fullmatch(content) is not None
            plain = AddedToken(content, special=special, normalized=not special)
            found[number] = named.get(content, plain)
        decoder = self.config.get("added_tokens_decoder") or {}
        for token, facts in decoder.items() if isinstance(decoder, dict) else ():
            found[self._id(CONFIG, token)] = self._added(facts)
        return dict(sorted(found.items()))

    def _named_special(self) -> dict[str, AddedToken]:
        """Content -> token, of those that a file or the tokenizer's class calls special."""
        values: list[Any] = [*CLASS_TOKENS.get(self.tokenizer_class or "", {}).values()]
        for name, value in [*self.json(SPECIAL_TOKENS).items(), *self.config.items()]:
            if name.endswith("_token"):
                values.append(value)
            elif name in SPECIAL_LISTS and isinstance(value, list | dict):
                values += value.values() if isinstance(value, dict) else value
        found: dict[str, AddedToken] = {}
        for value in values:
            if isinstance(value, str):
                found.setdefault(value, AddedToken(value))
            elif isinstance(value, dict) and isinstance(value.get("content"), str):
                found[value["content"]] = self._added(value | {"special": True})
        return found

    def _id(self, name: str, value: Any) -> int:
        try:
            return int(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"{self.place} ({name}) gives an added token the id {value!r}. {FETCH}"
            ) from None

    def _added(self, facts: Any) -> AddedToken:
        if not isinstance(facts, dict) or not isinstance(facts.get("content"), str):
            raise ValueError(
                f"{self.place} ({CONFIG}) describes an added token as {facts!r}. {FETCH}"
            )
        flags = ("lstrip", "rstrip", "single_word", "special", "normalized")
        return AddedToken(facts["content"], **{f: bool(facts.get(f)) for f in flags})


def _kind(path: Path) -> str:
    """The name that a file under another one should have, by what it holds."""
    with path.open("rb") as file:
        return TOKENIZER if file.read(1) == b"{" else SENTENCEPIECE
