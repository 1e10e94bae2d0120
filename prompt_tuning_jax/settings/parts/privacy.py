"""Settings of private training: how much one example may change what a run puts out."""

from typing import Any

from prompt_tuning_jax.bounds import DELTA, NOISE, NORM
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.methods.adapters.choice import NAMES as ADAPTERS
from prompt_tuning_jax.settings.parts.method import BOTH
from prompt_tuning_jax.settings.setting import setting, settings

_OTHER_METHODS = ("model", *ADAPTERS, BOTH)


@settings
class PrivacyConfig:
    """Differential privacy of the training examples."""

    dp_epsilon: float | None = setting(
        default=None,
        help="""trains with differential privacy: the epsilon after train_steps, from which the
        noise follows. Needs the [privacy] extra.""",
        group="training",
        bounds=NOISE,
        shared=True,
    )
    dp_noise_multiplier: float | None = setting(
        default=None,
        help="""instead of dp_epsilon: the noise's standard deviation as a multiple of
        dp_clip_norm; epsilon follows from it.""",
        group="training",
        bounds=NOISE,
        identity=True,
        shared=True,
    )
    dp_clip_norm: float | None = setting(
        default=None,
        help="of private training: the greatest norm of one example's gradient. None: 1.",
        group="training",
        bounds=NORM,
        identity=True,
        shared=True,
    )
    dp_delta: float | None = setting(
        default=None,
        help="""the delta that epsilon is told at; below 1 / n of n training examples. None:
        n ** -1.1.""",
        group="training",
        bounds=DELTA,
        shared=True,
    )

    @property
    def is_private(self) -> bool:
        """Whether one example's share in a step is bounded, and noise is added."""
        return self.dp_epsilon is not None or self.dp_noise_multiplier is not None


def check_privacy(config: Any) -> None:
    """Refuses training settings that would make a private step another one than it says."""
    if not config.is_private:
        for name in ("dp_clip_norm", "dp_delta"):
            if getattr(config, name) is not None:
                raise ValueError(
                    f"{spelled(name)} alone keeps nothing private: set {spelled('dp_epsilon')} or "
                    f"{spelled('dp_noise_multiplier')}, or leave it out."
                )
        return
    if config.dp_epsilon is not None and config.dp_noise_multiplier is not None:
        raise ValueError(
            f"{spelled('dp_epsilon')} and {spelled('dp_noise_multiplier')} follow from each other: "
            "leave one of them out."
        )
    for name, value, reason in (
        ("pack", True, "the examples of a packed row have one gradient"),
        ("loss_normalization", "mean", "the number of a batch's target tokens is not private"),
        ("prompt_length", 0, "a gradient of each example is computed of a prompt alone"),
        *(("method", name, "only a prompt's gradients are clipped") for name in _OTHER_METHODS),
    ):
        if getattr(config, name) == value:
            raise ValueError(
                f"{spelled(name, value)} cannot be trained privately: {reason}. Leave it out."
            )
    for name, reason in (
        ("wayward_text", "its pull would be clipped with every example"),
        ("share", "a part that tasks share has no single example's gradient"),
    ):
        if getattr(config, name) is not None:
            raise ValueError(
                f"{spelled(name)} cannot be used in private training: {reason}. Leave it out."
            )
    if str(config.prompt_init).startswith("nearest:"):
        raise ValueError(
            f"{spelled('prompt_init')} {config.prompt_init!r} takes steps that are not private to "
            "find where to start: name a prompt's own path."
        )
