"""Scores of a split: of one prompt, of many prompts on their own tasks at once, of an ensemble.

Training and the command `evaluate` score through the same functions.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from prompt_tuning_jax.banks import PromptLike, PromptSet, TunedBank
from prompt_tuning_jax.data.encoding import check_distinct
from prompt_tuning_jax.data.lost_text import credited
from prompt_tuning_jax.data.task import Example, ExampleList, Task, target_text
from prompt_tuning_jax.decoding.text import batches
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.answers import Answer, Choices, answer, ranked_answer
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.optim import token_cross_entropy
from prompt_tuning_jax.settings.evaluate_config import ScoringConfig
from prompt_tuning_jax.settings.prompt_config import own_words
from prompt_tuning_jax.settings.task_config import choose_predictions, lengths_of


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one split, and what they were computed from, in the split's order."""

    scores: dict[str, float]
    targets: list[str]
    predictions: list[str]

    def __repr__(self) -> str:
        return f"Evaluation({len(self.targets)} examples, scores {self.scores})"


@dataclasses.dataclass(frozen=True)
class EnsembleEvaluation:
    """An ensemble, beside each of its members alone (the paper, Table 3).

    Attributes:
      members: by the names of their prompts.
      best: the name of the member with the best score on this split.
      ensemble: all members together. Its loss is the mean of theirs.
    """

    members: dict[str, Evaluation]
    best: str
    ensemble: Evaluation

    def __repr__(self) -> str:
        members = f"{len(self.members)} members, best {self.best!r}"
        return f"EnsembleEvaluation({members}, together {self.ensemble})"

    @property
    def mean(self) -> dict[str, float]:
        """The mean of the members' scores."""
        scores = [member.scores for member in self.members.values()]
        return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def read_examples(
    task: Task, split: str, model: FrozenModel, settings: ScoringConfig
) -> list[Example]:
    """The examples of a split in order, inside the hand-written prompt.

    Raises:
      ValueError: no such split; or labels that the model cannot tell apart.
    """
    check_distinct(task.verbalizers or (), model.vocabulary)
    stream = task.split(split).stream(seed=None, epoch=0)
    found = list(itertools.islice(stream, settings.limit))
    if settings.text_prompt is None:
        return found
    texts = [apply_text_prompt(settings.text_prompt, input_text(e, model)) for e in found]
    return [{**e, "inputs": text} for e, text in zip(found, texts, strict=True)]


def ranked_labels(task: Task, settings: ScoringConfig) -> Choices:
    """The legal answers, where they are to be ranked."""
    return task.verbalizers if choose_predictions(task, settings.predictions) == "rank" else None


def evaluate_task(
    model: FrozenModel,
    task: Task,
    split: str = "validation",
    prompt: PromptLike = None,
    **options: Any,
) -> Evaluation:
    """Scores `model` with `prompt` on a split of `task`; keywords are those of `ScoringConfig`.

    Returns `task.metrics`, and beside them
      loss: mean cross-entropy per target token in nats.
      legal_share: percent of generated texts that are verbalizers (generate), or
      legal_mass: percent of probability that falls on the verbalizers (rank),
      unwritable_targets: percent of targets that the vocabulary cannot write as they stand, if it
        cannot write some (generate). To every metric, a prediction that is what the vocabulary
        makes of a target is that target, unless characters are unknown or other targets read so.
    """
    settings = ScoringConfig(**options)
    model.text_vocabulary("evaluate on")
    examples = read_examples(task, split, model, settings)
    losses = example_losses(model, examples, prompt, settings)
    if not task.metrics:
        return _summarise(model, task, examples, losses, [])
    answers = _answers(
        model, examples, [ranked_labels(task, settings)] * len(examples), prompt, settings
    )
    return _summarise(model, task, examples, losses, answers)


def evaluate_tasks(
    model: FrozenModel,
    tasks: Mapping[str, Task],
    bank: TunedBank,
    split: str = "validation",
    **options: Any,
) -> dict[str, Evaluation]:
    """Scores each prompt of `bank` on the task of its name; batches mix the tasks.

    A prompt's score is what `evaluate_task` gives it alone. Keywords are those of `ScoringConfig`.
    """
    settings = ScoringConfig(**options)
    model.text_vocabulary("evaluate on")
    examples = {name: read_examples(task, split, model, settings) for name, task in tasks.items()}
    of_task = [name for name, found in examples.items() for _ in found]
    everything = list(itertools.chain.from_iterable(examples.values()))
    rows = bank.rows(of_task)
    losses = example_losses(model, everything, rows, settings)
    choices = {name: ranked_labels(task, settings) for name, task in tasks.items()}
    answers = _answers(model, everything, [choices[name] for name in of_task], rows, settings)
    results, first = {}, 0
    for name, task in tasks.items():
        here = slice(first, first := first + len(examples[name]))
        results[name] = _summarise(model, task, examples[name], losses[here], answers[here])
    return results


def evaluate_ensemble(
    model: FrozenModel,
    task: Task,
    bank: TunedBank,
    split: str = "validation",
    **options: Any,
) -> EnsembleEvaluation:
    """Scores every prompt of `bank` on a split of `task`, and all of them together.

    Every example is encoded once for each member, in one pass; where labels are ranked, the
    ensemble's vote needs no other. Keywords are those of `ScoringConfig`.
    """
    settings, ensemble, count = ScoringConfig(**options), bank.ensemble(), len(bank)
    model.text_vocabulary("evaluate on")
    if not task.metrics:
        raise ValueError(f"Task {task.name!r} has no metrics, so an ensemble has no answers to it.")
    examples = read_examples(task, split, model, settings)
    copies, rows = ensemble.expanded(examples)
    losses = example_losses(model, copies, rows, settings)
    answers = _answers(model, copies, [ranked_labels(task, settings)] * len(copies), rows, settings)
    members = {
        name: _summarise(model, task, examples, losses[k::count], answers[k::count])
        for k, name in enumerate(bank.names)
    }
    together = _together(model, task, examples, answers, ensemble, settings)
    metric = task.best_metric
    return EnsembleEvaluation(
        members,
        max(members, key=lambda name: members[name].scores[metric]),
        _summarise(model, task, examples, losses, together),
    )


