"""Embedding models in files: what modules.json may say, networks of every kind, and refusals."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import NEEDS_SHARED, shared_dir
from embedding_models import HERE, TEXTS, copied, edit, load, numbers
from safetensors.numpy import load_file, save_file

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.sentence_transformers.modules import read_modules
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import NO_TOKEN, place_prompt
from prompt_tuning_jax.models.bert.network import positions
from prompt_tuning_jax.models.embedding import Step

LIBRARY = "sentence_transformers.models."
OLD_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# Number in steps.npz -> pooling, activation of the first dense layer, whether it has a bias.
STEPS = {
    0: (("cls", "max", "mean"), "activation.Tanh", True),
    1: (("weightedmean",), "activation.GELU", False),
    2: (("mean_sqrt_len_tokens",), "activation.ReLU", True),
    3: (("lasttoken",), "activation.SiLU", True),
    4: (("cls",), "activation.Sigmoid", True),
}


CONFIG, ARGUMENTS = "config.json", "sentence_bert_config.json"
TOKENIZER_CONFIG, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
LEFT = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}


def modules(path, *kinds):
    """Writes a modules.json: a network, and folders of these kinds of modules."""
    folders = ["", *(f"{i}_{kind.rpartition('.')[2]}" for i, kind in enumerate(kinds, 1))]
    listed = zip((f"{LIBRARY}Transformer", *kinds), folders, strict=True)
    raw = [{"idx": i, "name": str(i), "path": f, "type": t} for i, (t, f) in enumerate(listed)]
    (path / "modules.json").write_text(json.dumps(raw))
    return [path / folder for folder in folders[1:]]


def with_steps(path, number):
    """A copy of the BERT with the pooling and the dense layers of a case of STEPS."""
    stored, (pooling, activation, bias) = np.load(HERE / "steps.npz"), STEPS[number]
    kinds = [f"{LIBRARY}{kind}" for kind in ("Pooling", "Dense", "Normalize", "Dense")]
    folders = modules(copied("bert", path), *kinds)
    keys = {key: mode in pooling for mode, key in OLD_KEYS.items()}
    (folders[0] / "config.json").write_text(json.dumps(keys | {"word_embedding_dimension": 32}))
    facts = {"in_features": 32 * len(pooling), "out_features": 20, "bias": bias}
    facts["activation_function"] = f"torch.nn.modules.{activation}"
    last = {"in_features": 20, "out_features": 8, "bias": True}
    last["activation_function"] = "torch.nn.modules.linear.Identity"
    for folder, config in ((folders[1], facts), (folders[3], last)):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        names = [name for name in stored if name.startswith(f"bert_{number}/{folder.name}/")]
        weights = {name.rpartition("/")[2]: stored[name] for name in names}
        save_file(weights, folder / "model.safetensors")
    return path


@pytest.mark.parametrize("number", STEPS)
def test_poolings_and_dense_layers(tmp_path, number):
    stored, path = np.load(HERE / "steps.npz"), with_steps(tmp_path / "model", number)
    model = pt.load_embedding_model(path)
    assert model.config.outputs == 8
    found = model.embed(TEXTS)
    np.testing.assert_allclose(found, stored[f"bert_{number}"], atol=1e-6, rtol=0)
    edit(path / "1_Pooling" / "config.json", include_prompt=False)
    found = pt.load_embedding_model(path).embed(TEXTS, text_prompt="query: ")
    expected = stored[f"bert_{number}_text_prompt_excluded"]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_of_vectors_that_are_truncated_the_first_numbers_are_kept(tmp_path):
    """After all modules, as sentence-transformers does it (`truncate_dim`)."""
    path = copied("bert", tmp_path / "model")
    whole = pt.load_embedding_model(path).embed(TEXTS)
    (path / "config_sentence_transformers.json").write_text('{"truncate_dim": 5}')
    model = pt.load_embedding_model(path)
    assert (model.config.outputs, model.config.normalizes) == (5, False)
    np.testing.assert_array_equal(model.embed(TEXTS), whole[:, :5])
    found = pt.load_embedding_model(path, normalize=True).embed(TEXTS)
    lengths = np.linalg.norm(whole[:, :5], axis=1, keepdims=True)
    np.testing.assert_allclose(found, whole[:, :5] / lengths, atol=1e-6, rtol=0)
    (path / "config_sentence_transformers.json").write_text('{"truncate_dim": 0}')
    with pytest.raises(ValueError, match="truncate_dim must be a positive whole number"):
        pt.load_embedding_model(path)
    (path / "config_sentence_transformers.json").write_text('{"truncate_dim": 1000}')
    assert pt.load_embedding_model(path).config.outputs == whole.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xlmr", "qwen3"])
def test_other_networks(name):
    """XLM-R counts positions from its padding; of a causal model it is the last token's state."""
    model, io = load(name), numbers(name)
    expected = np.where(io["attention_mask"] > 0, io["input_ids"], -1)
    ids = model.tokenize(TEXTS)["tokens"]
    for own, theirs in zip(ids, expected, strict=True):
        np.testing.assert_array_equal(own[own >= 0], theirs[theirs >= 0])
    np.testing.assert_allclose(model.embed(TEXTS), io["embeddings"], atol=2e-6, rtol=0)
    found = model.embed(TEXTS, text_prompt="query: ")
    np.testing.assert_allclose(found, io["embeddings_text_prompt_included"], atol=2e-6, rtol=0)
    if "prefix" in io:
        found = model.embed(TEXTS[:6], io["prefix"])
        np.testing.assert_allclose(found, io["embeddings_prefix_excluded"], atol=2e-6, rtol=0)


