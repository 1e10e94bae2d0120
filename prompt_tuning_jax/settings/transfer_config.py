"""What a run takes over from other tasks' prompts."""

from prompt_tuning_jax.bounds import COUNT
from prompt_tuning_jax.settings.setting import setting, settings


@settings
class TransferConfig:
    """How a run finds prompts to start from."""

    probe_steps: int = setting(
        default=50,
        help="""with prompt_init nearest:FOLDER, how many steps of its own the task takes first,
        from the default start, to be compared with the prompts in the folder.""",
        group="prompt",
        identity=True,
        bounds=COUNT,
    )
