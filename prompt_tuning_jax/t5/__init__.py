"""The frozen model: an ordinary T5 whose encoder has one place for a prompt."""

from prompt_tuning_jax.t5.config import T5Config, mt5, t5_1_0, t5_1_1
from prompt_tuning_jax.t5.network import Transformer

__all__ = ["T5Config", "Transformer", "mt5", "t5_1_0", "t5_1_1"]