def _together(
    model: FrozenModel,
    task: Task,
    examples: Sequence[Example],
    of_members: Sequence[Answer],
    ensemble: PromptSet,
    settings: ScoringConfig,
) -> list[Answer]:
    """The ensemble's answers: a vote over rankings that are there, or text generated together."""
    labels = ranked_labels(task, settings)
    if labels is None:
        return _answers(model, examples, [None] * len(examples), ensemble, settings)
    scores = np.array([[one.scores[label] for label in labels] for one in of_members])
    scores = scores.reshape(len(examples), ensemble.copies, len(labels))
    return [ranked_answer(row, labels) for row in scores]


def _answers(
    model: FrozenModel,
    examples: Sequence[Example],
    choices: Sequence[Choices],
    prompt: PromptLike,
    settings: ScoringConfig,
) -> list[Answer]:
    lengths = lengths_of(settings.feature_lengths)
    # Greedily, so that scores stay comparable whatever the model's files say of beams and lengths.
    greedy = model.replace(generation=model.generation.of_tokens())
    return answer(
        greedy,
        [example["inputs"] for example in examples],
        choices,
        prompt,
        batch_size=settings.batch_size,
        max_input_length=lengths["inputs"],
        max_length=lengths["targets"],
    )


def _summarise(
    model: FrozenModel,
    task: Task,
    examples: Sequence[Example],
    losses: Float[np.ndarray, "n 2"],
    answers: Sequence[Answer],
) -> Evaluation:
    """The task's metrics, the mean loss, and how legal the answers are."""
    loss, tokens = losses.sum(axis=0)
    scores = {"loss": float(loss / tokens)}
    if not task.metrics:
        return Evaluation(scores, [], [])
    targets = [target_text(example, model.vocabulary) for example in examples]
    predictions = [one.prediction for one in answers]
    if answers[0].scores is not None:
        scores["legal_mass"] = float(100 * np.mean([one.legal_mass for one in answers]))
        return Evaluation(task.score(targets, predictions) | scores, targets, predictions)
    seen, changed = credited(targets, predictions, task.verbalizers, model.vocabulary)
    if task.verbalizers:
        legal = [prediction in task.verbalizers for prediction in seen]
        scores["legal_share"] = float(100 * np.mean(legal))
    if changed:
        scores["unwritable_targets"] = changed
    return Evaluation(task.score(targets, seen) | scores, targets, predictions)


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def _token_losses(config, params, batch, layout):
    logits = family_of(config).apply(config, params, batch, layout)
    weights = batch["decoder_loss_weights"]
    losses = token_cross_entropy(logits, batch["decoder_target_tokens"]) * weights
    return losses.sum(axis=-1), weights.sum(axis=-1)


def example_losses(
    model: FrozenModel, examples: Sequence[Example], prompt: PromptLike, settings: ScoringConfig
) -> Float[np.ndarray, "n 2"]:
    """Cross-entropy of every example in nats, without z-loss or dropout, and its target tokens.

    An ensemble's is the mean of its members'.
    """
    prompted = model.prompted(prompt)
    count = prompted.prompts.copies
    copies, each = prompted.prompts.expanded(examples)
    lengths = lengths_of(settings.feature_lengths)
    prompted = prompted._replace(prompts=each)
    with sharding.active(model.mesh):
        pending = [
            (rows, _token_losses(prompted.config, prompted.params, batch, each.layout))
            for rows, batch in batches(prompted, copies, settings.batch_size, lengths)
        ]
    losses = np.zeros((len(copies), 2))
    for rows, found in pending:
        losses[rows] = np.stack(sharding.to_host(found), axis=-1)[: len(rows)]
    return losses.reshape(len(examples), count, 2).mean(axis=1)


def by_prompt(task: Task, split: str, field: str, bank: TunedBank) -> dict[str, Task]:
    """One task for each prompt that the examples of `split` name in `field`.

    A prompt that knows its verbalizers ranks these, others rank the task's.

    Raises:
      ValueError: an example without the field, or with a name that is not in the bank.
    """
    examples: dict[str, list[Example]] = {}
    for number, example in enumerate(task.split(split).stream(seed=None, epoch=0), start=1):
        name = str(example.get(field))
        if name not in bank.prompts:
            raise ValueError(
                f"Example {number} of {split!r} names the prompt {name!r} in {field!r}; there are "
                f"{', '.join(bank.names)}."
            )
        examples.setdefault(name, []).append(example)
    return {
        name: dataclasses.replace(
            task,
            name=name,
            splits={split: ExampleList(found)},
            verbalizers=own_words(bank.prompts[name]) or task.verbalizers,
        )
        for name, found in examples.items()
    }


def input_text(example: Any, model: FrozenModel) -> str:
    """An example's input as text; token ids are decoded."""
    inputs = example["inputs"]
    return inputs if isinstance(inputs, str) else model.vocabulary.decode(np.asarray(inputs))


def apply_text_prompt(template: str, text: str) -> str:
    """`text` inside a hand-written prompt, in place of `{input}`."""
    if "{input}" not in template:
        raise ValueError(f"{spelled('text_prompt')} {template!r} lacks the placeholder {{input}}.")
    return template.replace("{input}", text)
