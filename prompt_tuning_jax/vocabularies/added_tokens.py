"""Tokens that are found in a text as they stand, for vocabularies that have no such thing."""

import re
from collections.abc import Callable, Mapping, Sequence

from prompt_tuning_jax.vocabularies.files import AddedToken

Ids = list[int]


class AddedTokens:
    """Cuts texts at added tokens: the longest token at a place counts, as in transformers."""

    def __init__(self, tokens: Mapping[int, AddedToken]):
        longest_first = sorted(tokens, key=lambda number: -len(tokens[number].content))
        self._ids = longest_first
        self._pattern = re.compile("|".join(_pattern(tokens[number]) for number in longest_first))

    def encode_batch(
        self, texts: Sequence[str], encode_parts: Callable[[Sequence[str]], list[Ids]]
    ) -> list[Ids]:
        """Ids of each text; the parts between its added tokens are encoded each by itself."""
        cut = [self._cut(text) for text in texts]
        parts = [part for row in cut for part in row if isinstance(part, str)]
        encoded = iter(encode_parts(parts))
        return [
            [i for part in row for i in (next(encoded) if isinstance(part, str) else (part,))]
            for row in cut
        ]

    def _cut(self, text: str) -> list[str | int]:
        """The text's parts and, between them, ids of the tokens in it."""
        parts: list[str | int] = []
        start = 0
        for match in self._pattern.finditer(text):
            if match.start() > start:
                parts.append(text[start : match.start()])
            parts.append(self._ids[(match.lastindex or 0) - 1])
            start = match.end()
        return [*parts, text[start:]] if start < len(text) or not parts else parts


def _pattern(token: AddedToken) -> str:
    before, after = r"\s*" * token.lstrip, r"\s*" * token.rstrip
    found = f"({re.escape(token.content)})"
    found = rf"(?<!\w){found}(?!\w)" if token.single_word else found
    return before + found + after
