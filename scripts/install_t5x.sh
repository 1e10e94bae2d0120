#!/usr/bin/env bash
# Installs a pinned T5X beside this package, for `python -m t5x.train`, `t5x.eval` and `t5x.infer`.
#   scripts/install_t5x.sh [--venv DIR] [--accelerator cpu|cuda|tpu]
#                          [--t5x DIR] [--airio DIR] [--jestimator DIR]
#
#   --venv DIR          virtual environment; default: the active one ($VIRTUAL_ENV), else .venv.
#                       Made where there is none, with $PYTHON (the first that serves on PATH).
#   --accelerator KIND  which JAX to install: cpu (the default; never downloads CUDA), cuda or tpu.
#   --t5x DIR           a source checkout instead of GitHub; likewise --airio and --jestimator.
#                       It is copied, not changed; another commit than the pinned one is reported.
#
# May be run again. Without --t5x, --airio and --jestimator, git and access to github.com are needed.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
((python_below <= 14)) || python_below=14 # there is no TensorFlow for Python 3.14

# The heads of April 2026, on which this package is tested.
declare -A COMMIT=(
  [airio]=69897df7d9a427b947a9f7bb4164c7782b43e601
  [jestimator]=326824a477feef6d92e6f44175000907a72899ca
  [t5x]=cc342d419ec3e3e9c4bf1df33c82330cafdc1e16
)
declare -A HOST=(
  [airio]=https://github.com/google/airio
  [jestimator]=https://github.com/google-research/jestimator
  [t5x]=https://github.com/google-research/t5x
)
declare -A CHECKOUT=()

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }

compare_with_pin() {
  local name=$1 directory=$2 commit
  if [[ ! -e $directory/.git ]] || ! commit=$(git -C "$directory" rev-parse HEAD 2>/dev/null); then
    say "warning: $directory is not a git checkout; whether it is ${COMMIT[$name]} is unknown"
  elif [[ $commit != "${COMMIT[$name]}" ]]; then
    say "warning: $directory is at $commit, tested is ${COMMIT[$name]}"
  elif ! git -C "$directory" diff --quiet HEAD; then
    say "warning: $directory has uncommitted changes"
  fi
}

venv=
accelerator=cpu
while (($#)); do
  case $1 in
    -h | --help) usage; exit ;;
    --venv | --accelerator | --t5x | --airio | --jestimator)
      (($# > 1)) || fail "$1 needs a value; see --help"
      case $1 in
        --venv) venv=$(realpath -m -- "$2") ;;
        --accelerator) accelerator=$2 ;;
        *) CHECKOUT[${1#--}]=$(realpath -m -- "$2") ;;
      esac
      shift 2
      ;;
    *) fail "unknown argument $1; see --help" ;;
  esac
done
for name in "${!CHECKOUT[@]}"; do
  [[ -d ${CHECKOUT[$name]}/$name ]] ||
    fail "--$name ${CHECKOUT[$name]} is no checkout of $name: it has no directory $name"
  compare_with_pin "$name" "${CHECKOUT[$name]}"
done
case $accelerator in
  cpu) jax=() ;;
  cuda) jax=("jax[cuda12]") ;;
  tpu) jax=("jax[tpu]") ;;
  *) fail "--accelerator is cpu, cuda or tpu, not $accelerator" ;;
esac
cd "$(dirname "$0")/.."
venv=${venv:-${VIRTUAL_ENV:-$PWD/.venv}}

copies=$(mktemp -d)
trap 'rm -rf "$copies"' EXIT

# Prints what pip is to install for a package. A checkout is copied first: pip builds in the
# directory it is given, and would also pick up what an earlier build has left there.
source_of() {
  local name=$1 directory=${CHECKOUT[$1]:-}
  if [[ -z $directory ]]; then
    echo "git+${HOST[$name]}@${COMMIT[$name]}"
    return
  fi
  mkdir "$copies/$name"
  tar -C "$directory" --exclude=./.git --exclude=./build --exclude='./*.egg-info' -cf - . |
    tar -C "$copies/$name" -xf -
  echo "$copies/$name"
}

say "step 1 of 4: the virtual environment $venv"
make_environment "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

say "step 2 of 4: this package, JAX and TensorFlow (about 1 GB comes in, unless pip has it; minutes)"
pip install --quiet --editable '.[t5x]' "${jax[@]}"
# --no-deps: what the three ask for (git heads, nightly packages) is not what they need.
say "step 3 of 4: airio, jestimator and T5X, built from source (about a minute)"
for name in airio jestimator t5x; do
  source=$(source_of "$name")
  say "  $name from ${CHECKOUT[$name]:-$source}"
  pip install --quiet --no-deps "$source"
done

check() {
  "$venv/bin/python" - <<'CHECK'
import importlib
import importlib.metadata
import sys

for module in ("t5x.train", "t5x.eval", "t5x.infer"):
    try:
        importlib.import_module(module)
    except Exception as error:
        sys.exit(f"import {module}: {type(error).__name__}: {error}")
names = ("t5x", "airio", "jestimator", "seqio", "tensorflow", "jax", "flax", "optax")
names += ("orbax-checkpoint", "prompt-tuning-jax")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
print("t5x.train, t5x.eval and t5x.infer are ready")
CHECK
}
say "step 4 of 4: whether t5x.train, t5x.eval and t5x.infer can be imported (half a minute)"
# What TensorFlow says of drivers and instructions as it starts is shown only after a failure.
check 2>"$copies/errors" || {
  cat "$copies/errors" >&2
  fail "T5X is installed but does not work; see the error above"
}
