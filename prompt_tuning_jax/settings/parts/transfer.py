"""What a run takes over from other tasks' prompts, and what runs have in common."""

from prompt_tuning_jax.bounds import COUNT, RATE, ROWS, SIZE, Bounds
from prompt_tuning_jax.methods.shared_parts import FORMS
from prompt_tuning_jax.settings.setting import PathLike, setting, settings


@settings
class TransferConfig:
    """How a run finds prompts to start from, and how runs share."""

    probe_steps: int = setting(
        default=50,
        help="""with prompt_init nearest:FOLDER, how many steps of its own the task takes first,
        from the default start, to be compared with the prompts in the folder.""",
        group="prompt",
        identity=True,
        bounds=COUNT,
    )
    share: str | None = setting(
        default=None,
        help="""a part that the prompts of all runs have in common and that trains on all their
        tasks: add, the sum of it and each one's own; concatenate, its rows before each one's own;
        product, its product with each one's factors of low rank (MPT); project, an affine map of
        it for each.""",
        group="prompt",
        choices=FORMS,
        identity=True,
        shared=True,
    )
    share_rows: int | None = setting(
        default=None,
        help="how many of a prompt's rows are in common where they are concatenated. None: half.",
        group="prompt",
        identity=True,
        shared=True,
        bounds=ROWS,
    )
    share_rank: int = setting(
        default=1,
        help="of each run's factors of a product.",
        group="prompt",
        identity=True,
        shared=True,
        bounds=SIZE,
    )
    mix_tasks: bool = setting(
        default=False,
        help="""with share, a step takes one batch of batch_size examples of all runs' tasks, each
        with its run's prompt; by default it takes a batch of each run.""",
        group="training",
        identity=True,
        shared=True,
    )
    task_rate: float | None = setting(
        default=None,
        help="""with mix_tasks, how often a run's examples come beside others'. None: as often as
        it has training examples.""",
        group="training",
        identity=True,
        bounds=RATE,
    )
    teachers: PathLike | None = setting(
        default=None,
        help="""with share, a folder of prompts, or the model_dir of their runs, in which each run's
        task has one: the prompts learn to answer as the model does behind these, too.""",
        group="training",
        shared=True,
    )
    teacher_weight: float = setting(
        default=1.0,
        help="how many times what the answers are apart counts in the loss.",
        group="training",
        identity=True,
        shared=True,
        bounds=Bounds(0, 1e6),
    )
