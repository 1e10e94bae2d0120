"""Texts as vectors: the numbers are sentence-transformers', with a prompt and without."""

import dataclasses

import array_checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow
from embedding_models import NAMES, TEXTS, contrastive_loss, load, numbers

import prompt_tuning_jax as pt
from prompt_tuning_jax.data.text_rows import BatchSize, TextPrompts, TextRows
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import UsageError

EACH = pytest.mark.parametrize("name", NAMES)
COUNTS = pytest.mark.parametrize("counts", ["included", "excluded"])


def assert_equal(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0)


@EACH
class TestNumbers:
    def test_token_ids(self, name):
        io = numbers(name)
        expected = np.where(io["attention_mask"] > 0, io["input_ids"], -1)
        np.testing.assert_array_equal(load(name).tokenize(TEXTS)["tokens"], expected)

    def test_together_and_alone(self, name):
        model, expected = load(name), numbers(name)["embeddings"]
        assert_equal(model.embed(TEXTS), expected)
        assert_equal(model.embed(TEXTS, batch_size=8), expected)
        assert_equal(model.embed(TEXTS[:1]), expected[:1])

    def test_pooled_alone(self, name):
        model = load(name)
        bare = model.replace(config=dataclasses.replace(model.config, steps=()))
        np.testing.assert_allclose(bare.embed(TEXTS), numbers(name)["pooled"], atol=1e-5, rtol=0)

    @COUNTS
    def test_a_prompt_in_front(self, name, counts):
        model, io = load(name), numbers(name)
        found = model.embed(TEXTS, io["prefix"], pool_prompt=counts == "included")
        assert_equal(found, io[f"embeddings_prefix_{counts}"])

    @pytest.mark.parametrize("counts", ["excluded", slow("included")])
    def test_loss_and_gradient_of_the_prompt(self, name, counts):
        model, io = load(name), numbers(name)
        batch, counted = model.tokenize(TEXTS), counts == "included"

        def loss(params, prompt):
            vectors = model.embedded(params, prompt, batch, pool_prompt=counted)
            return contrastive_loss(vectors)

        made = jax.jit(jax.value_and_grad(loss, argnums=1))
        value, gradient = made(model.params, jnp.asarray(io["prefix"]))
        np.testing.assert_allclose(value, io[f"loss_prefix_{counts}"], atol=5e-6)
        np.testing.assert_allclose(gradient, io[f"grad_prefix_{counts}"], atol=1e-6)

    @COUNTS
    def test_a_text_prompt(self, name, counts):
        model = load(name)
        config = dataclasses.replace(model.config, include_prompt=counts == "included")
        found = model.replace(config=config).embed(TEXTS, text_prompt="query: ")
        assert_equal(found, numbers(name)[f"embeddings_text_prompt_{counts}"])

    @pytest.mark.parametrize("mesh", ["data:2", slow("model:2")])
    def test_a_mesh_changes_nothing(self, name, mesh):
        io = numbers(name)
        model = load(name, mesh=sharding.make_mesh(mesh))
        found = model.embed(TEXTS, io["prefix"], pool_prompt=True, batch_size=11)
        assert_equal(found, io["embeddings_prefix_included"])

    def test_each_text_with_a_prompt_of_its_own(self, name):
        model, rng = load(name), np.random.default_rng(0)
        prompts = {
            "long": pt.TunedPrompt(numbers(name)["prefix"]),
            "short": pt.TunedPrompt(rng.normal(size=(2, model.config.emb_dim)).astype(np.float32)),
            "end": pt.TunedPrompt(numbers(name)["prefix"][:3], layout="suffix_before_eos"),
        }
        names = np.array([list(prompts)[i % 3] for i in range(len(TEXTS))])
        found = model.embed(TEXTS, pt.TunedBank(prompts).rows(names.tolist()))
        for own, prompt in prompts.items():
            alone = model.embed(TEXTS, prompt)
            assert_equal(found[names == own], alone[names == own])
        assert np.abs(found[names != own] - alone[names != own]).max() > 0.01


@pytest.mark.parametrize("size", [BatchSize(8), BatchSize(8, 64), BatchSize(6, 100, parts=4)])
def test_every_text_is_in_one_batch_of_the_size_asked_for(size):
    rng = np.random.default_rng(0)
    rows = [[1] * count for count in rng.integers(1, 60, 45)]
    numbers = []
    for own, batch in TextRows(load(NAMES[0]).vocabulary).batches(rows, 0, 60, size):
        numbers += own.tolist()
        tokens = batch["tokens"]
        assert ((tokens[: len(own)] >= 0).sum(1) == [len(rows[i]) for i in own]).all()
        assert len(own) <= len(tokens) <= size.whole(size.rows)
        assert len(tokens) % size.parts == 0
        assert size.tokens is None or tokens.size <= size.tokens or len(tokens) == size.parts
    assert sorted(numbers) == list(range(45))