def test_padding_that_a_text_holds_stands_where_roberta_has_it():
    """As `create_position_ids_from_input_ids` of transformers, where padding has the id 1."""
    tokens = np.array([[0, 5, 1, 6, 2, NO_TOKEN], [NO_TOKEN, 0, 1, 1, 2, 7]])
    attended = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], bool)  # a prompt row in front
    config = load("xlmr").config.network
    assert config.first_position == 2
    found = np.where(attended, positions(config, tokens, attended), 0)
    np.testing.assert_array_equal(found, [[2, 3, 1, 4, 5, 0], [2, 3, 1, 1, 4, 5]])
    found = np.where(attended, positions(load("bert").config.network, tokens, attended), 0)
    np.testing.assert_array_equal(found, [[0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 5]])


def test_a_causal_model_sees_a_prompt_in_front_as_its_first_tokens():
    model = load("qwen3")
    words = model.vocabulary.encode("The ferry")
    rows = np.asarray(model.embeddings)[words]
    expected = model.embed([f"The ferry{text}" for text in (" leaves", " waits")])
    found = model.embed([" leaves", " waits"], rows)
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "weightedmean"])
def test_a_prompt_in_front_is_computed_once_for_all_rows(pooling):
    """As where it stands in every row, in value and in gradient; a bank of prompts as well."""
    model = load("qwen3", pooling=pooling)
    bank = jax.random.normal(jax.random.key(0), (3, 5, model.config.emb_dim)) * 0.1
    ids = np.arange(len(TEXTS), dtype=np.int32) % 3
    batch = model.tokenize(TEXTS) | {"prompt_ids": ids}
    tokens, positions = place_prompt(jnp.asarray(batch["tokens"]), 5, pad_id=-1)
    plain = batch | {"tokens": tokens, "prompt_positions": positions}

    def first(prompt, batch):
        vectors = model.embedded(model.params, prompt, batch)
        return (vectors[:, 0] * jnp.linspace(0.5, 1.5, len(TEXTS))).sum(), vectors

    for prompt in (bank, bank[0]):
        told = [x if prompt.ndim == 3 else x | {"prompt_ids": None} for x in (batch, plain)]
        both = jax.jit(jax.value_and_grad(first, has_aux=True))
        (_, apart), gradient = both(prompt, told[0])
        (_, within), other = both(prompt, told[1])
        np.testing.assert_allclose(apart, within, atol=2e-6, rtol=0)
        np.testing.assert_allclose(gradient, other, atol=1e-5 * np.abs(other).max(), rtol=0)
        traced = jax.make_jaxpr(jax.grad(first, has_aux=True))(prompt, told[0])
        wide = f"[{len(TEXTS)},{batch['tokens'].shape[1] + 5},"  # rows with room for a prompt
        assert (wide in str(traced)) == (pooling == "weightedmean")


