"""What tests share: real data where it is present."""

import os
from pathlib import Path

GOLDENS = Path(__file__).parent / "goldens"


def shared_dir() -> Path | None:
    """Real data and large goldens: PROMPT_TUNING_SHARED, or `shared` beside the repository."""
    named = os.environ.get("PROMPT_TUNING_SHARED")
    path = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return path if (path / "data").is_dir() else None
