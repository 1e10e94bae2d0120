"""Metrics of a task, with a prompt file, a hand-written text prompt, or none.

    python -m prompt_tuning_jax.evaluate --gin.MIXTURE_OR_TASK_NAME="'bundled_sentiment'" \\
        --gin.PROMPT="'runs/sentiment/best'"

Training evaluates through the same function, so a prompt file scores here what it scored there.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prompt_tuning_jax import command, sharding
from prompt_tuning_jax.checkpoints.prompt_file import TunedPrompt, check_compatible, load_prompt
from prompt_tuning_jax.data import Task, eval_batches, target_text
from prompt_tuning_jax.losses import token_cross_entropy
from prompt_tuning_jax.model import FrozenModel, PromptLike, apply, load_model
from prompt_tuning_jax.task_loading import TaskConfig, load_task

PREDICTIONS = ("rank", "generate")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one split, and what they were computed from, in the split's order."""

    scores: dict[str, float]
    targets: list[str]
    predictions: list[str]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(TaskConfig):
    """What `python -m prompt_tuning_jax.evaluate` takes; each field is a gin macro in capitals.

    Attributes:
      split: which split to score.
      prompt: a prompt file or directory; None for the model alone.
      text_prompt: a hand-written prompt around the input, such as "Is it good? {input}".
      predictions: "rank" scores the verbalizers and takes the best; "generate" decodes text. None:
        rank where the task declares verbalizers.
      output: a JSON file for scores, targets and predictions.
    """

    split: str = "validation"
    prompt: str | None = None
    text_prompt: str | None = None
    predictions: str | None = None
    allow_prompt_mismatch: bool = False
    output: str | None = None
    batch_size: int = 32
    model_dtype: Any = np.float32


def input_text(example: Any, model: FrozenModel) -> str:
    """An example's input as text; token ids are decoded."""
    inputs = example["inputs"]
    return inputs if isinstance(inputs, str) else model.vocabulary.decode(np.asarray(inputs))


def apply_text_prompt(template: str, text: str) -> str:
    """`text` inside a hand-written prompt, in place of `{input}`."""
    if "{input}" not in template:
        raise ValueError(f"TEXT_PROMPT {template!r} lacks the placeholder {{input}}.")
    return template.replace("{input}", text)


def evaluate_task(
    model: FrozenModel,
    task: Task,
    split: str = "validation",
    prompt: PromptLike = None,
    *,
    text_prompt: str | None = None,
    predictions: str | None = None,
    feature_lengths: dict[str, int] | None = None,
    batch_size: int = 32,
    limit: int | None = None,
) -> Evaluation:
    """Scores `model` with `prompt` on a split of `task`.

    Returns `task.metrics`, and beside them
      loss: mean cross-entropy per target token in nats.
      legal_share: percent of generated texts that are verbalizers (generate), or
      legal_mass: percent of probability that falls on the verbalizers (rank).
    """
    model.text_vocabulary("evaluate on")
    lengths = feature_lengths or {"inputs": 512, "targets": 64}
    examples = list(itertools.islice(task.split(split).stream(seed=None, epoch=0), limit))
    if text_prompt is not None:
        examples = [
            {**e, "inputs": apply_text_prompt(text_prompt, input_text(e, model))} for e in examples
        ]
    scores = {"loss": mean_loss(model, examples, prompt, lengths, batch_size)}
    if not task.metrics:
        return Evaluation(scores, [], [])
    targets = [target_text(e, model.vocabulary) for e in examples]
    inputs = [e["inputs"] for e in examples]
    if choose_predictions(task, predictions) == "rank":
        options = {"batch_size": batch_size, "max_input_length": lengths["inputs"]}
        answers, ranked = model.classify(inputs, task.verbalizers, prompt, **options)
        scores["legal_mass"] = float(100 * np.exp(ranked).sum(axis=-1).mean())
    else:
        answers, _ = model.generate(
            inputs,
            prompt,
            max_length=lengths["targets"],
            batch_size=batch_size,
            max_input_length=lengths["inputs"],
        )
        if task.verbalizers:
            legal = [answer in task.verbalizers for answer in answers]
            scores["legal_share"] = float(100 * np.mean(legal))
    return Evaluation(task.score(targets, answers) | scores, targets, answers)


def choose_predictions(task: Task, predictions: str | None) -> str:
    """ "rank" or "generate" for this task."""
    if predictions is None:
        return "rank" if task.verbalizers else "generate"
    if predictions not in PREDICTIONS:
        raise ValueError(f"PREDICTIONS must be one of {PREDICTIONS}, got {predictions!r}.")
    if predictions == "rank" and not task.verbalizers:
        raise ValueError(
            f"PREDICTIONS='rank' needs the legal answers of {task.name!r}: set VERBALIZERS, or use "
            "'generate'."
        )
    return predictions


def _token_loss(config: Any, params: Any, batch: Any, layout: str) -> tuple[Any, Any]:
    logits = apply(config, params, batch, layout)
    weights = batch["decoder_loss_weights"]
    return (
        token_cross_entropy(logits, batch["decoder_target_tokens"]) * weights
    ).sum(), weights.sum()


_token_loss_jit = jax.jit(_token_loss, static_argnames=("config", "layout"))


def mean_loss(
    model: FrozenModel,
    examples: list[Any],
    prompt: PromptLike,
    lengths: dict[str, int],
    batch_size: int,
) -> float:
    """Mean cross-entropy per target token in nats, without z-loss or dropout."""
    params, layout = model.prompted(prompt)
    sums = []
    for _, batch in eval_batches(
        examples, model.vocabulary, batch_size=batch_size, lengths=lengths
    ):
        if model.mesh is not None:
            batch = jax.device_put(batch, sharding.batch_sharding(model.mesh))
        sums.append(_token_loss_jit(model.config, params, batch, layout))
    losses, tokens = np.array(jax.device_get(sums)).sum(axis=0)
    return float(losses / tokens)


def load_checked_prompt(path: str, model: FrozenModel, allow_mismatch: bool) -> TunedPrompt:
    """A prompt file that belongs to `model`, or a clear refusal."""
    prompt = load_prompt(path)
    vocabulary = model.vocabulary.fingerprint if model.vocabulary else None
    check_compatible(
        prompt,
        fingerprint=model.fingerprint,
        vocabulary_hash=vocabulary,
        emb_dim=model.config.emb_dim,
        allow_mismatch=allow_mismatch,
    )
    return prompt


def evaluate(config: EvaluateConfig | None = None, **options: Any) -> Evaluation:
    """What the command runs: `evaluate(task="bundled_sentiment", prompt="runs/s/best")`."""
    config = config or EvaluateConfig(**options)
    model = load_model(config.model, config.model_dtype, vocabulary=config.vocabulary)
    task = load_task(config, model)
    prompt = None
    if config.prompt is not None:
        prompt = load_checked_prompt(config.prompt, model, config.allow_prompt_mismatch)
    result = evaluate_task(
        model,
        task,
        config.split,
        prompt,
        text_prompt=config.text_prompt,
        predictions=config.predictions,
        feature_lengths=config.feature_lengths,
        batch_size=config.batch_size,
    )
    if config.output is not None:
        Path(config.output).write_text(json.dumps(dataclasses.asdict(result), indent=1))
    return result


def main(argv: list[str] | None = None) -> None:
    result = evaluate(command.parse(EvaluateConfig, argv, __doc__))
    print(json.dumps({name: round(score, 4) for name, score in result.scores.items()}))


if __name__ == "__main__":
    command.run(main)