def test_flags_that_a_tokenizers_class_never_reads_take_no_end_away(tmp_path):
    path = copied("qwen3", tmp_path / "model")
    edit(path / "tokenizer_config.json", add_bos_token=False)
    tokens = pt.load_embedding_model(path).tokenize(TEXTS)["tokens"]
    np.testing.assert_array_equal(tokens, load("qwen3").tokenize(TEXTS)["tokens"])


def test_a_token_that_was_added_and_is_not_embedded(tmp_path):
    path = copied("qwen3", tmp_path / "model")
    raw = json.loads((path / TOKENIZER).read_text())
    rows = load("qwen3").config.network.vocab_size
    last = raw["added_tokens"][-1]
    more = [last | {"id": i, "content": f"<{i}>"} for i in range(last["id"] + 1, rows + 1)]
    raw["added_tokens"] += more
    (path / TOKENIZER).write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=f"'<{rows}>'.*embeds only the ids 0 to {rows - 1}"):
        pt.load_embedding_model(path).embed(["a text", f"a <{rows}>"])


class TestLengths:
    def test_the_files_own_first(self, tmp_path):
        path = copied("bert", tmp_path / "model")
        assert pt.load_embedding_model(path).config.max_seq_length == 32
        edit(path / "sentence_bert_config.json", max_seq_length=16)
        assert pt.load_embedding_model(path).config.max_seq_length == 16
        edit(path / "sentence_bert_config.json", max_seq_length=None)
        edit(path / "tokenizer_config.json", model_max_length=10**30)
        assert pt.load_embedding_model(path).config.max_seq_length == 80  # its positions
        assert pt.load_embedding_model(path, max_seq_length=8).config.max_seq_length == 8

    def test_cut_texts_keep_their_end(self):
        model = load("bert")
        tokens = model.tokenize([" ".join(TEXTS)], max_length=8)["tokens"]
        assert tokens.shape == (1, 8)
        assert tokens[0, [0, -1]].tolist() == [2, 3]


