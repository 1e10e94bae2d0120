"""What a comparison of methods takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_jax.bounds import COUNT, Bounds
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.settings.train_config import TrainConfig


@settings
class CompareConfig(TrainConfig):
    """A training run, and the methods that are tried in its place."""

    methods: Sequence[str] | None = setting(
        default=None,
        help="""what is compared: majority (the commonest answer), no_prompt (the frozen model as it
        is), hand_written (the best of some texts), and every method that trains. None: majority
        no_prompt prompt lora ia3 model.""",
        group="training",
        first=True,
    )
    seeds: int = setting(
        default=3,
        help="how many times each method is trained, from seed on.",
        group="training",
        first=True,
        bounds=Bounds(1, 1000),
    )
    rates: Mapping[str, Any] | None = setting(
        default=None,
        help="""learning rates of a method, model=0.001,0.003: the one that is best on validation
        with the first seed serves all. None: each method's own.""",
        group="training",
    )
    method_steps: Mapping[str, int] | None = setting(
        default=None,
        help="steps of a method, model=90, where they are not train_steps.",
        group="training",
        bounds=COUNT,
    )
    text_prompts: PathLike | None = setting(
        default=None,
        help="""a file of hand-written prompts, one in each line, with a place for {input}. None:
        those of a bundled task.""",
        group="prompt",
    )
    test_limit: int | None = setting(
        default=None,
        help="how many examples of the test split are scored; None for all.",
        group="evaluation",
        bounds=COUNT,
    )
