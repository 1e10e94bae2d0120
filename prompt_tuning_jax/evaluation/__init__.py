"""Scores of a split, of many prompts, of an ensemble; answers to inputs."""
