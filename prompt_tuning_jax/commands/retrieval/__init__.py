"""Commands of models that embed texts."""
