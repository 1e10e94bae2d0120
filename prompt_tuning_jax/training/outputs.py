"""What a run puts out: scores of the validation split, the best and the last of what trains."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.adapters.adapter import WHOLE, Adapter
from prompt_tuning_jax.checkpoints.adapters.adapter_file import save_adapter
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.prompt_file import SNAPSHOTS, load_prompt, save_prompt
from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.methods.adapters.choice import leaves_of
from prompt_tuning_jax.methods.assemble import folded
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.params import (
    PROMPT_NAME,
    SHARED_NAME,
    unflatten,
    whole_prompt,
    without_prompt,
)
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.monitor import Log, collapse_warning, prompt_signs
from prompt_tuning_jax.training.private.budget import SPENT, Budget
from prompt_tuning_jax.training.step_types import Params
from prompt_tuning_jax.tuned_prompt import FINGERPRINT, VOCABULARY, TunedPrompt

Scores = Mapping[str, Any]
START = "prompt_start"  # what a prompt's file says of the prompts at which its run started


class Scoring(Protocol):
    """How a kind of task is scored.

    Attributes:
      name: the task's.
      metric: the score that chooses the best step; "loss" is better where it is less.
      can_evaluate: whether there is a split to evaluate on.
      feature_lengths: the most tokens of `inputs` and `targets`.
    """

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def can_evaluate(self) -> bool: ...

    @property
    def feature_lengths(self) -> Mapping[str, int]: ...

    def scores(self, model: Any, prompt: TunedPrompt | None) -> tuple[dict[str, float], str | None]:
        """The scores of eval_split, and a warning or None."""

    def facts(self) -> Mapping[str, Any]:
        """What a prompt's file says, so that an input is put to the model as here."""

    def begin(self) -> None:
        """Writes the index made for scoring; called once, when nothing can be refused any more."""


