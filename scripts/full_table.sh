#!/usr/bin/env bash
# Measures what the README's table shows, and draws its picture: the bundled tasks, SST-2 and, if
# SuperGLUE's release is given, RTE and CB, over 3 seeds, but two of the bundled tasks with one.
#   scripts/full_table.sh path/to/glue/SST-2 [path/to/superglue]
set -euo pipefail
case "${1:-}" in -h | --help | "") sed -n '2,4s/^# *//p' "$0"; exit ;; esac
sst2=$(realpath "$1")
super_glue=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."
compare() { # NAME SEEDS [settings]
  .venv/bin/python -m prompt_tuning_jax compare --gin_file=experiments/quickstart.gin \
    --average_decay 0 --seeds "$2" --model_dir "runs/table/$1" "${@:3}"
  cp -f "runs/table/$1/comparison.json" "scripts/results/comparison/$1.json"
}
files() { # NAME DIRECTORY TEXT_PROMPTS [settings]
  compare "$1" 3 --task None --data_dir "$2" --text_prompts "$3" "${@:4}"
}
for task in narrator verdict season woman topic sentiment; do
  compare "bundled_$task" 3 --task "bundled_$task"
done
for task in sentiment_shift place; do
  compare "bundled_$task" 1 --task "bundled_$task"
done
cp runs/table/bundled_narrator/comparison.png scripts/results/comparison.png
files SST-2 "$sst2" scripts/text_prompts/sst2.txt --input_template '{sentence}' \
  --verbalizers 0=negative 1=positive --train_steps 600 --method_steps model=150
[ -n "$super_glue" ] || exit 0
pair='premise: {premise} hypothesis: {hypothesis}'
files RTE "$super_glue/RTE" scripts/text_prompts/rte.txt --input_template "$pair" \
  --verbalizers entailment=yes not_entailment=no --train_steps 120 --method_steps model=40
files CB "$super_glue/CB" scripts/text_prompts/cb.txt --input_template "$pair" \
  --verbalizers entailment=yes contradiction=no neutral=maybe --train_steps 120 \
  --method_steps model=40
