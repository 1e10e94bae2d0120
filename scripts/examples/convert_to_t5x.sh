#!/usr/bin/env bash
# The bundled model as a T5X checkpoint, compared with the original, with a prompt put in and taken
# out again. A few seconds; T5X itself is not needed. Writes to runs/examples/t5x.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac
out=runs/examples/t5x
rm -rf "$out"

prompt-tuning checkpoint convert bundled "$out/base" --to t5x
prompt-tuning checkpoint diff bundled "$out/base"
prompt-tuning checkpoint add-prompt "$out/base" bundled_topic "$out/tuned"
prompt-tuning checkpoint list "$out/tuned" | grep prompt
prompt-tuning import "$out/tuned" "$out/prompt" --model bundled
