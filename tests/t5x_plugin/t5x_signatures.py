"""What our gin files and plugin use of T5X, by name and parameters: a stand-in where T5X is not.

python t5x_signatures.py > ../goldens/t5x/signatures.json     # where T5X is installed
"""

import importlib
import inspect
import json
import sys
import types
from pathlib import Path
from unittest import mock

FILE = Path(__file__).parents[1] / "goldens" / "t5x" / "signatures.json"
NAMES = {
    "checkpoints": ("LazyArray", "get_step_from_checkpoint_dir", "latest_step"),
    "decoding": ("beam_search", "temperature_sample"),
    "eval": ("evaluate",),
    "gin_utils": ("summarize_gin_config",),
    "infer": ("infer",),
    "metrics": ("AveragePerStep",),
    "models": ("DecoderOnlyModel", "DecoderParams", "EncoderDecoderModel"),
    "optimizers": ("OptaxStatePartitionRules", "OptaxWrapper"),
    "partitioning": ("PjitPartitioner", "standard_logical_axis_rules"),
    "state_utils": ("flatten_state_dict",),
    "train": ("train",),
    "trainer": ("Trainer",),
    "utils": (
        "CheckpointConfig",
        "DatasetConfig",
        "RestoreCheckpointConfig",
        "SaveCheckpointConfig",
        "TrainStateInitializer",
        "create_learning_rate_scheduler",
        "get_dataset",
    ),
}
Signatures = dict[str, dict[str, dict]]


def of_t5x() -> Signatures:
    """Module -> name -> what it is and what it takes, of the T5X that is installed."""
    return {
        module: {name: _describe(importlib.import_module(f"t5x.{module}"), name) for name in names}
        for module, names in NAMES.items()
    }


def _describe(module: types.ModuleType, name: str) -> dict:
    found = getattr(module, name)
    parameters = inspect.signature(found).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    return {
        "class": inspect.isclass(found),
        "needs": needed,
        "may": [p.name for p in parameters if p.name not in needed],
    }


def stand_in(signatures: Signatures) -> None:
    """Puts modules of these names in place of T5X's; each object keeps what it is called with."""
    sys.modules["t5x"] = package = types.ModuleType("t5x")
    package.__path__ = []
    for module, names in signatures.items():
        made = types.ModuleType(f"t5x.{module}")
        for name, facts in names.items():
            setattr(made, name, _make(made.__name__, name, facts))
        setattr(package, module, made)
        sys.modules[made.__name__] = made


def _make(module: str, name: str, facts: dict) -> object:
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(name, positional) for name in facts["needs"]]
        + [inspect.Parameter(name, positional, default=None) for name in facts["may"]]
    )

    def given(*args, **kwargs) -> dict:
        return signature.bind(*args, **kwargs).arguments

    if facts["class"]:

        def __init__(self, *args, **kwargs):
            self.given = given(*args, **kwargs)

        self = inspect.Parameter("self", positional)
        __init__.__signature__ = inspect.Signature([self, *signature.parameters.values()])
        return type(name, (), {"__init__": __init__, "__module__": module, "_RULES": {}})

    def function(*args, **kwargs):
        return mock.MagicMock(given=given(*args, **kwargs))

    function.__name__ = function.__qualname__ = name
    function.__module__, function.__signature__ = module, signature
    return function


if __name__ == "__main__":
    print(json.dumps(of_t5x()))
