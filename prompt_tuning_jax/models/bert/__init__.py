"""BERT and its like: encoders with learned positions, whose norms stand after what they add."""

from prompt_tuning_jax.models.bert.config import BertConfig

__all__ = ["BertConfig"]
