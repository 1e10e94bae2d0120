"""Which words a unigram model cuts in one way only, by a margin that no rounding can reach.

SentencePiece adds the scores of a text's pieces in float32 from its beginning. Where two ways to
cut a word score nearly alike, the digits that the sum has lost by then decide between them, so such
a word may have other pieces late in a text than it has alone.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

# Sums in a text of this length are below 32,768, where float32 rounds by 0.001 at most; the two
# ways through a word of this length round 2 * 24 times.
LONGEST_TEXT, LONGEST_WORD, MARGIN = 1024, 24, 0.05
_LOWEST = -32.0  # of a score, for that
_UNKNOWN_PENALTY = 10.0  # of SentencePiece, below its lowest score, for a character it has not
_NEVER = -1e9


def clear_words(words: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """The words whose best pieces score more than the second best by MARGIN.

    Args:
      words: without white space, at most LONGEST_WORD characters.
      scores: those of all pieces; `▁` begins a word.
    """
    unknown = min(scores.values()) - _UNKNOWN_PENALTY
    longest = max(map(len, scores))
    clear: list[str] = []
    if unknown < _LOWEST:
        return clear
    for _, group in itertools.groupby(sorted(words, key=len), key=len):
        alike = list(group)
        margins = _margins([f"▁{word}" for word in alike], scores, unknown, longest)
        clear += itertools.compress(alike, (margins > MARGIN).tolist())
    return clear


def _margins(
    words: Sequence[str], scores: Mapping[str, float], unknown: float, longest: int
) -> np.ndarray:
    """Best score minus second best [W] of words of one length: Viterbi's algorithm, for both."""
    length, get = len(words[0]), scores.get
    best = np.full((length + 1, 2, len(words)), _NEVER)  # [end, best or second, word]
    best[0, 0] = 0
    for end in range(1, length + 1):
        starts = range(max(0, end - longest), end)
        pieces = np.array(
            [
                [get(word[start:end], unknown if start == end - 1 else _NEVER) for word in words]
                for start in starts
            ]
        )
        ways = best[starts.start : end] + pieces[:, None]  # [start, best or second, word]
        best[end] = -np.partition(-ways.reshape(-1, len(words)), 1, axis=0)[:2]
    return best[length, 0] - best[length, 1]
