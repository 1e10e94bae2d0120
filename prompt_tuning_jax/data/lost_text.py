"""What a vocabulary loses of a task's texts: characters it does not know, targets that it changes.

A model writes what its vocabulary decodes. A target with two spaces, a line end or a character that
the vocabulary lacks is never written as it stands, however well the model is tuned. A text that
spells the padding token holds padding, which nothing sees.

Where a target goes on from its input, nothing is put between the two but what the templates say; so
two words may become one, which is counted too.
"""

import collections
import functools
import itertools
import warnings
from collections.abc import Sequence
from typing import Any

from prompt_tuning_jax.data.task import FEATURES, Example, IndexedSource, Task
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.vocabularies import Vocabulary

LIMIT = 10_000  # examples looked at before training; of a source that is read in order, OF_STREAM
OF_STREAM = 256
SHOWN = 10  # characters that a warning names
DIFFERENT = 10_000  # characters told apart
WORD = 16  # characters of an input's end that are looked at with its target
_ENDS = ".,:;!?)"  # after these a word stands apart, as after a word


def as_written(text: str, vocabulary: Vocabulary) -> str:
    """The text that comes back: what a model could write of it at best."""
    return vocabulary.decode(vocabulary.encode(text))


class LostText:
    """Counts what is lost of examples' texts, one example at a time.

    Attributes:
      examples: how many were looked at.
      unknown: feature -> how many examples hold each unknown character.
      with_unknown: feature -> how many examples hold some.
      with_padding: feature -> how many examples spell the padding token.
      changed: how many targets come back otherwise.
      touching: how many targets follow a word without white space, as the model reads them.
      after_space: how many follow a space that belongs, by the vocabulary, to the word after it.
      first_unknown: feature -> the first text with one.
      first_padding: the same of the padding token.
      first_changed: the first such target, and what comes back.
      first_touching: the end of the first such input, with its target.
    """

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self.examples = self.changed = 0
        self.unknown: dict[str, collections.Counter[str]] = {
            feature: collections.Counter() for feature in FEATURES
        }
        self.with_unknown = dict.fromkeys(FEATURES, 0)
        self.with_padding = dict.fromkeys(FEATURES, 0)
        self.first_unknown: dict[str, str] = {}
        self.first_padding: dict[str, str] = {}
        self.first_changed: tuple[str, str] | None = None
        self.touching = self.after_space = 0
        self.first_touching: str | None = None
        self._is_unknown = functools.lru_cache(DIFFERENT)(self._lacks)
        # Labels come again and again.
        self._as_written = functools.lru_cache(1000)(lambda text: as_written(text, vocabulary))

    def add(self, example: Example) -> None:
        """Looks at the texts of an example; token ids have none."""
        self.examples += 1
        texts = {"inputs": example["inputs"], "targets": example["targets"]}
        texts["targets"] = example.get("target_text", texts["targets"])
        for feature, text in texts.items():
            if isinstance(text, str):
                self._look_at(feature, text)
        target = texts["targets"]
        if isinstance(target, str) and (back := self._as_written(str(target))) != target:
            self.changed += 1
            self.first_changed = self.first_changed or (str(target), back)

        if self._vocabulary.continues and isinstance(target, str):
            self._look_between(str(texts["inputs"]), str(target))

    def _look_between(self, text: str, target: str) -> None:
        encode, last = self._vocabulary.encode, text[-1:]
        tail = text[len(text.rstrip()[:-WORD]) :] if last.isspace() else text[-WORD:]
        ids = [*encode(tail), *encode(target)]
        if last == " ":
            self.after_space += ids != encode(tail + target)
        elif last.isascii() and (last.isalnum() or last in _ENDS) and target[:1].isalnum():
            read = self._vocabulary.decode(ids)
            if read.endswith(last + target):
                self.touching += 1
                self.first_touching = self.first_touching or tail + target

    def _look_at(self, feature: str, text: str) -> None:
        ids = self._vocabulary.encode(text)
        if self._vocabulary.pad_id in ids:
            self.with_padding[feature] += 1
            self.first_padding.setdefault(feature, text)
        if self._vocabulary.unk_id not in ids:
            return
        self.with_unknown[feature] += 1
        self.first_unknown.setdefault(feature, text)
        counts = self.unknown[feature]
        for character in set(text):
            if self._is_unknown(character) and (character in counts or len(counts) < DIFFERENT):
                counts[character] += 1

    def _lacks(self, text: str) -> bool:
        unknown = self._vocabulary.unk_id
        return unknown is not None and unknown in self._vocabulary.encode(text)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "unknown": {
                feature: {
                    "examples": self.with_unknown[feature],
                    "characters": dict(self.unknown[feature].most_common()),
                    "first": self.first_unknown.get(feature),
                }
                for feature in FEATURES
            },
            "padding": {
                feature: {
                    "examples": self.with_padding[feature],
                    "first": self.first_padding.get(feature),
                }
                for feature in FEATURES
            },
            "changed_targets": self.changed,
            "first_changed": self.first_changed and list(self.first_changed),
            "touching": self.touching,
            "after_space": self.after_space,
        }


