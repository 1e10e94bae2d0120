"""Prompt tuning of frozen language models (Lester, Al-Rfou & Constant 2021) in JAX.

import prompt_tuning_jax as pt

model = pt.load_model("bundled")
prompt, history = pt.train(task="bundled_verdict", model_dir="runs/verdict", prompt_length=20)
labels, scores = model.classify(texts, ["orange", "purple"], prompt=prompt)
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompt_tuning_jax.banks import TunedBank
    from prompt_tuning_jax.checkpoints.prompt_file import load_bank, load_prompt, save_prompt
    from prompt_tuning_jax.data.files import file_task
    from prompt_tuning_jax.data.task import ExampleList, Task
    from prompt_tuning_jax.embedding import EmbeddingModel, load_embedding_model
    from prompt_tuning_jax.evaluation.evaluate import evaluate
    from prompt_tuning_jax.evaluation.scoring import Evaluation
    from prompt_tuning_jax.interpretation.interpret import interpret
    from prompt_tuning_jax.model import FrozenModel, load_model
    from prompt_tuning_jax.models.t5 import T5Config, Transformer
    from prompt_tuning_jax.optim import paper_adafactor
    from prompt_tuning_jax.settings.train_config import TrainConfig
    from prompt_tuning_jax.train import train, train_many
    from prompt_tuning_jax.training.comparison.compare import compare
    from prompt_tuning_jax.training.set_up import TrainResult
    from prompt_tuning_jax.training.sweep.sweep import sweep
    from prompt_tuning_jax.training.transfer.recycling import recycle
    from prompt_tuning_jax.training.transfer.similarity import similar
    from prompt_tuning_jax.tuned_prompt import TunedPrompt
    from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

__version__ = "0.1.0"
__all__ = [
    "EmbeddingModel",
    "Evaluation",
    "ExampleList",
    "FrozenModel",
    "T5Config",
    "Task",
    "TrainConfig",
    "TrainResult",
    "Transformer",
    "TunedBank",
    "TunedPrompt",
    "Vocabulary",
    "compare",
    "evaluate",
    "file_task",
    "interpret",
    "load_bank",
    "load_embedding_model",
    "load_model",
    "load_prompt",
    "load_vocabulary",
    "paper_adafactor",
    "recycle",
    "save_prompt",
    "similar",
    "sweep",
    "train",
    "train_many",
]

# Read at first use, so that `prompt-tuning --help` need not wait for JAX.
_MODULES = {
    "banks": ("TunedBank",),
    "checkpoints.prompt_file": ("load_bank", "load_prompt", "save_prompt"),
    "embedding": ("EmbeddingModel", "load_embedding_model"),
    "evaluation.evaluate": ("evaluate",),
    "data.files": ("file_task",),
    "data.task": ("ExampleList", "Task"),
    "evaluation.scoring": ("Evaluation",),
    "interpretation.interpret": ("interpret",),
    "model": ("FrozenModel", "load_model"),
    "models.t5": ("T5Config", "Transformer"),
    "optim": ("paper_adafactor",),
    "settings.train_config": ("TrainConfig",),
    "train": ("train", "train_many"),
    "training.comparison.compare": ("compare",),
    "training.sweep.sweep": ("sweep",),
    "training.set_up": ("TrainResult",),
    "training.transfer.recycling": ("recycle",),
    "training.transfer.similarity": ("similar",),
    "tuned_prompt": ("TunedPrompt",),
    "vocabularies": ("Vocabulary", "load_vocabulary"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


class _Package(types.ModuleType):
    """This package: a public name is imported when it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Whoever imports the module `train` has Python bind it here, where `train` is a function.
        if name not in _HOME or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
