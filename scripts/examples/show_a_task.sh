#!/usr/bin/env bash
# What a task is, before any training: records, texts, tokens, labels, lengths. Also as JSON.
# A few seconds; no weights are loaded.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac

prompt-tuning show-task bundled_place --examples 1 --prompt bundled_place
prompt-tuning show-task bundled_place --json --limit 100 \
    | python -c 'import json, sys; print("facts:", *json.load(sys.stdin))'
