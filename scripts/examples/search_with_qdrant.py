"""Stored documents in Qdrant (`pip install qdrant-client`), asked by a tuned query side; seconds.

prompt-tuning index --model all-MiniLM-L6-v2 --documents my_data/corpus.jsonl --output index
python scripts/examples/search_with_qdrant.py index "When does the boat go?" --prompt runs/faq/best
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
    from qdrant_client import QdrantClient, models

    store = load_store(args.index)
    client = QdrantClient(path=str(args.index / "qdrant"))  # on files; a server's with url=
    if not client.collection_exists("documents"):
        vectors = store.rows(np.arange(len(store)))
        how = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
        client.create_collection("documents", vectors_config=how)
        pairs = zip(store.ids, store.texts, strict=True)
        documents = ({"_id": key, "text": text} for key, text in pairs)
        client.upload_collection("documents", vectors, documents)

    # The documents' vectors are the frozen model's: a prompt changes the question's alone.
    model = store.load_model()
    (asked,) = model.embed([args.question], prompt=args.prompt and pt.load_prompt(args.prompt))
    for point in client.query_points("documents", query=asked.tolist(), limit=5).points:
        print(f"{point.score:.4f}  {point.payload['_id']}  {point.payload['text'][:80]}")
    client.close()


if __name__ == "__main__":
    main()
