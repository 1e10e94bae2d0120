"""A model's directory, from the Hugging Face hub where it is not here."""

import os
import re
from pathlib import Path

from prompt_tuning_jax.checkpoints.huggingface.bundled import BUNDLED_MODELS
from prompt_tuning_jax.checkpoints.huggingface.files import (
    ALL_FILES,
    has_weights,
    how_to_convert,
)

_HERE = " and ".join(BUNDLED_MODELS)
_PASS = f"Pass the directory of a model, or one of {', '.join(BUNDLED_MODELS)}."
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
ANSWER_SECONDS = 20.0
# Who turns pickles on the hub into safetensors, and what its pull requests are called.
_BOT, _OFFER = "SFconvertbot", "Adding `safetensors` variant of this model"


def resolve(directory_or_hub_name: str | os.PathLike) -> Path:
    """The directory of a model, downloaded if a hub name is given.

    Of a model that is on the hub as a pickle only, what the hub's own bot has made of it is taken:
    safetensors, which it offers as a pull request.

    Raises:
      FileNotFoundError: it is neither a directory here nor a name that the hub gives out, or the
        hub has no safetensors of it.
    """
    path = Path(directory_or_hub_name).expanduser()
    if path.is_dir():
        return path
    name = os.fspath(directory_or_hub_name)
    if path.is_file():
        raise FileNotFoundError(f"{path} is a file. {_PASS}")
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(f"There is no directory {path}. {_PASS}")
    try:
        directory = _download(name)
        if not has_weights(directory) and (converted := _conversion(name)):
            directory = _download(name, converted)
    except Exception as error:  # the client raises many kinds: no network, no such name, no access
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise FileNotFoundError(
            f"There is no directory {path}, and {name!r} could not be fetched from the Hugging "
            f"Face hub ({reason}). Download it where there is a network (config.json, the "
            "safetensors files, the tokenizer's files) and pass the path of that directory; "
            f"{_HERE} need no network."
        ) from error
    if not has_weights(directory):
        raise FileNotFoundError(
            f"{name} has no safetensors on the Hugging Face hub, and its bot offers none; a "
            f"{how_to_convert(name, directory)}"
        )
    return directory


def _download(name: str, revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download

    silent = _is_silent(name, revision)
    earlier = {"local_files_only": True} if silent else {}  # what was downloaded before
    files = list(ALL_FILES)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, **earlier))
    except Exception as error:
        if silent:
            raise ConnectionError(f"no answer for {ANSWER_SECONDS:.0f} seconds") from error
        raise


def _is_silent(name: str, revision: str | None) -> bool:
    """Whether the hub takes a question and gives no answer; the client would wait for ever."""
    from huggingface_hub import model_info

    try:
        model_info(name, revision=revision, timeout=ANSWER_SECONDS)
    except Exception as error:  # what else is wrong, the download says
        return "Timeout" in type(error).__name__
    return False


def _conversion(name: str) -> str | None:
    """The revision at which the hub's bot offers a model's weights as safetensors."""
    from huggingface_hub import get_repo_discussions
    from huggingface_hub.errors import HfHubHTTPError

    kind = {"discussion_type": "pull_request", "discussion_status": "open"}
    try:
        offers = list(get_repo_discussions(name, author=_BOT, **kind))
    except HfHubHTTPError:  # where a model takes no pull requests
        return None
    return next((one.git_reference for one in offers if one.title == _OFFER), None)
