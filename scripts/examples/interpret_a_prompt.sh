#!/usr/bin/env bash
# What a prompt means: the words nearest to its vectors, clusters and norms, as tables and a page.
# Half a minute. Writes runs/examples/meaning/index.html, which any browser shows.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac

prompt-tuning interpret bundled_topic
prompt-tuning interpret bundled_topic --output runs/examples/meaning
