"""The privacy budget of a run: epsilon at delta after so many steps, by dp-accounting's figures.

Its accountant composes privacy loss distributions (PLD) of Poisson-sampled Gaussian mechanisms for
neighbours that differ in one example's presence. Only this module imports it, when it is asked.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.private.sampling import count_examples, sampling_facts

# Width of the accountant's bins. It rounds to the safe side, here by less than 0.1 % of an epsilon
# of 1; its own default takes ten times as long.
INTERVAL = 1e-3
DELTA_POWER = -1.1
SPENT = ("epsilon", "delta")
DIGITS = 4  # of a noise multiplier that is found: no rounding of another machine's is in them
LIKELY = (0.1, 1.0)  # the least noise multiplier, and one to begin with


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run's steps are, as far as privacy goes.

    Attributes:
      config: with its noise multiplier, clipping norm and delta.
      examples: n of the training split.
    """

    config: TrainConfig
    examples: int

    def epsilon(self, steps: int) -> float:
        """After so many steps; 0 before the first."""
        config = self.config
        share = config.batch_size / self.examples
        return epsilon_of(config.dp_noise_multiplier, share, steps, config.dp_delta)

    def scores(self, steps: int) -> dict[str, float]:
        """What stands beside an evaluation's scores."""
        return dict(zip(SPENT, (self.epsilon(steps), self.config.dp_delta), strict=True))

    def facts(self, steps: int) -> dict[str, Any]:
        """What a prompt's file says of all that was done up to a step."""
        return {
            **self.scores(steps),
            "steps": steps,
            "noise_multiplier": self.config.dp_noise_multiplier,
            "clip_norm": self.config.dp_clip_norm,
            **sampling_facts(self.config, self.examples),
            "neighbours": "one example more or less",
            "accountant": f"dp-accounting {version('dp-accounting')}, PLD",
        }

    def spent(self, steps: int) -> str:
        """In a few words."""
        return f"epsilon {self.epsilon(steps):.4g} at delta {self.config.dp_delta:.3g}"

    def told(self) -> str:
        """In one line."""
        config, steps = self.config, self.config.train_steps
        return (
            f"private: Poisson samples of {config.batch_size} of {self.examples:,} examples on "
            f"average, clipped to {config.dp_clip_norm:g}, noise multiplier "
            f"{config.dp_noise_multiplier:g}: {self.spent(steps)} after {steps:,} steps, for one "
            f"example more or less (dp-accounting {version('dp-accounting')}, PLD)"
        )


def resolved(config: TrainConfig, source: Any) -> TrainConfig:
    """The settings with what follows from the training split: delta, and the noise for epsilon.

    Raises:
      ValueError: a split that cannot be sampled, or a delta that is too large for it.
      ImportError: dp-accounting is not installed.
    """
    if not config.is_private:
        return config
    accounting()
    n = count_examples(source, config.batch_size)
    delta = n**DELTA_POWER if config.dp_delta is None else config.dp_delta
    if delta >= 1 / n:
        raise ValueError(
            f"{spelled('dp_delta')} {delta:g} is no less than 1 / n of the {n} training examples, "
            "so that publishing one of them would do: lower it, or leave it out."
        )
    noise = config.dp_noise_multiplier
    if noise is None:
        noise = noise_of(config.dp_epsilon, config.batch_size / n, config.train_steps, delta)
    clip_norm = 1.0 if config.dp_clip_norm is None else config.dp_clip_norm
    return dataclasses.replace(
        config, dp_noise_multiplier=noise, dp_delta=delta, dp_clip_norm=clip_norm
    )


def with_any_noise(config: TrainConfig) -> TrainConfig:
    """Settings of a step of the same form and memory, before it is known what follows for it."""
    if not config.is_private:
        return config
    return dataclasses.replace(config, dp_noise_multiplier=1.0, dp_clip_norm=1.0)


def with_common_noise(config: TrainConfig, configs: Sequence[TrainConfig]) -> TrainConfig:
    """What runs have in common, with the noise of each.

    Raises:
      ValueError: it is not the same.
    """
    if not config.is_private:
        return config
    found = sorted({one.dp_noise_multiplier for one in configs})
    if len(found) > 1:
        raise ValueError(
            f"{spelled('dp_epsilon')} {config.dp_epsilon:g} asks for another noise in each of "
            f"these runs ({', '.join(f'{noise:g}' for noise in found)}), which differ in their "
            f"steps or examples: set {spelled('dp_noise_multiplier')} for all, or train them apart."
        )
    return dataclasses.replace(
        config, dp_noise_multiplier=found[0], dp_clip_norm=configs[0].dp_clip_norm
    )


@functools.lru_cache(maxsize=1024)
def epsilon_of(noise: float, share: float, steps: int, delta: float) -> float:
    """Of `steps` Gaussian mechanisms on Poisson samples of a share of the examples."""
    if not steps:
        return 0.0
    library = accounting()
    event = _step(library, noise, share)
    accountant = _accountant(library)
    return float(accountant.compose(event, steps).get_epsilon(delta))


@functools.lru_cache
def noise_of(epsilon: float, share: float, steps: int, delta: float) -> float:
    """The least noise multiplier, to `DIGITS` digits, that keeps within an epsilon.

    It is 0.1 at least: so little noise hides next to nothing.
    """
    library = accounting()
    try:
        found = library.calibrate_dp_mechanism(
            lambda: _accountant(library),
            lambda noise: library.SelfComposedDpEvent(_step(library, noise, share), steps),
            epsilon,
            delta,
            library.LowerEndpointAndGuess(*LIKELY),
            tol=1e-5,
        )
    except library.mechanism_calibration.NoBracketIntervalFoundError:
        if epsilon_of(LIKELY[0], share, steps, delta) <= epsilon:
            return LIKELY[0]
        raise
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(found)))
    return math.ceil(found * scale) / scale


def _accountant(library: Any) -> Any:
    neighbours = library.NeighboringRelation.ADD_OR_REMOVE_ONE
    return library.pld.PLDAccountant(neighbours, value_discretization_interval=INTERVAL)


def _step(library: Any, noise: float, share: float) -> Any:
    return library.PoissonSampledDpEvent(share, library.GaussianDpEvent(noise))


def accounting() -> Any:
    """The library, which is heavy and optional.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import dp_accounting
    except ImportError as error:
        raise ImportError(
            "Private training counts its budget with dp-accounting: pip install "
            "'prompt-tuning-jax[privacy]'."
        ) from error
    return dp_accounting
