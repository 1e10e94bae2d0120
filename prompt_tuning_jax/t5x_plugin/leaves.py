"""Which leaves of T5X's state a run tunes: what a base checkpoint does not have."""

from prompt_tuning_jax.methods.adapters.choice import is_leaf
from prompt_tuning_jax.params import is_of_prompt, is_prompt


def is_tuned(name: str) -> bool:
    """Whether a parameter is a prompt, a part of one, or an adapter's leaf, by its flat name."""
    return is_prompt(name) or is_of_prompt(name) or is_leaf(name)
