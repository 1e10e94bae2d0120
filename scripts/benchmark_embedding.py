"""Embedding, a training step and exact search: how fast, beside sentence-transformers and PEFT.

    python scripts/benchmark_embedding.py --model all-MiniLM-L6-v2 --torch_python PYTHON \\
        --output scripts/results/embedding.json

PYTHON has sentence-transformers and PEFT. Both libraries work in turns, each in a process for this
work alone that has compiled and warmed up; the median of --repeats counts, and the process's peak
memory.
A step: 32 queries of 24 tokens with a prompt of 8, in-batch negatives. Search: 32 queries among a
million vectors of 384 numbers, with FAISS's flat index beside it where it is installed.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXTS, ROWS, TOKENS, PROMPT = 512, 32, 24, 8
MILLION, NUMBERS, QUERIES, TOP = 1_000_000, 384, 32, 10


def texts() -> list[str]:
    """Of one to eight sentences, the same in every process."""
    sentence = "The river carried a wooden boat past the old mill and the quiet town. "
    return [f"Number {i}. " + sentence * (1 + i * 7 % 8) for i in range(TEXTS)]


def queries() -> list[str]:
    return [f"where did the boat number {i} go after the mill and the town?" for i in range(ROWS)]


def embed_by_ours(model_dir: str) -> Callable[[], Any]:
    import prompt_tuning_jax as pt

    model = pt.load_embedding_model(model_dir)
    return lambda: model.embed(texts())


def step_by_ours(model_dir: str) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import prompt_tuning_jax as pt
    from prompt_tuning_jax.optim import paper_adafactor
    from prompt_tuning_jax.training.retrieval.contrastive import contrastive_losses

    model = pt.load_embedding_model(model_dir)
    rng = np.random.default_rng(0)
    batch = {name: jnp.asarray(x) for name, x in model.tokenize(queries()).items()}
    documents = jnp.asarray(rng.normal(size=(ROWS, model.config.outputs)), jnp.float32)
    allowed, optimizer = jnp.ones((ROWS, ROWS), bool), paper_adafactor(0.01)
    prompt = jnp.asarray(rng.normal(size=(PROMPT, model.config.emb_dim)) * 0.05, jnp.float32)
    state = [prompt, optimizer.init(prompt)]

    @jax.jit
    def step(params, prompt, state, batch):
        def loss(prompt):
            vectors = model.embedded(params, prompt, batch)
            return contrastive_losses(vectors, documents, allowed, 0.05).mean()

        updates, state = optimizer.update(jax.grad(loss)(prompt), state, prompt)
        return prompt + updates, state

    def take_step() -> None:
        for _ in range(4):
            state[:] = step(model.params, *state, batch)
        jax.block_until_ready(state)

    return take_step


def embed_by_theirs(model_dir: str) -> Callable[[], Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(model_dir, device="cpu")
    return lambda: model.encode(texts(), batch_size=32)


def step_by_theirs(model_dir: str) -> Callable[[], Any]:
    import torch
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(0)
    how = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=PROMPT)
    tuned = get_peft_model(AutoModel.from_pretrained(model_dir), how)
    batch = AutoTokenizer.from_pretrained(model_dir)(queries(), padding=True, return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    documents = torch.randn(ROWS, tuned.config.hidden_size)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.01)

    def take_step() -> None:
        for _ in range(4):
            states = tuned(**batch).last_hidden_state[:, PROMPT:]
            mask = batch["attention_mask"][:, :, None].float()
            vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
            scores = vectors @ documents.T / 0.05
            torch.nn.functional.cross_entropy(scores, torch.arange(ROWS)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return take_step


WORK = {
    "embed": {"ours": embed_by_ours, "theirs": embed_by_theirs},
    "step": {"ours": step_by_ours, "theirs": step_by_theirs},
}


def search_seconds(repeats: int) -> dict[str, float]:
    """Of 32 queries among a million vectors, found exactly."""
    import numpy as np

    from prompt_tuning_jax.evaluation.retrieval.exact_search import nearest

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(MILLION, NUMBERS)).astype(np.float32)
    asked = rng.normal(size=(QUERIES, NUMBERS)).astype(np.float32)
    searches: dict[str, Callable[[], Any]] = {"ours": lambda: nearest(asked, vectors, TOP).rows}
    try:
        import faiss
    except ImportError:
        pass
    else:
        index = faiss.IndexFlatIP(NUMBERS)
        index.add(vectors)
        searches["faiss"] = lambda: index.search(asked, TOP)[1]
    found = [search() for search in searches.values()]
    assert all((rows == found[0]).mean() > 0.99 for rows in found)
    times = {name: [timed(search) for _ in range(repeats)] for name, search in searches.items()}
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def serve(job: str, library: str, model_dir: str) -> None:
    """Does the work once for each line of standard input; prints its seconds and memory so far."""
    work = WORK[job][library](model_dir)
    work()
    print("ready", flush=True)
    for _ in sys.stdin:
        seconds = timed(work)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps([seconds, memory]), flush=True)


class Worker:
    """A library in a process of its own."""

    def __init__(self, python: str, job: str, library: str, model_dir: str):
        command = [python, __file__, "--serve", job, library, "--model", model_dir]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        while self._process.stdout.readline().strip() != "ready":
            pass

    def again(self) -> list[float]:
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a directory of sentence-transformers'")
    parser.add_argument("--torch_python", help="an interpreter with sentence-transformers, PEFT")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve, args.model)
        return
    pythons = {"ours": sys.executable, "theirs": args.torch_python}
    found: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
    for job in WORK:
        workers = {
            name: Worker(python, job, name, args.model)
            for name, python in pythons.items()
            if python
        }
        rounds = [{name: one.again() for name, one in workers.items()} for _ in range(args.repeats)]
        found[job] = {
            name: {
                "seconds": round(statistics.median(each[name][0] for each in rounds), 3),
                "memory_gib": round(rounds[-1][name][1], 2),
            }
            for name in workers
        }
        for one in workers.values():
            one.end()
    found["search"] = search_seconds(args.repeats)
    print(json.dumps(found, indent=1))
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
