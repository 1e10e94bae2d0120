#!/usr/bin/env bash
# Measures every bundled task, and SST-2 from GLUE's release folder, as in the README's table, over 3 seeds.
#   scripts/full_table.sh path/to/glue/SST-2
set -euo pipefail
case "${1:-}" in -h | --help | "") sed -n '2,3s/^# *//p' "$0"; exit ;; esac
sst2=$(realpath "$1")
cd "$(dirname "$0")/.."
compare() {
  .venv/bin/python scripts/compare_methods.py --seeds 3 --steps 360 --model_steps 90 \
    --output scripts/results/comparison.json "$@"
}
compare --all --plot scripts/results/learning_curves.png
compare --data_dir "$sst2" --input_template '{sentence}' \
  --verbalizers '{"0": "negative", "1": "positive"}' --text_prompts scripts/text_prompts/sst2.txt
