"""A tuned query side as a sentence-transformers model: how it is written, and what loads it."""
