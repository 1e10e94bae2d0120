#!/usr/bin/env bash
# A prompt to PEFT and back: an adapter directory, then a prompt file that answers as before.
# Half a minute. PEFT itself is not needed. Writes to runs/examples/peft.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac
out=runs/examples/peft
text="I dined at the Wild Bear, and the cook was remarkable."

prompt-tuning export bundled_topic "$out/adapter"   # for PeftModel.from_pretrained
prompt-tuning export bundled_topic "$out/topic.npy" # the bare array, for any other server
prompt-tuning import "$out/adapter" "$out/prompt" --model bundled \
    --verbalizers film restaurant hotel job park match
echo "$text" | prompt-tuning infer --prompt bundled_topic
echo "$text" | prompt-tuning infer --prompt "$out/prompt"
