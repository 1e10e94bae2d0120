#!/usr/bin/env bash
# Measures what the README's table shows, and draws its picture: the bundled tasks, SST-2 and, if
# SuperGLUE's release is given, RTE and CB, over 3 seeds, but two of the bundled tasks with one.
#   scripts/full_table.sh path/to/glue/SST-2 [path/to/superglue]
set -euo pipefail
case "${1:-}" in -h | --help | "") sed -n '2,4s/^# *//p' "$0"; exit ;; esac
sst2=$(realpath "$1")
super_glue=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."
compare() {
  .venv/bin/python scripts/compare_methods.py --seeds 3 --steps 360 --model_steps 90 \
    --output scripts/results/comparison.json "$@"
}
entailment() {
  compare --data_dir "$super_glue/$1" --text_prompts "$2" --verbalizers "${@:3}" \
    --input_template 'premise: {premise} hypothesis: {hypothesis}' --steps 120 --model_steps 40
}
compare --task bundled_narrator bundled_verdict bundled_season \
  --plot scripts/results/learning_curve.png
compare --task bundled_woman bundled_topic bundled_sentiment
compare --task bundled_sentiment_shift bundled_place --seeds 1
compare --data_dir "$sst2" --input_template '{sentence}' \
  --verbalizers 0=negative 1=positive \
  --text_prompts scripts/text_prompts/sst2.txt --steps 600 --model_steps 150
[ -n "$super_glue" ] || exit 0
entailment RTE scripts/text_prompts/rte.txt entailment=yes not_entailment=no
entailment CB scripts/text_prompts/cb.txt entailment=yes contradiction=no neutral=maybe
