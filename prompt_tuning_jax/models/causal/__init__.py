"""Frozen decoder-only language models: one block with switches for every family of them."""

from prompt_tuning_jax.models.causal.config import CausalConfig, LayerKind, Rotary

__all__ = ["CausalConfig", "LayerKind", "Rotary"]
