"""Frozen decoder-only language models: one block with switches for every family of them.

The same blocks, seeing both ways, are encoders that embed texts.
"""

from prompt_tuning_jax.models.causal.config import (
    BidirectionalConfig,
    CausalConfig,
    LayerKind,
    Rotary,
)

__all__ = ["BidirectionalConfig", "CausalConfig", "LayerKind", "Rotary"]
