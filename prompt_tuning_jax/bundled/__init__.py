"""What comes with the package to try it on: a small T5, prompts for it, and its tasks."""

from pathlib import Path

BUNDLED = Path(__file__).parent / "model"
