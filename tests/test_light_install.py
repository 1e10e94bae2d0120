"""Everything but SeqIO tasks works without TensorFlow, SeqIO and T5X."""

import subprocess
import sys

import pytest
from common import slow

BLOCKED = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x", "clu", "torch")
BLOCKED += ("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic", "ray")
SCRIPT = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))  # an import of any of them now fails
import importlib, pkgutil
import prompt_tuning_jax
heavy = ("data.seqio_source", "checkpoints.query_side.prompted_transformer", "serving.http.", )
heavy += ("serving.ray.", "tasks", "t5x_plugin")
for module in pkgutil.walk_packages(prompt_tuning_jax.__path__, "prompt_tuning_jax."):
    if not module.name.removeprefix("prompt_tuning_jax.").startswith(heavy):
        importlib.import_module(module.name)
print("imported")
"""


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_imports_without_tensorflow():
    done = run(SCRIPT)
    assert done.stdout == "imported\n", done.stderr


@pytest.mark.data
@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("data.seqio_source", "seqio"),
        slow("serving.http.", "fastapi"),
        slow("serving.ray.", "ray"),
        slow("checkpoints.query_side.prompted_transformer", "torch"),
    ],
)
def test_the_block_works(module, needs):
    """The same script does fail where a module needs what is blocked."""
    done = run(SCRIPT.replace(f'"{module}", ', ""))
    assert done.returncode
    assert needs in done.stderr
