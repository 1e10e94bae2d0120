"""What a user sees of a run: progress, scalars, and early signs that tuning is not working."""

import collections
import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import rich
import rich.progress
from jaxtyping import Array, Float

from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.scoring import Evaluation
from prompt_tuning_jax.training.step_types import Metrics

COLLAPSE_SHARE = 0.95


class NotFiniteError(FloatingPointError):
    """The loss, a gradient or an update became NaN or infinite."""


@jax.jit
def prompt_signs(prompt: Float[Array, "P D"], embeddings: Float[Array, "V D"]) -> dict[str, Array]:
    """Mean norm of the prompt's rows, and mean distance to the nearest vocabulary embedding."""
    embeddings = embeddings.astype(jnp.float32)
    squares = (
        jnp.sum(prompt**2, axis=-1)[:, None]
        - 2 * jnp.matmul(prompt, embeddings.T, precision="highest")  # else bfloat16 on a TPU
        + jnp.sum(embeddings**2, axis=-1)[None, :]
    )
    nearest = jnp.sqrt(jnp.maximum(squares.min(axis=-1), 0.0))
    norms = jnp.linalg.norm(prompt, axis=-1)
    return {"prompt_norm": norms.mean(), "prompt_to_nearest_embedding": nearest.mean()}


def collapse_warning(evaluation: Evaluation) -> str | None:
    """A warning where nearly all predictions are one answer although the targets are not."""
    if not evaluation.predictions:
        return None
    answer, count = collections.Counter(evaluation.predictions).most_common(1)[0]
    share = count / len(evaluation.predictions)
    expected = evaluation.targets.count(answer) / len(evaluation.targets)
    if share < COLLAPSE_SHARE or expected > COLLAPSE_SHARE:
        return None
    return (
        f"{share:.0%} of the predictions are {answer!r}, which is right for {expected:.0%}: the "
        "model has collapsed to one label so far. If this lasts, train longer, change "
        f"{spelled('learning_rate')}, or initialise with class labels."
    )


class Log:
    """The TensorBoard scalars of one directory, and what is said about it.

    Of several hosts, the first one writes and speaks.

    Args:
      start: the step that the run stands at; scalars of later ones are forgotten.
      name: what stands before each message, where there are several runs.

    Attributes:
      loss: of the last training step that was read.
    """

    def __init__(self, directory: Path, start: int, name: str = ""):
        self._speaks, self._before = hosts.is_first(), f"{name}: " if name else ""
        self._writer = None
        if self._speaks:
            # Needs tensorboardX, which steps without a log must not.
            from prompt_tuning_jax.training.scalars import ScalarWriter

            self._writer = ScalarWriter(directory / "tensorboard", start)
        self.loss = math.nan

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Writes TensorBoard scalars `group/name`."""
        if self._writer:
            self._writer.add(step, {f"{group}/{name}": value for name, value in values.items()})

    def say(self, message: str) -> None:
        """A line, above the progress bar if there is one."""
        if self._speaks:
            message = self._before + message
            rich.get_console().print(message, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Flushes the scalars."""
        if self._writer:
            self._writer.close()


class Monitor(Log):
    """A log with a progress bar.

    It reads each step's metrics one step late, so that the device never waits for the host.
    """

    def __init__(self, directory: Path, start: int, steps: int, log_period: int, quiet: bool):
        super().__init__(directory, start)
        self._log_period = log_period
        self._in_flight: tuple[int, Metrics] | None = None
        self._examples, self._since = 0, time.perf_counter()
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            disable=quiet or not self._speaks,
        )
        # A bar is only for a terminal; a log file gets lines.
        self._to_file = not quiet and not self._progress.console.is_terminal
        self._task = self._progress.add_task("compiling", total=steps, completed=start)
        self._progress.start()

    def dispatched(self, step: int, metrics: Metrics, rows: int) -> None:
        """Notes that `step` is under way and reads the one before it.

        Raises:
          NotFiniteError: the loss or a gradient of the step before was not finite.
        """
        self.finish_step()
        self._in_flight = (step, metrics)
        self._examples += rows

    def finish_step(self) -> None:
        """Reads the step under way, if any."""
        if self._in_flight is None:
            return
        (step, metrics), self._in_flight = self._in_flight, None
        metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
        if not metrics.pop("finite"):
            raise NotFiniteError(
                f"The loss, a gradient or an update was not finite at step {step}. The last good "
                f"prompt is kept. Lower {spelled('learning_rate')}, or load the model as float32."
            )
        self.loss = metrics["loss"]
        self._progress.update(self._task, completed=step)
        if step % self._log_period == 0:
            self._log(step, metrics)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        now = time.perf_counter()
        rate = self._examples / (now - self._since)
        self._examples, self._since = 0, now
        self.scalars(step, "train", metrics | {"examples_per_second": rate})
        shown = f"loss {self.loss:.4f}  {rate:,.0f} examples/s"
        self._progress.update(self._task, description=shown)
        if self._to_file:
            self.say(f"step {step}  {shown}")

    def close(self) -> None:
        """Ends the bar and flushes the scalars."""
        self._progress.stop()
        super().close()
