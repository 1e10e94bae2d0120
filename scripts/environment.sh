# Sourced by the scripts that make a virtual environment, for `make_environment DIRECTORY`: with
# $PYTHON or, where that is not set, the first Python that serves of python3 and the versions by name.

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
fail() { say "$*"; exit 1; }

# Python 3.X serves from X = python_from to below python_below, as pyproject.toml says.
read -r python_from python_below < <(
  sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"$/\1 \2/p' \
    "$(dirname "${BASH_SOURCE[0]}")/../pyproject.toml"
)
supported() { echo "Python 3.$python_from to 3.$((python_below - 1))"; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
serves() { [[ $1 == 3.* ]] && ((${1#3.} >= python_from && ${1#3.} < python_below)); }

find_python() { # prints its name
  local name version
  if [[ ${PYTHON:-} ]]; then
    version=$(version_of "$PYTHON") || fail "PYTHON=$PYTHON does not start"
    serves "$version" || fail "PYTHON=$PYTHON is Python $version; this needs $(supported)"
    echo "$PYTHON"
    return
  fi
  for name in python3 python3.{13,12,11,14}; do # 3.14 last: TensorFlow is not made for it
    if serves "$(version_of "$name")"; then
      echo "$name"
      return
    fi
  done
  fail "there is no $(supported): install one (on Debian and Ubuntu python3 and python3-venv, if" \
    "they are so new), or name it with PYTHON=..."
}

make_environment() {
  local python version
  if [[ ! -L $1/bin/python && ! -e $1/bin/python ]]; then
    python=$(find_python)
    "$python" -m venv "$1" || fail "$python cannot make the virtual environment $1; see above"
    return
  fi
  version=$(version_of "$1/bin/python") && "$1/bin/python" -c 'import pip' 2>/dev/null ||
    fail "$1 is a broken virtual environment: remove it and run this again"
  serves "$version" ||
    fail "$1 was made with Python $version, and this needs $(supported): remove it and run this again"
  [[ ! ${PYTHON:-} || $(version_of "$PYTHON") == "$version" ]] ||
    fail "$1 was made with Python $version, which is not that of PYTHON=$PYTHON: remove it and run this again"
}