@dataclasses.dataclass(frozen=True)
class TaskScoring:
    """Answers, ranked or generated, against targets."""

    config: TrainConfig
    task: Task
    feature_lengths: Mapping[str, int]

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def metric(self) -> str:
        return self.task.best_metric if self.task.metrics else "loss"

    @property
    def can_evaluate(self) -> bool:
        return self.config.eval_split in self.task.splits

    def scores(
        self, model: FrozenModel, prompt: TunedPrompt | None
    ) -> tuple[dict[str, float], str | None]:
        found = evaluate_task(
            model,
            self.task,
            self.config.eval_split,
            prompt,
            predictions=self.config.predictions,
            feature_lengths=self.feature_lengths,
            batch_size=self.config.batch_size,
            limit=self.config.eval_limit,
        )
        return dict(found.scores), collapse_warning(found)

    def facts(self) -> Mapping[str, Any]:
        facts = {
            "verbalizers": self.task.verbalizers,
            "input_template": self.task.input_template,
            "target_template": self.task.target_template,
            "feature_lengths": dict(self.feature_lengths),
            "predictions": self.config.predictions,
        }
        if self.config.missing != "drop":  # whoever asks gets an answer
            facts["missing"] = self.config.missing
        return facts

    def begin(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Scores a run on eval_split, and writes its parameters to best/, last/ and prompts/STEP/.

    All hosts call the same methods; the first one writes.

    Attributes:
      start: of a run that starts at other tasks' nearest prompts, which these were; else None.
      budget: of a private run.
    """

    config: TrainConfig
    model: FrozenModel
    scoring: Scoring
    frozen: Params
    start: Mapping[str, Any] | None = None
    budget: Budget | None = None

    @property
    def model_dir(self) -> Path:
        return Path(self.config.model_dir)

    @property
    def can_evaluate(self) -> bool:
        """Whether the task has the split."""
        return self.scoring.can_evaluate

    @property
    def metric(self) -> str:
        """The score that chooses the best step."""
        return self.scoring.metric

    def is_better(self, scores: Scores, best: Scores) -> bool:
        """Whether `scores` beat `best`; on a tie the earlier step stays."""
        sign = -1 if self.metric == "loss" else 1
        new, old = scores[self.metric], best[self.metric]
        if math.isnan(old):  # such as a correlation with predictions that are all alike
            return not math.isnan(new)
        return sign * new > sign * old

    def evaluate(self, step: int, trainable: Params, log: Log) -> dict[str, Any]:
        """Scores the split, shows and logs the scores, and warns of a collapse."""
        started = time.perf_counter()
        model, prompt = self._divide(trainable)
        scores, warning = self.scoring.scores(model, prompt)
        if prompt is not None:
            signs = prompt_signs(jnp.asarray(prompt.values), model.embeddings)
            scores |= {name: float(x) for name, x in signs.items()}
        if self.budget is not None:
            scores |= self.budget.scores(step)
        log.scalars(step, self.config.eval_split, scores)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        seconds = time.perf_counter() - started
        log.say(f"step {step}  train loss {log.loss:.4f}  {shown}  ({seconds:.1f} s)")
        if warning is not None:
            log.say(f"warning: {warning}")
        if self.metric not in scores:
            raise ValueError(
                f"The best step of {self.scoring.name!r} is chosen by {self.metric!r}, which is "
                f"none of its scores: {', '.join(scores)}. Name another as the task's best_metric."
            )
        if self.budget is not None:  # a loss has no noise: it is for the log alone
            return {"step": step, **scores}
        return {"step": step, "train_loss": log.loss, **scores}

    def save(self, name: str, trainable: Params, scores: Scores) -> None:
        """Writes the adapter, or the prompt, the tuned model, or both, to `model_dir/name`.

        A query side's own weights are written as an adapter is: documents are of the model's.
        """
        model, prompt = self._divide(trainable)
        if self._adapter is not None:
            self._write_adapter(name, trainable, scores)
            return
        if without_prompt(trainable):
            params = model.params
            if jax.process_count() > 1:
                params = sharding.to_host(params)  # all hosts take part
            if hosts.is_first():
                huggingface.save(
                    self.model_dir / name,
                    model.config,
                    params,
                    model.vocabulary,
                    generation=model.generation,
                )
        if prompt is not None:
            self._write_prompt(name, model, prompt, scores)

    def keep_prompt(self, trainable: Params, scores: Scores) -> None:
        """Writes the prompt, but no adapter or tuned model, to `model_dir/prompts/STEP`.

        Written before the state of the same step: what a kill leaves too early or not at all, the
        resumed run writes again, the same.
        """
        model, prompt = self._divide(trainable)
        if prompt is not None and self._adapter is None:
            self._write_prompt(f"{SNAPSHOTS}/{scores['step']}", model, prompt, scores)

    def _write_prompt(
        self, name: str, model: FrozenModel, prompt: TunedPrompt, scores: Scores
    ) -> None:
        identity = model.identity  # all hosts take part
        if not hosts.is_first():
            return
        save_prompt(
            self.model_dir / name,
            prompt,
            base_model=model.name,
            **identity,
            **self._known(scores),
            shared_rows=len(self.frozen.get(SHARED_NAME, ())) or None,
            **({} if self.start is None else {START: dict(self.start)}),
            privacy=None if self.budget is None else self.budget.facts(scores["step"]),
        )

    def _spend_all(self, step: int) -> None:
        """Says of the best prompt what all steps cost, since it was chosen among all."""
        directory = self.model_dir / "best"
        if hosts.is_first():
            save_prompt(directory, load_prompt(directory), privacy=self.budget.facts(step))

    def _write_adapter(self, name: str, trainable: Params, scores: Scores) -> None:
        identity = self.model.identity  # all hosts take part
        flat = {**self.frozen, **trainable}
        leaves = sharding.to_host(trainable if self._adapter == WHOLE else leaves_of(flat))
        if (prompt := whole_prompt(folded(flat))) is not None:
            leaves[PROMPT_NAME] = prompt
        if not hosts.is_first():
            return
        facts = {
            FINGERPRINT: identity["fingerprint"],
            VOCABULARY: identity["vocabulary_hash"],
            **self._known(scores),
        }
        known = {key: x for key, x in facts.items() if x is not None}
        adapter = Adapter(self._adapter, leaves, known)
        save_adapter(self.model_dir / name, adapter, self.model.config, self.model.name)

    def _known(self, scores: Scores) -> dict[str, Any]:
        """The task, the scores, and what `infer` needs to put an input to the model as here."""
        return {
            "task": self.scoring.name,
            "step": scores["step"],
            "scores": {name: x for name, x in scores.items() if name not in ("step", *SPENT)},
            **self.scoring.facts(),
        }

    def finish(
        self,
        step: int,
        trainable: Params,
        history: list[dict[str, Any]],
        best: Scores | None,
        batches: TrainBatches,
        log: Log,
    ) -> None:
        """Writes what a finished run leaves behind, and says where."""
        evaluated = bool(history) and history[-1]["step"] == step
        last = history[-1] if evaluated else {"step": step}
        self.save("last", trainable, last)
        if best is None:
            self.save("best", trainable, last)
        elif self.budget is not None:
            self._spend_all(step)
        if hosts.is_first():
            with new_file(self.model_dir / "history.json") as partial:
                partial.write_text(json.dumps(history, indent=1) + "\n")
        cut = {"inputs": batches.truncated_inputs, "targets": batches.truncated_targets}
        for feature, count in cut.items():
            if count:
                limit = self.scoring.feature_lengths[feature]
                log.say(f"Training {feature} were cut to {limit} tokens {count} times.")
        best = best or last
        score = f", {self.metric} {best[self.metric]:.4g}" if self.metric in best else ""
        cost = "" if self.budget is None else f", {self.budget.spent(step)}"
        log.say(f"best: step {best['step']}{score}, in {self.model_dir / 'best'}{cost}")

    @property
    def _adapter(self) -> str | None:
        """The method of what is written as an adapter; None where nothing is."""
        if self.config.retrieves and not self.config.input_rows:
            return self.config.adapter or WHOLE
        return self.config.adapter

    def _divide(self, trainable: Params) -> tuple[FrozenModel, TunedPrompt | None]:
        """The model without the prompt, and the prompt."""
        model = self.model
        if without_prompt(trainable):
            weights = without_prompt({**self.frozen, **trainable})
            same = model.fingerprint if self._adapter is not None else None
            model = model.replace(params=unflatten(weights), known_fingerprint=same)
        prompt = whole_prompt(folded({**self.frozen, **trainable}))
        if prompt is None:
            return model, None
        layout, visibility = self.config.prompt_layout, self.config.prompt_visibility
        return model, TunedPrompt(prompt, layout, visibility=visibility)
