#!/usr/bin/env bash
# Five prompts of one task as an ensemble: each member, their mean, the best, and the vote of all.
# One minute on 2 CPU cores; LIMIT=20 for a quick look. The members differ in their seed alone.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac
members="['bundled_woman'"
for seed in 1 2 3 4; do members+=", 'bundled_woman_seed$seed'"; done
members+="]"

prompt-tuning evaluate --gin.MIXTURE_OR_TASK_NAME=bundled_woman --gin.PROMPTS="$members" \
    --gin.LIMIT="${LIMIT:-None}"
echo "Elsa stayed at the Aspen Manor, and she loved it." \
    | prompt-tuning infer --gin.PROMPTS="$members"
