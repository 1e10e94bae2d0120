"""EmbeddingGemma: causal blocks that see both ways; the numbers are sentence-transformers'."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow
from embedding_models import TEXTS, contrastive_loss, copied, edit, load, numbers
from test_retrieval_train import run, write_collection

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.huggingface import causal as files
from prompt_tuning_jax.data.collection import read_collection
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.evaluation.retrieval.store import load_store
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.causal import BidirectionalConfig, CausalConfig, apply, weights
from prompt_tuning_jax.models.causal.attention import NOWHERE, Places, visible
from prompt_tuning_jax.training.retrieval.scoring import scores_of

NAME = "embedding_gemma"
# What google/embeddinggemma-300m's config.json says.
PUBLISHED = {
    "model_type": "gemma3_text",
    "_sliding_window_pattern": 6,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 768,
    "intermediate_size": 1152,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 4,
    "max_position_embeddings": 2048,
    "num_attention_heads": 3,
    "num_hidden_layers": 24,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "use_bidirectional_attention": True,
    "vocab_size": 262144,
}


def assert_equal(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def model():
    return load(NAME)


@pytest.fixture(scope="module")
def io():
    return numbers(NAME)


def with_network(model, **changes):
    network = dataclasses.replace(model.config.network, **changes)
    return model.replace(config=dataclasses.replace(model.config, network=network))


class TestNumbers:
    def test_token_ids_with_a_begin_and_an_end(self, model, io):
        expected = np.where(io["attention_mask"] > 0, io["input_ids"], -1)
        tokens = model.tokenize(TEXTS)["tokens"]
        np.testing.assert_array_equal(tokens, expected)
        window = model.config.network.layers[0].window
        assert (tokens >= 0).sum(axis=1).max() > 2 * window  # so that a window leaves tokens out

    def test_together_and_alone(self, model, io):
        assert_equal(model.embed(TEXTS), io["embeddings"])
        assert_equal(model.embed(TEXTS, batch_size=8), io["embeddings"])
        assert_equal(model.embed(TEXTS[:1]), io["embeddings"][:1])

    @pytest.mark.parametrize("name", ["query", "document"])
    def test_text_prompts_by_name(self, model, io, name):
        assert_equal(model.embed(TEXTS, name=name), io[f"embeddings_{name}"])

    @pytest.mark.parametrize("include", [False, slow(True)])
    def test_a_text_prompt_counts_or_not(self, model, io, include):
        config = dataclasses.replace(model.config, include_prompt=include)
        found = model.replace(config=config).embed(TEXTS, text_prompt="query: ")
        kind = "included" if include else "excluded"
        assert_equal(found, io[f"embeddings_text_prompt_{kind}"])

    @pytest.mark.parametrize("counts", ["excluded", slow("included")])
    def test_a_prompt_in_front_and_its_gradient(self, model, io, counts):
        """Prompt and text see each other: the prompt stands in every row of the batch."""
        batch = model.tokenize(TEXTS)

        def loss(params, prompt):
            vectors = model.embedded(params, prompt, batch, pool_prompt=counts == "included")
            return contrastive_loss(vectors), vectors

        made = jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True))
        (value, vectors), gradient = made(model.params, jnp.asarray(io["prefix"]))
        assert_equal(vectors, io[f"embeddings_prefix_{counts}"])
        np.testing.assert_allclose(value, io[f"loss_prefix_{counts}"], rtol=1e-5)
        expected = io[f"grad_prefix_{counts}"]
        assert_equal(gradient / np.abs(expected).max(), expected / np.abs(expected).max())
        assert_equal(
            model.embed(TEXTS, io["prefix"], pool_prompt=counts == "included"),
            io[f"embeddings_prefix_{counts}"],
        )

    def test_without_modules_it_is_the_mean(self, tmp_path, io):
        path = copied(NAME, tmp_path / "model")
        (path / "modules.json").unlink()
        unit = io["pooled"] / np.linalg.norm(io["pooled"], axis=1, keepdims=True)
        assert_equal(pt.load_embedding_model(path).embed(TEXTS), unit)


class TestForms:
    """What makes it fast or small changes nothing."""

    @pytest.mark.parametrize(
        "form",
        [{"attention": "chunked", "attention_chunk": 24}, slow({"attention": "fused"})],
    )
    def test_every_form_of_attention_is_the_dense_one(self, model, io, form):
        text = " ".join(TEXTS)
        texts = [text, text[5:130]]
        batch = model.tokenize(texts, 91, prompt_length=5)
        assert batch["tokens"].shape[1] > 64

        def first(form):
            changed = with_network(model, **form)
            made = jax.jit(lambda prompt: changed.embedded(model.params, prompt, batch))
            return made(jnp.asarray(io["prefix"]))

        assert_equal(first(form), first({"attention": "dense"}))

    @pytest.mark.slow
    def test_scanned_layers(self, model, io):
        batch, prompt = model.tokenize(TEXTS), jnp.asarray(io["prefix"])
        network, params = apply.scanned(model.config.network, model.params)
        assert isinstance(network, BidirectionalConfig)
        config = dataclasses.replace(model.config, network=network)
        found = model.replace(config=config).embedded(params, prompt, batch)
        assert_equal(found, io["embeddings_prefix_excluded"])

    def test_int8(self, io):
        small = load(NAME, dtype="int8")
        assert small.fingerprint == load(NAME).fingerprint
        assert (small.embed(TEXTS) * io["embeddings"]).sum(axis=1).min() > 0.99

    @pytest.mark.parametrize("mesh", ["data:2", slow("model:2")])
    def test_a_mesh(self, io, mesh):
        model = load(NAME, mesh=sharding.make_mesh(mesh))
        assert_equal(model.embed(TEXTS, io["prefix"]), io["embeddings_prefix_excluded"])

    @pytest.mark.slow
    def test_each_text_with_a_prompt_of_its_own(self, model, io):
        """Of several lengths and places, beside texts of any length."""
        prompts = {
            "long": pt.TunedPrompt(io["prefix"]),
            "short": pt.TunedPrompt(io["prefix"][:2]),
            "end": pt.TunedPrompt(io["prefix"][:3], layout="suffix_before_eos"),
        }
        names = np.array([list(prompts)[i % 3] for i in range(len(TEXTS))])
        found = model.embed(TEXTS, pt.TunedBank(prompts).rows(names.tolist()))
        for own, prompt in prompts.items():
            assert_equal(found[names == own], model.embed(TEXTS, prompt)[names == own])

    def test_padding_anywhere(self, model, io):
        """Positions are those of tokens, wherever padding stands."""
        plain = model.tokenize(TEXTS)
        tokens, positions = place_prompt(jnp.asarray(plain["tokens"]), 5, pad_id=-1)
        batch = plain | {
            "tokens": jnp.pad(tokens, ((0, 0), (3, 2)), constant_values=-1),
            "prompt_positions": jnp.pad(positions, ((0, 0), (3, 2)), constant_values=-1),
        }
        found = jax.jit(model.embedded)(model.params, jnp.asarray(io["prefix"]), batch)
        assert_equal(found, io["embeddings_prefix_excluded"])


@pytest.mark.parametrize("window", [None, 3])
def test_who_sees_whom(window):
    positions = jnp.array([[0, 1, 2, 3, 3, 4]])
    keys = Places(positions.at[0, 4].set(NOWHERE), jnp.array([[1, 1, 1, 1, 1, 2]]))
    seen = visible(Places(positions, keys.segments), keys, window, bidirectional=True)[0]
    for query in range(5):
        expected = [abs(key - int(positions[0, query])) < (window or 9) for key in range(4)]
        assert seen[query].tolist() == [*expected, False, False]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("method", [None, "lora", "ia3", "prefix", "model"])
def test_the_query_side_trains_and_documents_stay(tmp_path, method):
    """A prompt, or what trains within it: queries find more, and documents are as they were."""
    data, model = write_collection(tmp_path / "data"), load(NAME)
    settings = run(model, data, tmp_path / "run", method=method, train_steps=12, eval_period=12)
    if method not in (None, "prefix"):
        del settings["prompt_length"]
    before = jax.tree.map(np.array, model.params)
    result = pt.train(**settings)
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    store = load_store(tmp_path / "run" / "index")
    collection = read_collection(data)
    documents = model.embed(list(collection.documents.values()), name="document")
    np.testing.assert_allclose(store.vectors, documents, atol=1e-6)
    grades = collection.split("train")
    texts = [collection.queries[query] for query in grades]
    if method is None:
        start, last = (pt.load_prompt(tmp_path / "run" / "prompts" / s) for s in ("0", "12"))
        vectors = model.embed(texts, start), model.embed(texts, last)
        assert result.prompt is not None
    else:
        tuned = model.adapted(tmp_path / "run" / "last")
        vectors = model.embed(texts, name="query"), tuned.embed(texts)
    untuned, found = (scores_of(each, grades, store)["mrr@10"] for each in vectors)
    assert found > untuned


class TestFiles:
    def config(self, **changes):
        raw = {key: x for key, x in (PUBLISHED | changes).items() if x is not ...}
        return files.parse_config(raw, "config.json")

    def test_the_published_file(self):
        """300M has 303 million weights in its network, 308 million with its dense layers."""
        config = self.config()
        assert isinstance(config, BidirectionalConfig)
        windows = [layer.window for layer in config.layers]
        assert windows == [*[257] * 5, None] * 4
        assert {layer.rotary.theta for layer in config.layers} == {1e4, 1e6}
        sizes = [np.prod(shape) for shape in weights.shapes(config).values()]
        assert sum(sizes) == 302_863_104

    @pytest.mark.parametrize(("stored", "window"), [(512, 257), (257, 129), (8, 5), (..., 2049)])
    def test_a_window_counts_both_sides_in_the_file(self, stored, window):
        """As transformers reads it, whatever wrote it; 4096 where the file says none."""
        assert self.config(sliding_window=stored).layers[0].window == window

    @pytest.mark.parametrize("flag", [False, None])
    def test_without_the_flag_it_is_causal(self, flag):
        config = self.config(use_bidirectional_attention=flag)
        assert type(config) is CausalConfig
        assert config.layers[0].window == 512

    def test_nothing_else_is_read_of_the_files(self, tmp_path, io):
        """Older keys of positions, and none that newer files have."""
        path = copied(NAME, tmp_path / "model")
        rope = json.loads((path / "config.json").read_text())["rope_parameters"]
        edit(
            path / "config.json",
            rope_parameters=...,
            rope_theta=rope["full_attention"]["rope_theta"],
            rope_local_base_freq=rope["sliding_attention"]["rope_theta"],
            architectures=["Gemma3TextModel"],
        )
        assert_equal(pt.load_embedding_model(path).embed(TEXTS[:2]), io["embeddings"][:2])


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention must be true"),
            ({"is_causal": False}, "is_causal is false: its positions see what comes after them"),
            ({"use_bidirectional_attention": None, "is_causal": False}, "is_causal is false"),
            ({"model_type": "gemma2"}, "use_bidirectional_attention is set"),
            ({"model_type": "qwen3"}, "use_bidirectional_attention is set"),
        ],
    )
    def test_what_files_ask(self, tmp_path, change, match):
        path = copied(NAME, tmp_path / "model")
        edit(path / "config.json", **change)
        with pytest.raises(ValueError, match=match):
            pt.load_embedding_model(path)

    def test_to_write_text(self, tmp_path, model):
        path = copied(NAME, tmp_path / "model")
        (path / "modules.json").unlink()
        with pytest.raises(ValueError, match=r"encoder \(use_bidirectional.*load_embedding_model"):
            pt.load_model(path)
        made = pt.FrozenModel(model.config.network, model.params, model.vocabulary)
        with pytest.raises(ValueError, match="BidirectionalConfig is no model's config here"):
            made.logits(np.ones((1, 4), np.int32), np.ones((1, 2), np.int32))

    @pytest.mark.parametrize("visibility", ["isolated", "causal"])
    def test_a_prompt_that_does_not_see_its_text(self, model, io, visibility):
        prompt = pt.TunedPrompt(io["prefix"], visibility=visibility)
        with pytest.raises(ValueError, match=f"prompt_visibility={visibility}.* not for bidirect"):
            model.embed(TEXTS, prompt)

    def test_a_missing_weight(self, tmp_path):
        from safetensors.numpy import load_file, save_file

        path = copied(NAME, tmp_path / "model")
        stored = load_file(path / "model.safetensors")
        stored.pop("layers.1.self_attn.q_norm.weight")
        save_file(stored, path / "model.safetensors")
        with pytest.raises(ValueError, match=r"missing model\.layers\.1\.self_attn\.q_norm"):
            pt.load_embedding_model(path)
