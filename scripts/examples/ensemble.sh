#!/usr/bin/env bash
# Five prompts of one task as an ensemble: each member, their mean, the best, and the vote of all.
# One minute on 2 CPU cores; LIMIT=20 for a quick look. The members differ in their seed alone.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac
members=(bundled_woman bundled_woman_seed{1,2,3,4})

prompt-tuning evaluate bundled_woman --prompts "${members[@]}" --limit "${LIMIT:-None}"
echo "Elsa stayed at the Aspen Manor, and she loved it." \
    | prompt-tuning infer --prompts "${members[@]}"
