"""Serving: one frozen model, many prompts, and every request with its own."""
