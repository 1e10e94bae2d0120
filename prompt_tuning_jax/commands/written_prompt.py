"""Where `export` and `import` write a prompt, and the line that says what was written."""

from pathlib import Path

from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.tuned_prompt import TunedPrompt


def check_directory(destination: PathLike, what: str) -> None:
    """ValueError where `what`, which is a directory, cannot be written: this is a file's name."""
    path = Path(destination)
    if path.is_file() or path.suffix == ".npy":
        raise ValueError(
            f"{destination} is a file's name, but {what} is a directory: choose another name. "
            "Plain arrays are written by `prompt-tuning export PROMPT NAME.npy`."
        )


def written(place: PathLike, what: str, prompt: TunedPrompt, model: PathLike | None) -> str:
    """The line that a command prints: what is at `place` now, and how the prompt is used."""
    whose = f"for {model}" if model else "for a model it does not name"
    use = prompt.layout if prompt.visibility == "full" else f"{prompt.layout}, {prompt.visibility}"
    return f"{place}: {what}, {list(prompt.shape)}, {use}, {whose}"
