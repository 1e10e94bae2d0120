#!/usr/bin/env bash
# Runs T5X, or this package's own trainer, on every host of a Cloud TPU pod slice.
#   scripts/launch_tpu_pod.sh ACTION --name NAME --zone ZONE [options] [-- PROGRAM ARGUMENTS]
#
# Actions
#   run       all of it: makes the slice unless it is there, installs, starts the program on every
#             host and follows it to its end. A slice that is pre-empted is made again and the same
#             command started again, which continues from its model directory. May itself be
#             interrupted: the program goes on, and the same `run` follows it again.
#   create    makes the slice           install  copies this checkout there and installs it
#   start     starts the program        status   one line per host: running, or how it ended
#   logs      the end of every log      stop     ends the program       delete  deletes the slice
#
# Options
#   --name NAME --zone ZONE    of the slice; --project PROJECT where it is not gcloud's default
#   --type TYPE                accelerator type (v4-32)
#   --version VERSION          runtime version of the hosts (tpu-ubuntu2204-base)
#   --spot                     a slice that may be pre-empted, at a lower price
#   --module MODULE            what runs (t5x.train): t5x.eval, t5x.infer, or prompt_tuning_jax, this
#                              package's own engine: the arguments are then a command's, as in
#                              `-- train --model_dir ...`, a directory that all hosts mount
#   --copy FILE                also copies this file, such as your tasks.py; may be repeated
#   --poll SECONDS             how often `run` looks (60)
#   --max_restarts N           how many lost slices `run` replaces (100)
#   --delete_after             `run` deletes the slice when the program has ended
#   --dry_run                  prints the commands, runs none
#
# Needs gcloud, logged in, and `ssh-add ~/.ssh/google_compute_engine` once per session. Examples:
#   scripts/launch_tpu_pod.sh run --name pod --zone us-central2-b --type v4-32 --spot -- \
#     --gin_file=my_run.gin --gin.MODEL_DIR="'gs://bucket/run'"
#   scripts/launch_tpu_pod.sh run --name pod --zone us-central2-b --module prompt_tuning_jax -- \
#     train --gin_file=my_run.gin --model_dir /mnt/shared/runs/one
set -euo pipefail

folder=prompt_tuning_jax # on the hosts, in the home directory
archive=$folder.tar.gz
python=3.12 # installed on the hosts, whose own is older than this package supports

say() { printf 'launch_tpu_pod: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }

action=${1:-}
name='' zone='' project='' type=v4-32 version=tpu-ubuntu2204-base module=t5x.train
poll=60 max_restarts=100 spot='' delete_after='' dry_run=''
copies=() arguments=()

parse() {
  case $action in
    -h | --help | '') usage; exit ;;
    run | create | install | start | status | logs | stop | delete) shift ;;
    *) fail "unknown action $action; see --help" ;;
  esac
  while (($#)); do
    case $1 in
      --) arguments=("${@:2}"); break ;;
      -h | --help) usage; exit ;;
      --dry_run | --delete_after | --spot) printf -v "${1#--}" yes; shift ;;
      --name | --zone | --project | --type | --version | --module | --poll | --max_restarts | --copy)
        (($# > 1)) || fail "$1 needs a value; see --help"
        if [[ $1 == --copy ]]; then copies+=("$(realpath -- "$2")"); else printf -v "${1#--}" %s "$2"; fi
        shift 2
        ;;
      *) fail "unknown argument $1; the program's own arguments follow --; see --help" ;;
    esac
  done
}