def warn_of_lost_text(task: Task, splits: Sequence[str], vocabulary: Vocabulary) -> None:
    """Warns of what is lost in the first examples of some splits, each with a count and a case."""
    for name in splits:
        source = task.splits[name]
        limit = LIMIT if isinstance(source, IndexedSource) else OF_STREAM
        lost = LostText(vocabulary)
        for example in itertools.islice(source.stream(seed=None, epoch=0), limit):
            lost.add(example)
        for sentence in in_words(lost):
            warnings.warn(f"{task.name}, {name}: {sentence}", stacklevel=2)


def in_words(lost: LostText) -> list[str]:
    """A sentence for each kind of loss."""
    sentences = []
    for feature, count in lost.with_unknown.items():
        if count:
            characters = ", ".join(repr(c) for c, _ in lost.unknown[feature].most_common(SHOWN))
            sentences.append(
                f"{count} of {lost.examples} {feature} hold characters that the model's vocabulary "
                f"does not know ({characters}); first {_cut(lost.first_unknown[feature])}"
            )
    for feature, count in lost.with_padding.items():
        if count:
            sentences.append(
                f"{count} of {lost.examples} {feature} spell the model's padding token, which is "
                f"padding there as everywhere; first {_cut(lost.first_padding[feature])}"
            )
    if lost.first_changed:
        text, back = lost.first_changed
        sentences.append(
            f"{lost.changed} of {lost.examples} targets cannot be written with the model's "
            f"vocabulary; first {_cut(text)}, of which it makes {_cut(back)}; a prediction of "
            "that counts as the target, unless characters are unknown or other targets read so too"
        )
    if lost.touching:
        sentences.append(
            f"{lost.touching} of {lost.examples} targets follow their input without a space; first "
            f"{_cut(str(lost.first_touching))}: begin them with one, as in "
            f"{spelled('target_template')} ' {{label}}'"
        )
    if lost.after_space:
        sentences.append(
            f"{lost.after_space} of {lost.examples} inputs end in a space, which the model's "
            "vocabulary has at the beginning of the next word: take it from the end of "
            f"{spelled('input_template')}, and begin the targets with it where the vocabulary "
            "does not do so itself"
        )
    return sentences


def _cut(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")


def credited(
    targets: Sequence[Any],
    predictions: Sequence[str],
    verbalizers: Sequence[str] | None,
    vocabulary: Vocabulary,
) -> tuple[list[str], float]:
    """Written predictions as every metric should see them.

    A prediction that is what the vocabulary makes of a target or label counts as that, unless
    characters are unknown, nothing comes back, or it could as well stand for another.

    Returns:
      The predictions, and the percentage of targets that cannot be written as they stand.
    """
    answers = [[target] if isinstance(target, str) else target for target in targets]
    texts = list(dict.fromkeys(map(str, itertools.chain(verbalizers or (), *answers))))
    ids = dict(zip(texts, vocabulary.encode_batch(texts), strict=True))
    back = {text: vocabulary.decode(own) for text, own in ids.items()}
    # A text reads as itself and as what comes back.
    reads = collections.Counter(form for each in back.items() for form in set(each))
    meant = {
        form: text
        for text, form in back.items()
        if form and reads[form] == 1 and vocabulary.unk_id not in ids[text]
    }
    changed = sum(all(back[str(text)] != text for text in of_one) for of_one in answers)
    found = [meant.get(prediction, prediction) for prediction in predictions]
    return found, 100 * changed / len(targets)