class TestNetworksAlone:
    def test_a_t5_directory_and_a_frozen_model_are_the_same(self, tmp_path):
        path = tmp_path / "model"
        for model in (
            pt.load_embedding_model("bundled"),
            pt.load_embedding_model(pt.load_model("bundled")),
            pt.load_embedding_model("bundled", "mean", True),
        ):
            assert model.config.pooling == ("mean",)
            vectors = model.embed(["The cook was remarkable.", "A cold day."])
            if path.exists():
                np.testing.assert_array_equal(vectors, np.load(path))
            with path.open("wb") as file:
                np.save(file, vectors)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        bare = pt.load_embedding_model("bundled", normalize=False)
        long = bare.embed(["The cook was remarkable.", "A cold day."])
        unit = long / np.linalg.norm(long, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, vectors, atol=1e-6)
        assert bare.fingerprint == model.fingerprint

    def test_a_causal_model_gives_its_last_tokens_state(self):
        model = pt.load_embedding_model("bundled_causal")
        assert model.config.pooling == ("lasttoken",)
        assert model.embed(["A cold day."]).shape == (1, model.config.emb_dim)

    def test_a_bert_without_modules(self, tmp_path):
        path = copied("bert", tmp_path / "model")
        (path / "modules.json").unlink()
        model = pt.load_embedding_model(path)
        np.testing.assert_allclose(model.embed(TEXTS), numbers("bert")["embeddings"], atol=1e-6)
        with pytest.raises(ValueError, match=r"'bert' model, an encoder.*`load_embedding_model`"):
            pt.load_model(path)

    def test_int8(self):
        small, whole = load("bert", dtype="int8"), load("bert")
        assert small.fingerprint == whole.fingerprint
        found = small.embed(TEXTS)
        assert (found * whole.embed(TEXTS)).sum(axis=1).min() > 0.99

    def test_weights_are_split_over_a_mesh(self):
        model = load("bert", mesh=sharding.make_mesh("model:2"))
        kernel = model.params["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
        assert tuple(kernel.sharding.spec) == ("fsdp", "model")


class TestNames:
    def rewritten(self, tmp_path, change):
        path = copied("bert", tmp_path / "model")
        weights = load_file(path / "model.safetensors")
        save_file({change(name): x for name, x in weights.items()}, path / "model.safetensors")
        return pt.load_embedding_model(path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda name: f"bert.{name}",
            lambda name: f"module._orig_mod.{name}",
            lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma"),
        ],
    )
    def test_wrapped_and_older(self, tmp_path, change):
        assert self.rewritten(tmp_path, change).fingerprint == load("bert").fingerprint

    def test_a_missing_weight(self, tmp_path):
        with pytest.raises(ValueError, match=r"missing encoder\.layer\.1\.output\.dense\.bias"):
            self.rewritten(tmp_path, lambda name: name.replace("1.output.dense.bias", "x"))

    def test_more_layers_than_the_config_says(self, tmp_path):
        path = copied("bert", tmp_path / "model")
        edit(path / "config.json", num_hidden_layers=1)
        with pytest.raises(ValueError, match=r"encoder\.layer\.1\..* first\. Correct config\.json"):
            pt.load_embedding_model(path)


def test_of_where_texts_are_cut_the_tokenizers_config_speaks_first(tmp_path):
    path = copied("bert", tmp_path / "model")
    edit(path / TOKENIZER, truncation=LEFT)
    edit(path / TOKENIZER_CONFIG, truncation_side="right")
    np.testing.assert_array_equal(
        pt.load_embedding_model(path).embed(TEXTS), load("bert").embed(TEXTS)
    )


