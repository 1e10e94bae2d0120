"""Frozen models and tuned prompts on disk, in this project's format and in others'."""
