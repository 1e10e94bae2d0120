"""What several test files need."""

import os
from pathlib import Path


def shared_dir() -> Path | None:
    """The folder of real data, where there is one: PROMPT_TUNING_SHARED, or `../shared`."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("PROMPT_TUNING_SHARED") or beside)
    return path if path.is_dir() else None
