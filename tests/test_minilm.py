"""all-MiniLM-L6-v2, where it was fetched: the vectors are sentence-transformers'."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from common import NEEDS_MINILM
from embedding_models import HERE, TEXTS

import prompt_tuning_jax as pt

SCRIPT = Path(__file__).parents[1] / "scripts" / "fetch_minilm.py"
# As in the golden: the last one is longer than the model reads.
ALL = [*TEXTS, " ".join(TEXTS * 3)]


def fetched() -> Path:
    described = importlib.util.spec_from_file_location("fetch_minilm", SCRIPT)
    script = importlib.util.module_from_spec(described)
    described.loader.exec_module(script)
    return script.cache()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (fetched() / "model.safetensors").is_file(), reason=NEEDS_MINILM),
]


def test_vectors():
    model, golden = pt.load_embedding_model(fetched()), np.load(HERE / "minilm.npz")
    assert (model.config.max_seq_length, model.config.outputs) == (256, 384)
    tokens = model.tokenize(ALL)["tokens"]
    np.testing.assert_array_equal((tokens >= 0).sum(axis=1), golden["tokens"])
    np.testing.assert_allclose(model.embed(ALL), golden["embeddings"], atol=2e-6, rtol=0)
    for counts in ("included", "excluded"):
        found = model.embed(ALL[:4], golden["prefix"], pool_prompt=counts == "included")
        np.testing.assert_allclose(found, golden[f"embeddings_prefix_{counts}"], atol=2e-6, rtol=0)
