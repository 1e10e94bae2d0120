"""How a run trains what it trains: the prompt's form, the optimizer and its rate, the loss."""

from prompt_tuning_jax.bounds import LEARNING_RATE, SHARE_OR_NONE, SIZE, STEP, Z_LOSS, Bounds
from prompt_tuning_jax.methods.parameterizations.choice import NAMES
from prompt_tuning_jax.optim import OPTIMIZERS, SCHEDULES
from prompt_tuning_jax.settings.setting import setting, settings


@settings
class FormConfig:
    """What of a recipe changes the work and the memory of a step."""

    prompt_parameterization: str = setting(
        default="direct",
        help="""how the prompt is written while it trains: direct, as itself; low_rank, a change of
        where it starts by few random directions; residual, behind a small network; superposition, a
        mixture of vocabulary vectors. What is saved is the prompt alone.""",
        group="prompt",
        choices=NAMES,
        identity=True,
        shared=True,
    )
    parameterization_size: int | None = setting(
        default=None,
        help="""the rank of low_rank (None: 64), the hidden units of residual (64), the vectors that
        superposition mixes (128).""",
        group="prompt",
        identity=True,
        shared=True,
        bounds=SIZE,
    )
    optimizer: str | None = setting(
        default=None,
        help="""adafactor, as the paper sets it, or adamw. None: adamw for an adapter, else
        adafactor.""",
        group="training",
        choices=tuple(OPTIMIZERS),
        identity=True,
        shared=True,
    )
    average_decay: float | None = setting(
        default=None,
        help="""what is evaluated and saved is the mean of all steps, each of which counts this
        share of the next one (an exponential moving average, such as 0.99); 0 for the last step
        alone. None: 0.95 for a prompt (0 with share or trainable), else 0.""",
        group="training",
        identity=True,
        shared=True,
        bounds=SHARE_OR_NONE,
    )
    dropout_rate: float | None = setting(
        default=None,
        help="of the network. None: 0 for a prompt and in retrieval, else 0.1, as in T5X.",
        group="training",
        bounds=Bounds(0, 0.999),
        identity=True,
        shared=True,
    )


@settings
class RecipeConfig(FormConfig):
    """The recipe of a run."""

    learning_rate: float | None = setting(
        default=None,
        help="""of the optimizer. None: 0.3 for a prompt (for retrieval a fifth of the size of the
        model's embeddings), 0.001 for a model, of an adapter what its method has.""",
        group="training",
        first=True,
        identity=True,
        bounds=LEARNING_RATE,
    )
    schedule: str = setting(
        default="constant",
        help="of the learning rate after its warm-up: constant, or linear, to 0 at train_steps.",
        group="training",
        choices=SCHEDULES,
        identity=True,
        shared=True,
    )
    warmup_steps: int = setting(
        default=0,
        help="steps in which the learning rate rises from 0.",
        group="training",
        identity=True,
        shared=True,
        bounds=STEP,
    )
    z_loss: float = setting(
        default=1e-4,
        help="keeps the softmax normaliser near 1, as in T5X.",
        group="training",
        identity=True,
        shared=True,
        bounds=Z_LOSS,
    )
    label_smoothing: float = setting(
        default=0.0,
        help="the share of each target's probability that all other tokens get, as in T5X.",
        group="training",
        identity=True,
        shared=True,
        bounds=SHARE_OR_NONE,
    )
    loss_normalization: str = setting(
        default="sum",
        help="the sum over target tokens, as in T5X, or their mean.",
        group="training",
        choices=("sum", "mean"),
        identity=True,
        shared=True,
    )