class TestRefused:
    def refused(self, path, match, error=ValueError):
        with pytest.raises(error, match=match):
            pt.load_embedding_model(path)

    def test_as_a_model_that_writes(self):
        with pytest.raises(ValueError, match=r"modules\.json is in it.*`load_embedding_model`"):
            pt.load_model(HERE / "sentence_t5" / "model")

    @pytest.mark.parametrize(
        ("kinds", "match"),
        [
            (["Pooling", "LSTM"], "a module LSTM after the pooling"),
            (["WordWeights", "Pooling"], "lists Transformer, WordWeights, Pooling"),
            ([], "lists Transformer; only"),
        ],
    )
    def test_modules(self, tmp_path, kinds, match):
        path = copied("bert", tmp_path / "model")
        modules(path, *(f"{LIBRARY}{kind}" for kind in kinds))
        self.refused(path, match)

    def test_code_of_the_models_own(self, tmp_path):
        path = copied("bert", tmp_path / "model")
        modules(path, f"{LIBRARY}Pooling", "custom_st.Thing")
        self.refused(path, r"'custom_st\.Thing', a module of the model's own code, .* never run")

    def test_folders_outside(self, tmp_path):
        path = copied("bert", tmp_path / "model")
        listed = json.loads((path / "modules.json").read_text())
        listed[1]["path"] = "../other"
        (path / "modules.json").write_text(json.dumps(listed))
        self.refused(path, "outside of its directory")
        (path / "modules.json").write_text("[1]")
        self.refused(path, r"lists no modules .*Fetch it again")

    @pytest.mark.parametrize(
        ("file", "change", "match"),
        [
            ("1_Pooling", {"pooling_mode": "median"}, "pooling 'median' is not one of"),
            ("2_Dense", {"activation_function": "mine.Act"}, "activation_function 'mine.Act'"),
            ("2_Dense", {"use_residual": True}, "use_residual is set"),
            ("2_Dense", {"module_output_name": "token_embeddings"}, "module_output_name is"),
            ("2_Dense", {"out_features": 23}, r"linear\.weight has shape \(24, 32\)"),
            ("2_Dense", {"bias": True}, r"missing linear\.bias"),
        ],
    )
    def test_what_modules_say(self, tmp_path, file, change, match):
        path = copied("sentence_t5", tmp_path / "model")
        edit(path / file / "config.json", **change)
        self.refused(path, match)

    @pytest.mark.parametrize(
        ("file", "change", "match"),
        [
            (CONFIG, {"position_embedding_type": "relative_key"}, "position_embedding_type is"),
            (CONFIG, {"is_decoder": True}, "is_decoder is set"),
            (CONFIG, {"model_type": "distilbert"}, "'distilbert' model"),
            (CONFIG, {"model_type": "qwen3", "use_bidirectional_attention": True}, "bidirectional"),
            (ARGUMENTS, {"tokenizer_args": {"do_lower_case": False}}, "tokenizer_args is set"),
            (ARGUMENTS, {"processor_kwargs": {"model_max_length": 6}}, "processor_kwargs is set"),
            (ARGUMENTS, {"processing_kwargs": {"text": {}}}, "processing_kwargs is set"),
            (ARGUMENTS, {"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
            (TOKENIZER_CONFIG, {"truncation_side": "left"}, "loses its beginning"),
            (TOKENIZER, {"truncation": LEFT}, "loses its beginning"),
        ],
    )
    def test_networks_and_their_tokenizers(self, tmp_path, file, change, match):
        path = copied("bert", tmp_path / "model")
        edit(path / file, **change)
        self.refused(path, match)

    @pytest.mark.parametrize("folder", ["", "2_Dense"])
    def test_pickles(self, tmp_path, folder):
        path = copied("sentence_t5", tmp_path / "model")
        (path / folder / "model.safetensors").rename(path / folder / "pytorch_model.bin")
        self.refused(
            path, r"pickle, .*SentenceTransformer\('.*'\)\.save_pretrained", FileNotFoundError
        )

    def test_a_text_without_tokens(self):
        model = pt.load_embedding_model("bundled_causal")
        bare = model.vocabulary.continuing()
        bare.prefix = ()
        with pytest.raises(ValueError, match=r"texts\[1\] is '', which has no tokens"):
            model.replace(vocabulary=bare).embed(["a", ""])


@pytest.mark.skipif(shared_dir() is None, reason=NEEDS_SHARED)
def test_the_public_files_layout(tmp_path):
    """As sentence-t5 and GTR are on the hub, but in safetensors: older keys and module paths."""
    there = shared_dir() / "goldens" / "families" / "embed" / "sentence_t5" / "model_hub_style"
    path = tmp_path / "model"
    shutil.copytree(there, path, copy_function=shutil.copyfile)
    for folder in ("", "2_Dense"):
        (path / folder / "pytorch_model.bin").unlink()
        shutil.copyfile(
            HERE / "sentence_t5" / "model" / folder / "model.safetensors",
            path / folder / "model.safetensors",
        )
    found = read_modules(path)
    assert found.steps == (Step("dense", 24), Step("normalize"))
    model = pt.load_embedding_model(path)
    io = numbers("sentence_t5")
    np.testing.assert_allclose(model.embed(TEXTS), io["embeddings"], atol=1e-6, rtol=0)