def test_a_cpu_reads_few_long_texts_at_once(monkeypatch):
    """What a program needs of memory while it runs; the vectors are the same."""
    model, sizes = load(NAMES[0]), []
    batch = TextRows.batch

    def noted(self, *args):
        made = batch(self, *args)
        sizes.append(made["tokens"].size)
        return made

    monkeypatch.setattr(TextRows, "batch", noted)
    monkeypatch.setattr("prompt_tuning_jax.embedding.TOKENS_ON_CPU", 96)
    assert_equal(model.embed(TEXTS), numbers(NAMES[0])["embeddings"])
    assert max(sizes) <= 96 < sum(sizes)


def test_what_counts_is_as_the_prompts_file_says():
    plain, io = load("bert"), numbers("bert")
    for counts, expected in ((True, "included"), (False, "excluded")):
        prompt = pt.TunedPrompt(io["prefix"], metadata={"pool_prompt": counts})
        for model in (plain, plain.replace(pool_prompt=not counts)):
            assert_equal(model.embed(TEXTS, prompt), io[f"embeddings_prefix_{expected}"])
    assert_equal(plain.embed(TEXTS, prompt, pool_prompt=True), io["embeddings_prefix_included"])
    assert_equal(plain.embed(TEXTS, io["prefix"]), io["embeddings_prefix_excluded"])
    counting = plain.replace(pool_prompt=True)
    assert_equal(counting.embed(TEXTS, io["prefix"]), io["embeddings_prefix_included"])
    bank = pt.TunedBank(
        {"a": prompt, "b": pt.TunedPrompt(io["prefix"], metadata={"pool_prompt": True})}
    )
    with pytest.raises(ValueError, match=r"count in the pooling and some do not: say pool_prompt"):
        plain.embed(TEXTS[:2], bank.rows(["a", "b"]))


def test_smaller_dtypes():
    model = load("bert")
    whole = model.embed(TEXTS)
    half = model.embed(TEXTS, dtype=np.float16)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, whole, atol=5e-4)
    small = model.embed(TEXTS, dtype="int8")
    assert small.dtype == np.int8
    assert (np.abs(small).max(axis=1) == 127).all()
    unit = small / np.linalg.norm(small.astype(np.float32), axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ whole.T, whole @ whole.T, atol=0.01)
    with pytest.raises(UsageError, match=r"dtype must be one of float32.*'float64'"):
        model.embed(TEXTS, dtype="float64")


def test_text_prompts_by_name():
    model = load("bert").replace(text_prompts=TextPrompts({"query": "query: "}, None))
    expected = numbers("bert")["embeddings_text_prompt_included"]
    assert_equal(model.embed(TEXTS, name="query"), expected)
    with pytest.raises(UsageError, match=r"no text prompt 'doc'; there are: query"):
        model.embed(TEXTS, name="doc")
    with pytest.raises(UsageError, match=r"either name or text_prompt"):
        model.embed(TEXTS, name="query", text_prompt="x")
    default = model.replace(text_prompts=TextPrompts({"q": "query: "}, "q"))
    assert_equal(default.embed(TEXTS), expected)
    assert_equal(default.embed(TEXTS, text_prompt=""), numbers("bert")["embeddings"])


def test_prompts_of_other_models_are_refused():
    model = load("bert")
    with pytest.raises(ValueError, match=r"\[P, 32\], got \[4, 8\]"):
        model.embed(TEXTS, np.zeros((4, 8), np.float32))
    values = np.zeros((4, 32), np.float32)
    other = pt.TunedPrompt(values, metadata={"base_model_fingerprint": "0" * 64})
    with pytest.raises(ValueError, match="which is not the model given"):
        model.embed(TEXTS, other)
    own = pt.TunedPrompt(values, metadata={"base_model_fingerprint": model.fingerprint})
    assert model.embed(TEXTS[:1], own).shape == (1, 32)
    with pytest.raises(ValueError, match=r"ensemble.*several vectors"):
        model.embed(TEXTS, pt.TunedBank({"a": own, "b": own}).ensemble())
    with (
        array_checks.off(),
        pytest.raises(ValueError, match=r"pt\.load_prompt\('runs/mine/best'\)"),
    ):
        model.embed(TEXTS, "runs/mine/best")


def test_room_for_a_prompt_among_the_models_positions():
    """A BERT knows 80 positions here: a text is cut so that the prompt has its own."""
    model = load("bert", max_seq_length=80)
    text = " ".join(TEXTS)
    prompt = np.ones((30, 32), np.float32)
    assert model.tokenize([text])["tokens"].shape == (1, 80)
    assert_equal(model.embed([text], prompt), model.embed([text], prompt, max_length=50))
    with pytest.raises(ValueError, match=r"room for 2 tokens.*2 are special.*shorter prompt"):
        model.embed([text], np.ones((78, 32), np.float32))
