"""Prompt tuning of frozen T5 models (Lester, Al-Rfou & Constant 2021) in JAX.

import prompt_tuning_jax as pt

model = pt.load_model("bundled")
prompt, history = pt.train(task="bundled_verdict", model_dir="runs/verdict", prompt_length=20)
labels, scores = model.classify(texts, ["orange", "purple"], prompt=prompt)
"""

import warnings

from prompt_tuning_jax.checkpoints.prompt_file import TunedPrompt, load_prompt, save_prompt
from prompt_tuning_jax.data import ExampleList, Task
from prompt_tuning_jax.evaluate import Evaluation, evaluate
from prompt_tuning_jax.files import file_task
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.optim import paper_adafactor
from prompt_tuning_jax.t5 import T5Config, Transformer
from prompt_tuning_jax.train import TrainConfig, TrainResult, train
from prompt_tuning_jax.vocabulary import Vocabulary

__version__ = "0.1.0"
__all__ = [
    "Evaluation",
    "ExampleList",
    "FrozenModel",
    "T5Config",
    "Task",
    "TrainConfig",
    "TrainResult",
    "Transformer",
    "TunedPrompt",
    "Vocabulary",
    "evaluate",
    "file_task",
    "load_model",
    "load_prompt",
    "paper_adafactor",
    "save_prompt",
    "train",
]

# `python -m prompt_tuning_jax.train` runs a module that this package has already imported.
warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning, "runpy")
