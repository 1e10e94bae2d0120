#!/usr/bin/env bash
# Makes .venv if need be, installs the package with what the tests need, and runs them.
#   scripts/test.sh [pytest arguments]      PYTHON=python3.12 scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[data,dev]'
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
