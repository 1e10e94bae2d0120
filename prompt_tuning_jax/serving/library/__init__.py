"""The prompts of a server by their names: a folder's or a bucket's, and what each of them is."""

from prompt_tuning_jax.serving.library.errors import Conflict, UnknownPrompt, Unusable
from prompt_tuning_jax.serving.library.prompt_library import Form, PromptLibrary

__all__ = ["Conflict", "Form", "PromptLibrary", "UnknownPrompt", "Unusable"]