check() {
  [[ $name && $zone ]] || fail "--name and --zone say which slice; see --help"
  [[ $poll =~ ^[0-9]+([.][0-9]+)?$ ]] || fail "--poll must be a number of seconds, not $poll"
  [[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max_restarts must be a number, not $max_restarts"
  local item
  for item in "${copies[@]}"; do [[ -f $item ]] || fail "--copy $item: there is no such file"; done
  [[ $dry_run ]] || command -v gcloud >/dev/null ||
    fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
  case $action in run | start) ;; *) return 0 ;; esac
  ((${#arguments[@]})) || fail "$module needs arguments, after --; see --help"
  check_model_dir "${arguments[@]}"
}

check_model_dir() { # as T5X's macro, or as this package's option with one word or two
  local directory
  while (($#)); do
    directory=
    case $1 in
      --gin.MODEL_DIR=* | --model[-_]dir=*) directory=${1#*=} ;;
      --model[-_]dir) directory=${2:-} ;;
    esac
    shift
    [[ $directory ]] || continue
    [[ $directory != *gs://* || $module == t5x.* ]] ||
      fail "$module writes to a directory: mount the bucket on all hosts and name it by its path"
    [[ $directory == *gs://* ]] ||
      say "warning: $directory is lost with the slice unless it is on a disk that all hosts mount"
  done
}

quote() { # words, quoted for a shell where they must be
  local word
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then printf '%s ' "$word"; else printf '%s ' "${word@Q}"; fi
  done
}

run_or_print() {
  if [[ $dry_run ]]; then quote "$@" && printf '\n\n'; else "$@"; fi
}
gcloud_tpu() { run_or_print gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
on_every_host() { gcloud_tpu ssh "$name" --worker=all --command="$1"; }

create() {
  gcloud_tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}
}
delete() { gcloud_tpu delete "$name"; }

install() {
  git diff --quiet HEAD || say "warning: uncommitted changes are not installed"
  local command="mkdir -p $folder && tar -xzf $archive -C $folder" file
  for file in "${copies[@]}"; do command+=" && mv $(quote "${file##*/}") $folder"; done
  command+=" && cd $folder && python3 -m pip install --quiet --user uv"
  command+=" && ~/.local/bin/uv venv --quiet --seed --allow-existing --python $python .venv"
  case $module in
    t5x.*) command+=" && scripts/install_t5x.sh --venv .venv --accelerator tpu" ;;
    *) command+=" && .venv/bin/python -m pip install --quiet --editable '.[data]' 'jax[tpu]'" ;;
  esac
  run_or_print git archive --format=tar.gz --output="$work/$archive" HEAD &&
    gcloud_tpu scp "$work/$archive" "${copies[@]}" "$name:" --worker=all &&
    on_every_host "$command"
}

# Detached, so that a lost connection does not end the program; its exit status goes to run.exit.
start() {
  local program way=scripts/run_on_host.py
  [[ $module == t5x.* ]] || way=-m # this package's programs find the other hosts themselves
  program="$(quote .venv/bin/python "$way" "$module" "${arguments[@]}")
echo \$? > run.exit"
  if [[ $dry_run ]]; then
    printf "cat > %s <<'END'\n%s\nEND\n\n" "$work/run.sh" "$program"
  else
    echo "$program" >"$work/run.sh"
  fi
  gcloud_tpu scp "$work/run.sh" "$name:$folder/" --worker=all &&
    on_every_host "cd $folder && rm -f run.exit && \
{ nohup setsid bash run.sh > run.log 2>&1 < /dev/null & echo \$! > run.pid; }"
}

status() { # per host: state=running, state=EXIT_STATUS, or state=none
  on_every_host "cd $folder 2> /dev/null || { echo state=none; exit; }; \
if [ -f run.exit ]; then echo state=\$(cat run.exit); \
elif [ -f run.pid ] && kill -0 \$(cat run.pid) 2> /dev/null; then echo state=running; \
else echo state=none; fi"
}

logs() { on_every_host "tail -n 40 $folder/run.log"; }

stop() { # our own trainer saves when it is told to end, and gets a minute for it
  on_every_host "cd $folder 2> /dev/null && [ -f run.pid ] || exit 0; group=-\$(cat run.pid); \
kill -- \$group 2> /dev/null; \
for moment in \$(seq 300); do kill -0 -- \$group 2> /dev/null || break; sleep 0.2; done; \
kill -9 -- \$group 2> /dev/null; rm -f run.pid"
}

slice_state() { # READY, CREATING, PREEMPTED, ...; NONE: there is no such slice; UNKNOWN: see errors
  gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format='value(state)' 2>"$work/errors" ||
    if grep -q NOT_FOUND "$work/errors"; then echo NONE; else echo UNKNOWN; fi
}

run_state() { # of all hosts together: running, done, failed, none (on some host), or unknown
  local states
  states=$(status 2>"$work/errors" | grep -o 'state=.*' | sort -u)
  case $states in
    '') echo unknown ;;
    state=0) echo 'done' ;;
    *state=[1-9]*) echo failed ;;
    *state=none*) echo none ;;
    *) echo running ;;
  esac
}

# Makes the slice and starts the program on it, unless they are there and running already.
bring_up() {
  local state
  state=$(slice_state)
  case $state in
    READY)
      if [[ $(run_state) == running ]]; then
        say "following the program that runs on $name"
        return
      fi
      stop
      ;;
    NONE) create || return ;;
    UNKNOWN) fail "cannot ask for the state of $name: $(<"$work/errors")" ;;
    *) say "slice $name is $state; making it again" && delete && create || return ;;
  esac && install && start
}

# Waits for the program to end. Returns 1 if the slice is lost, or the program on some host.
follow() {
  while sleep "$poll"; do
    case $(slice_state) in READY) ;; UNKNOWN) continue ;; *) return 1 ;; esac
    case $(run_state) in
      done) return 0 ;;
      none) return 1 ;;
      unknown) say "cannot reach the hosts, trying on: $(tail -n 1 "$work/errors")" ;;
      failed)
        sleep "$poll" # pre-emption ends the program before the slice says so
        [[ $(slice_state) == READY ]] || return 1
        logs
        stop
        fail "$module failed; $name is kept: run again when it is mended, or delete it"
        ;;
    esac
  done
}

run() {
  if [[ $dry_run ]]; then
    create && install && start && status && logs
  else
    local restarts=0
    until bring_up && follow; do
      ((restarts++ < max_restarts)) || fail "gave up after $max_restarts restarts"
      say "starting again, number $restarts"
      sleep "$poll"
    done
    logs
    say "$module has ended"
  fi
  [[ ! $delete_after ]] || delete
}

parse "$@"
check
cd "$(dirname "$0")/.."
where=(--zone="$zone" --quiet ${project:+--project="$project"})
work=/tmp
if [[ ! $dry_run ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
"$action"
