"""What a shell makes of documented commands: the words that each program is given."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = (
    "python",
    "prompt-tuning",
    "scripts/install_t5x.sh",
    "scripts/launch_tpu_pod.sh",
    "scripts/test.sh",
)
_STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["SHELL_LOG"], "a") as log:
    log.write(json.dumps([os.environ["SHELL_NAME"], *sys.argv[1:]]) + "\\n")
"""


def commands(script: str) -> list[list[str]]:
    """The programs that bash starts for a script, with their arguments; none of them runs."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "stand_in.py").write_text(_STAND_IN)
        for name in PROGRAMS:
            program = here / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f'#!/bin/sh\nSHELL_NAME={name} exec {here}/stand_in.py "$@"\n')
        for file in (here / "stand_in.py", *(here / name for name in PROGRAMS)):
            file.chmod(0o755)
        (here / ".venv" / "bin").mkdir(parents=True)
        (here / ".venv" / "bin" / "activate").touch()
        log = here / "log"
        log.touch()
        path = f"{here}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "SHELL_LOG": str(log)}
        subprocess.run(["bash", "-euc", script], cwd=here, env=environment, check=True)
        return [json.loads(line) for line in log.read_text().splitlines()]
