#!/usr/bin/env bash
# Makes .venv if need be, installs the package with what the tests need, and runs them.
#   scripts/test.sh [pytest arguments]      scripts/test.sh -m slow
# With another Python, and the oldest or the newest releases that pyproject.toml allows:
#   VENV=.venv-oldest PYTHON=python3.11 PIP_CONSTRAINT=tests/constraints/oldest.txt scripts/test.sh
#   VENV=.venv-newest PYTHON=python3.13 PIP_CONSTRAINT=tests/constraints/newest.txt scripts/test.sh
# Python 3.14, for which there is no TensorFlow, skips the tests of SeqIO tasks.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit ;; esac
. scripts/environment.sh
venv=${VENV:-.venv}
make_environment "$venv"
case $(version_of "$venv/bin/python") in 3.14) extras=dev ;; *) extras=data,dev ;; esac
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
exec "$venv/bin/python" -m pytest -n 2 --dist worksteal "$@"
