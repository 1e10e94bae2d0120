"""The settings of a training run that are a matter of their own."""
