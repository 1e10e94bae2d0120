#!/usr/bin/env bash
# Tunes a prompt on your own files, scores it, and asks it about a new text.
# One to two minutes on 2 CPU cores; STEPS=20 for a quick look. Writes to runs/examples/tune.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,3s/^# *//p' "$0"; exit ;; esac
out=runs/examples/tune
mkdir -p "$out/data"

# Your files: train, validation (and test) as .jsonl, .tsv or .csv, with fields of any name.
python - "$out/data" <<'PYTHON'
import itertools, json, pathlib, sys

words = {"good": ("lovely", "superb", "delightful"), "bad": ("awful", "boring", "dreadful")}
things = {"train": ("soup", "film", "hotel", "song", "walk", "book"), "validation": ("play", "room")}
for split, subjects in things.items():
    rows = [
        {"review": f"The {subject} was {word}.", "verdict": verdict}
        for subject, verdict in itertools.product(subjects, words)
        for word in words[verdict]
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    pathlib.Path(sys.argv[1], f"{split}.jsonl").write_text(text)
PYTHON

task=(
    --data_dir "$out/data" --input_template '{review}' --target_template '{verdict}'
    --verbalizers good=positive bad=negative
)
prompt-tuning train "${task[@]}" --model_dir "$out/run" --prompt_length 20 \
    --batch_size 16 --train_steps "${STEPS:-150}" --eval_period 50
prompt-tuning evaluate "${task[@]}" --prompt "$out/run/best"
echo "The concert was superb." | prompt-tuning infer --prompt "$out/run/best"
