#!/usr/bin/env bash
# Runs `prompt-tuning COMMAND ...` as a SLURM job: one process for each GPU, or for each node.
#   scripts/launch_slurm.sh [options] -- COMMAND [ARGUMENTS]
#
# The processes find each other. A job that is pre-empted or reaches its time limit saves its state
# two minutes before the end, is queued again, and continues from its --model_dir, which must be a
# directory that all nodes see.
#
# Options
#   --nodes N              how many (1)
#   --gpus N               of each node (0: the processors only)
#   --time LIMIT           as SLURM writes it (24:00:00)
#   --name NAME            of the job (prompt_tuning)
#   --python PYTHON        of an environment that all nodes see (.venv/bin/python)
#   --option OPTION        handed to sbatch as it is, such as --partition=gpu; may be repeated
#   --dry_run              prints the job's script, submits nothing
#
# Example, on four nodes with eight GPUs each:
#   scripts/launch_slurm.sh --nodes 4 --gpus 8 --option --partition=gpu -- \
#     train --gin_file=my_run.gin --model_dir /shared/runs/one --mesh data:4,model:8
set -euo pipefail

say() { printf 'launch_slurm: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }

nodes=1 gpus=0 time=24:00:00 name=prompt_tuning python=.venv/bin/python dry_run=''
options=() arguments=()

parse() {
  (($#)) || { usage; exit; }
  while (($#)); do
    case $1 in
      --) arguments=("${@:2}"); break ;;
      -h | --help) usage; exit ;;
      --dry_run) dry_run=yes; shift ;;
      --nodes | --gpus | --time | --name | --python | --option)
        (($# > 1)) || fail "$1 needs a value; see --help"
        if [[ $1 == --option ]]; then options+=("$2"); else printf -v "${1#--}" %s "$2"; fi
        shift 2
        ;;
      *) fail "unknown argument $1; the command and its arguments follow --; see --help" ;;
    esac
  done
}

check() {
  [[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes must be a number above 0, not $nodes"
  [[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus must be a number, not $gpus"
  ((${#arguments[@]})) || fail "there is no command after --; see --help"
  [[ -x $python ]] ||
    fail "--python $python: there is no such program; name one, or make .venv with scripts/quickstart.sh"
  [[ $dry_run ]] || command -v sbatch >/dev/null || fail "sbatch is not here: run this where SLURM is"
}

# The job: 143 is the exit status of a run that SIGTERM stopped after it saved its state.
script() {
  printf '#!/usr/bin/env bash\n'
  printf '#SBATCH %s\n' --job-name="$name" --nodes="$nodes" --ntasks-per-node="$((gpus ? gpus : 1))" \
    --time="$time" --signal=TERM@120 --requeue --open-mode=append --output="$name.%j.log" \
    --exclusive
  ((!gpus)) || printf '#SBATCH --gpus-per-node=%s\n' "$gpus"
  ((!${#options[@]})) || printf '#SBATCH %s\n' "${options[@]}"
  # A process that fails tells the others itself, which then say so and end.
  printf 'srun --kill-on-bad-exit=0'
  printf ' %q' "$python" -m prompt_tuning_jax "${arguments[@]}"
  printf '\nstatus=$?\n'
  # shellcheck disable=SC2016
  printf '((status != 143)) || scontrol requeue "$SLURM_JOB_ID"\nexit $status\n'
}

parse "$@"
check
if [[ $dry_run ]]; then script; else script | sbatch; fi
