"""Files of a run beside T5X's checkpoints, at any path, remote or not.

MODEL_DIR/prompts/N           a prompt at step N
MODEL_DIR/prompts/N/task_0    that of the first of several tasks
MODEL_DIR/adapters/N          an adapter
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tensorflow.io import gfile

from prompt_tuning_jax.checkpoints.t5x.storage import is_url

PROMPTS, ADAPTERS = "prompts", "adapters"
TASK = "task_{}"
FIRST_TASK = TASK.format(0)


@contextlib.contextmanager
def local_directory(path: str) -> Iterator[Path]:
    """A directory to write into; what is in it at the end is at `path`, remote or not."""
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as local:
        yield Path(local)
        gfile.makedirs(path)
        for file in sorted(os.listdir(local)):
            gfile.copy(os.path.join(local, file), os.path.join(path, file), overwrite=True)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A file or directory to read from."""
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as local:
        is_directory = gfile.isdir(path)
        for file in gfile.listdir(path) if is_directory else [os.path.basename(path)]:
            source = os.path.join(path, file) if is_directory else path
            gfile.copy(source, os.path.join(local, file))
        yield Path(local) if is_directory else Path(local) / os.path.basename(path)
