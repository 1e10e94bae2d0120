"""The commands that carry prompts over: to other tasks, and to other models."""
