"""From a predicted text to what a metric compares, as T5 does it.

Each is a function (text, example=None, is_target=False). SeqIO calls it with the text of every
target (`is_target=True`) and of every prediction, and with the example both belong to, whose fields
are arrays and bytes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Postprocessor = Callable[..., Any]
Example = Mapping[str, Any]

INVALID = -1
"""What stands for a prediction that is no legal label."""

# fmt: off
DETERMINERS = frozenset({
    "a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our",
    "some", "that", "the", "their", "these", "this", "those", "which", "whose", "your",
})
# fmt: on
SENTINEL = "<extra_id_0>"


def label(
    text: str, example: Example | None = None, is_target: bool = False, *, labels: Sequence[str]
) -> int:
    """The position of `text` among the labels, to the letter; -1 if it is none of them."""
    del example, is_target
    return labels.index(text) if text in labels else INVALID


def label_of(labels: Sequence[str]) -> Postprocessor:
    """`label` for these labels."""
    return functools.partial(label, labels=tuple(labels))


def number(text: str, example: Example | None = None, is_target: bool = False) -> float:
    """The number that `text` spells; -1 if it spells none (STS-B)."""
    del example, is_target
    try:
        return float(text)
    except ValueError:
        return float(INVALID)


def multirc(text: str, example: Example | None = None, is_target: bool = False) -> dict[str, Any]:
    """{"value": 0, 1 or -1}, and for a target the "group": its question (`idx/question`)."""
    found = {"value": label(text, labels=("False", "True"))}
    return found | {"group": int(example["idx/question"])} if is_target else found


def record(text: str, example: Example | None = None, is_target: bool = False) -> dict[str, Any]:
    """{"value": the text}; for a target, all of the query's `answers`, and the "group": the query
    (`idx/passage`, `idx/query`), because each answer makes an example of its own."""
    if not is_target:
        return {"value": text}
    group = (int(example["idx/passage"]), int(example["idx/query"]))
    return {"value": _texts(example["answers"]), "group": group}


def qa(text: str, example: Example | None = None, is_target: bool = False) -> str | list[str]:
    """The text; for a target, all of the question's `answers`."""
    return _texts(example["answers"]) if is_target else text


def _texts(answers: Sequence[str | bytes]) -> list[str]:
    return [_text(answer) for answer in answers]


def _text(text: str | bytes) -> str:
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)


def wsc(text: str, example: Example | None = None, is_target: bool = False) -> int:
    """1 if the predicted words are those of the candidate (`targets_pretokenized`), else 0; for a
    target, its `label`.

    Case and determiners do not matter, and either may hold words that the other lacks. But a name
    is not its possessive, and a prediction of no words matches nothing: it is -1.
    """
    if is_target:
        return int(example["label"])
    predicted, candidate = _content(text), _content(_text(example["targets_pretokenized"]))
    if not predicted:
        return INVALID
    if ("'" in predicted) != ("'" in candidate):
        return 0
    predicted_words, candidate_words = set(predicted.split(" ")), set(candidate.split(" "))
    return int(predicted_words <= candidate_words or candidate_words <= predicted_words)


def _content(text: str) -> str:
    words = text.strip().lower().split(" ")
    return " ".join(word for word in words if word not in DETERMINERS)


def translated(word: str, into: str, then: Postprocessor) -> Postprocessor:
    """`then`, after `word` is replaced in the text: one task's answers in another's words."""

    def postprocess(text: str, example: Example | None = None, is_target: bool = False) -> Any:
        return then(text.replace(word, into), example=example, is_target=is_target)

    return postprocess


def without_sentinel(then: Postprocessor) -> Postprocessor:
    """`then`, after the sentinel that begins the texts of a span-corruption model is removed."""

    def postprocess(text: str, example: Example | None = None, is_target: bool = False) -> Any:
        text = text.removeprefix(SENTINEL).lstrip()
        return then(text, example=example, is_target=is_target)

    return postprocess
