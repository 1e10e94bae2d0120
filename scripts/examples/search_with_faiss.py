"""Stored documents in FAISS (`pip install faiss-cpu`), asked by a tuned query side, in seconds.

prompt-tuning index --model all-MiniLM-L6-v2 --documents my_data/corpus.jsonl --output index
python scripts/examples/search_with_faiss.py index "When does the boat go?" --prompt runs/faq/best
"""

import argparse
from pathlib import Path

import numpy as np

import prompt_tuning_jax as pt
from prompt_tuning_jax.evaluation.retrieval.store import load_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path, help="a folder of `prompt-tuning index`")
    parser.add_argument("question")
    parser.add_argument("--prompt", help="a tuned prompt of the query side")
    args = parser.parse_args()
    import faiss

    store, file = load_store(args.index), args.index / "faiss.index"
    if not file.exists():
        vectors = store.rows(np.arange(len(store)))
        made = faiss.IndexFlatIP(vectors.shape[1])  # or any other kind of FAISS's
        made.add(vectors)
        faiss.write_index(made, str(file))

    # The documents' vectors are the frozen model's: a prompt changes the question's alone.
    model = store.load_model()
    asked = model.embed([args.question], prompt=args.prompt and pt.load_prompt(args.prompt))
    scores, rows = faiss.read_index(str(file)).search(asked, min(5, len(store)))
    for score, row in zip(scores[0], rows[0], strict=True):
        print(f"{score:.4f}  {store.ids[row]}  {store.texts[row][:80]}")


if __name__ == "__main__":
    main()
