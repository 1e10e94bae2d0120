"""T5's relatives in Hugging Face's files: transformers' numbers, and what is refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from common import GOLDENS, NEEDS_SHARED, assert_same, shared_dir, slow
from safetensors.numpy import load_file, save_file
from test_vocabulary import train_model

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.checkpoints.convert import to_huggingface, to_t5x
from prompt_tuning_jax.checkpoints.peft import read_adapter
from prompt_tuning_jax.checkpoints.t5x import model as t5x_model
from prompt_tuning_jax.decoding import generation
from prompt_tuning_jax.decoding.defaults import GenerationDefaults
from prompt_tuning_jax.models.t5 import Transformer
from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, load_vocabulary

HERE = GOLDENS / "families"
LENGTH = 14  # of what the goldens generated


def found_models() -> dict[str, Path]:
    """Name -> model of every golden: the copies here, and others where the shared ones are."""
    models = {path.parent.name: path.parent for path in HERE.glob("*/config.json")}
    shared = shared_dir() and shared_dir() / "goldens" / "families" / "seq2seq"
    for path in shared.glob("*/model/config.json") if shared else ():
        folder = path.parent.parent
        if not folder.name.startswith(("t5gemma", "t5_v5_")):
            models.setdefault(folder.name, path.parent)
    return models


MODELS = found_models()


def numbers(name: str, file: str = "io.npz") -> dict[str, np.ndarray]:
    path = MODELS[name]
    return dict(np.load((path if path.parent == HERE else path.parent) / file))


def batch_of(model: pt.FrozenModel, io: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The golden's batch under T5X's names, its loss being the mean over labels."""
    counts = io["labels"] != -100
    pad_id = np.int32(model.config.pad_id)
    return {
        "encoder_input_tokens": np.where(io["attention_mask"] > 0, io["input_ids"], pad_id),
        "decoder_input_tokens": io["decoder_input_ids"],
        "decoder_target_tokens": np.where(counts, io["labels"], pad_id),
        "decoder_loss_weights": counts.astype(np.float32) / np.float32(counts.sum()),
    }


def assert_alike_until_they_end(tokens, expected, eos_id):
    """After the end transformers pads beams with what its beams hold, and we with padding."""
    assert tokens.shape[-1] >= expected.shape[-1]
    tokens = np.asarray(tokens)[..., : expected.shape[-1]]
    ended = np.cumsum(expected == eos_id, axis=-1) - (expected == eos_id) > 0
    np.testing.assert_array_equal(np.where(ended, 0, tokens), np.where(ended, 0, expected))


ALL_BUT_LONGT5 = pytest.mark.parametrize(  # which test_longt5 tries
    "name", [slow(x) if x.startswith("longt5") else x for x in sorted(MODELS)], indirect=True
)
ONE_MODEL = pytest.mark.parametrize(
    "name", [x if x == "umt5" else slow(x) for x in sorted(MODELS)], indirect=True
)


@pytest.fixture(scope="module", params=sorted(MODELS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return pt.load_model(MODELS[name])


def test_there_are_relatives():
    assert len(MODELS) >= 6


@ALL_BUT_LONGT5
def test_forward(model, name):
    io = numbers(name)
    batch = batch_of(model, io)
    logits = model.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"])
    np.testing.assert_allclose(logits[io["labels"] != -100], io["logits_valid"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(model.loss(batch, z_loss=0.0), io["loss"], atol=5e-6, rtol=0)


@ONE_MODEL
def test_generation(model, name):
    io = numbers(name)
    tokens = batch_of(model, io)["encoder_input_tokens"]
    greedy, _ = generation.generate_tokens(
        Transformer(model.config), model.params, tokens, max_length=LENGTH
    )
    assert_alike_until_they_end(greedy, io["greedy_ids"][:, 1:], model.config.eos_id)
    beams, scores = generation.generate_tokens(
        Transformer(model.config),
        model.params,
        tokens,
        max_length=LENGTH,
        beams=4,
        length_penalty=1.0,
        return_all_beams=True,
    )
    assert_alike_until_they_end(beams, io["beam4_ids"][:, :, 1:], model.config.eos_id)
    np.testing.assert_allclose(scores, io["beam4_scores"], atol=1e-5, rtol=0)


def test_the_hubs_older_config_says_the_same(model, name, tmp_path):
    path = MODELS[name]
    older = (path if path.parent == HERE else path.parent) / "config_hub_style.json"
    if not older.exists():
        pytest.skip("saved by transformers 5 alone")
    shutil.copytree(path, tmp_path / "model")
    shutil.copyfile(older, tmp_path / "model" / "config.json")
    assert huggingface.load_lazily(tmp_path / "model")[0] == model.config


def test_saved_again(model, name, tmp_path):
    weights = jax.tree.map(np.asarray, model.params)
    huggingface.save(tmp_path / "again", model.config, weights)
    config, again, _ = huggingface.load(tmp_path / "again")
    assert config == model.config
    jax.tree.map(np.testing.assert_array_equal, again, weights)
    if (MODELS[name] / "model.safetensors").is_file():
        theirs = load_file(MODELS[name] / "model.safetensors")
        ours = load_file(tmp_path / "again" / "model.safetensors")
        assert ours.keys() == theirs.keys()


@ONE_MODEL
def test_scanned_layers_compute_the_same(model, name):
    if model.config.num_encoder_layers > 2:
        pytest.skip("no more of a stack than two layers")
    io = numbers(name)
    batch = batch_of(model, io)
    scanned = model.scanned()
    tokens = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    assert_same(scanned.logits(*tokens), model.logits(*tokens))


@pytest.mark.parametrize("of", ["umt5", slow("codet5p")])
def test_a_prompt_of_peft(of):
    name, model = of, pt.load_model(MODELS[of])
    io, theirs = numbers(name), numbers(name, "peft.npz")
    prompt, _ = read_adapter(MODELS[name] / "peft")
    np.testing.assert_array_equal(prompt, theirs["prompt"])
    batch = batch_of(model, io)
    loss, gradient = jax.value_and_grad(lambda p: model.loss(batch, p, z_loss=0.0))(prompt)
    np.testing.assert_allclose(loss, theirs["loss"], atol=5e-6, rtol=0)
    assert np.abs(gradient - theirs["grad_prompt"]).max() < 1e-4 * np.abs(gradient).max()
    tokens, _ = model.generate_tokens(batch["encoder_input_tokens"], prompt, max_length=LENGTH)
    assert_alike_until_they_end(tokens, theirs["greedy_ids"][:, 1:], model.config.eos_id)


class TestIds:
    def test_come_from_the_files(self):
        ids = {
            name: (config.pad_id, config.eos_id, config.start_id)
            for name in ("umt5", "codet5p", "madlad")
            for config in [huggingface.load_lazily(MODELS[name])[0]]
        }
        assert ids == {"umt5": (0, 1, 0), "codet5p": (0, 2, 0), "madlad": (1, 2, 0)}

    def test_what_is_no_padding_is_seen(self):
        """MADLAD's id 0 is its unknown piece, which a text may hold; 1 is its padding."""
        model = pt.load_model(MODELS["madlad"])
        start = np.zeros((1, 1), np.int32)

        def logits(*tokens):
            return np.asarray(model.logits(np.array([tokens], np.int32), start))

        assert np.abs(logits(263, 0, 2) - logits(263, 1, 2)).max() > 1e-2
        assert_same(logits(263, 2, 1, 1), logits(263, 2))

    @pytest.mark.parametrize(("model_type", "start"), [("t5", 1), ("mt5", 0), ("umt5", 0)])
    def test_a_start_that_nothing_says(self, model_type, start, tmp_path):
        """transformers' T5 starts from padding, its mT5 and umT5 from 0."""
        says = {"model_type": model_type, "pad_token_id": 1, "scale_decoder_outputs": ...}
        says |= {"eos_token_id": 2, "decoder_start_token_id": ...}
        path = changed("umt5" if model_type == "umt5" else "madlad", tmp_path, **says)
        assert huggingface.load_lazily(path)[0].start_id == start

    def test_a_start_that_only_generation_has_holds_in_training_too(self, tmp_path):
        path = changed("madlad", tmp_path, decoder_start_token_id=...)
        (path / "generation_config.json").write_text('{"decoder_start_token_id": 7}')
        assert huggingface.load_lazily(path)[0].start_id == 7

    @pytest.mark.parametrize("value", [[2, 5], 2])
    def test_the_first_of_several_ends_a_text(self, value, tmp_path):
        path = changed("codet5p", tmp_path, eos_token_id=value)
        assert huggingface.load_lazily(path)[0].eos_id == 2


def changed(name: str, tmp_path: Path, **changes) -> Path:
    """A copy of a model with fields of its config.json changed; `...` takes one out."""
    path = tmp_path / "changed"
    path.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(MODELS[name] / file, path / file)
    raw = json.loads((path / "config.json").read_text()) | changes
    raw = {key: value for key, value in raw.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(raw))
    return path


class TestVocabularies:
    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            ("codet5p", "ends a text with the id 2, but the model"),
            ("madlad", "ends a text with the id 2, but the model"),
            ("byt5", "has 384 ids, but the model embeds 2000"),
            ("umt5", None),
        ],
    )
    def test_another_models_is_refused(self, files, reason):
        config, *_ = huggingface.load_lazily(MODELS["umt5"])
        if files == "byt5":
            config = dataclasses.replace(config, vocab_size=2000)
        if reason is None:
            assert huggingface.read_vocabulary(HERE / files, config).size == 750
            return
        with pytest.raises(ValueError, match=reason):
            huggingface.read_vocabulary(HERE / files, config)

    def test_padding_that_texts_may_hold_is_refused(self):
        config, *_ = huggingface.load_lazily(MODELS["resized"])
        for pad_id, reason in ((2, "which texts may hold"), (40, "which texts may hold")):
            other = dataclasses.replace(config, pad_id=pad_id)
            with pytest.raises(ValueError, match=reason):
                huggingface.read_vocabulary(HERE / "resized", other)

    def test_one_that_is_too_large_is_refused(self):
        config, *_ = huggingface.load_lazily(MODELS["resized"])
        with pytest.raises(ValueError, match=r"has 750 ids .* embeds only 373"):
            huggingface.read_vocabulary(HERE / "umt5", config)


class TestConfigs:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"pad_token_id": 512}, "pad_token_id must be a token id"),
            ({"eos_token_id": []}, "eos_token_id must be a token id"),
            ({"pad_token_id": 2}, "pad_id and eos_id are both 2"),
            ({"decoder_start_token_id": True}, "decoder_start_token_id must be a token id"),
            ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj 'gated-mish'"),
            ({"feed_forward_proj": 3}, "feed_forward_proj 3"),
            ({"dense_act_fn": "gelu"}, "dense_act_fn 'gelu'"),
            ({"is_gated_act": False}, "is_gated_act False"),
            ({"model_type": "bart"}, "'bart' model"),
            ({"model_type": ["t5"]}, r"\['t5'\] model"),
            ({"dense_act_fn": {}}, "dense_act_fn {}"),
            ({"model_type": "longt5", "encoder_attention_type": {}}, "{} is not one"),
            ({"d_model": 10**20}, "d_model must be a positive whole number"),
            ({"d_model": "32"}, "d_model must be a positive whole number"),
            ({"num_layers": 2.0}, "num_layers must be a positive whole number"),
            ({"hidden_size": 64}, "d_model is 32 and hidden_size, another name"),
            ({"num_hidden_layers": 9}, "num_layers is 2 and num_hidden_layers"),
            ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon must be a number"),
            ({"layer_norm_epsilon": 0}, "layer_norm_epsilon must be above 0"),
            ({"dropout_rate": 1}, "dropout_rate must be a number"),
            ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
            ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is set"),
            ({"pruned_heads": {"0": [1]}}, "pruned_heads is set"),
            ({"tie_encoder_decoder": True}, "tie_encoder_decoder is set"),
            ({"model_type": "mt5", "scale_decoder_outputs": True}, "which no mT5 obeys"),
            ({"model_type": "longt5", "encoder_attention_type": "sparse"}, "'sparse' is not one"),
        ],
    )
    def test_what_cannot_be_obeyed_is_refused(self, changes, reason, tmp_path):
        path = changed("madlad", tmp_path, **changes)
        with pytest.raises(ValueError, match=reason):
            huggingface.load_lazily(path)

    @pytest.mark.parametrize(
        ("changes", "field", "value"),
        [
            ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon", 1e-5),
            ({"feed_forward_proj": "gated-silu", "dense_act_fn": ...}, "mlp_activations", None),
            ({"d_model": ..., "hidden_size": 32}, "emb_dim", 32),
            ({"pruned_heads": {}, "quantization_config": None}, "emb_dim", 32),
        ],
    )
    def test_what_is_obeyed(self, changes, field, value, tmp_path):
        config, _, _ = huggingface.load_lazily(changed("madlad", tmp_path, **changes))
        assert getattr(config, field) == (value or ("silu", "linear"))

    def test_epsilon_counts(self, tmp_path):
        model = pt.load_model(MODELS["madlad"])
        other = pt.load_model(changed("madlad", tmp_path, layer_norm_epsilon=0.1))
        tokens = np.array([[263, 2]], np.int32), np.zeros((1, 1), np.int32)
        assert np.abs(model.logits(*tokens) - other.logits(*tokens)).max() > 1e-2

    @pytest.mark.parametrize(
        ("version", "tied", "scaled"),
        [("5.24.0", True, False), ("4.10.0", False, False), ("4.46.0", True, True)],
    )
    def test_an_mt5_of_each_transformers(self, version, tied, scaled, tmp_path):
        """transformers 5 calls every mT5 tied, and scales the outputs of none."""
        said = {"tie_word_embeddings": tied, "transformers_version": version}
        path = changed("madlad", tmp_path, model_type="mt5", scale_decoder_outputs=..., **said)
        assert huggingface.load_lazily(path)[0].outputs_scaled == scaled

    @pytest.mark.parametrize(
        ("said", "scaled"),
        [
            ({"tie_word_embeddings": False}, False),
            ({"tie_word_embeddings": True}, True),
            ({"tie_word_embeddings": ...}, True),
            ({"tie_word_embeddings": None}, True),
            ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ],
    )
    @pytest.mark.parametrize("model_type", ["t5", "umt5"])
    def test_who_scales_the_outputs(self, said, scaled, model_type, tmp_path):
        path = changed("umt5" if model_type == "umt5" else "madlad", tmp_path)
        raw = json.loads((path / "config.json").read_text())
        del raw["scale_decoder_outputs"], raw["tie_word_embeddings"]
        raw |= {key: value for key, value in said.items() if value is not ...}
        (path / "config.json").write_text(json.dumps(raw))
        assert huggingface.load_lazily(path)[0].outputs_scaled == scaled


class TestWeights:
    def rewritten(self, tmp_path, change, name="umt5"):
        path = changed(name, tmp_path)
        weights = load_file(path / "model.safetensors")
        save_file(change(weights), path / "model.safetensors", {"format": "pt"})
        return path

    @pytest.mark.parametrize("wrapper", ["model.", "module.", "_orig_mod.", "_orig_mod.model."])
    def test_what_wrapped_a_model_is_left_out(self, wrapper, tmp_path):
        def wrapped(weights):
            return {wrapper + name: weight for name, weight in weights.items()}

        config, params, _ = huggingface.load(self.rewritten(tmp_path, wrapped))
        expected = huggingface.load(MODELS["umt5"])
        assert config == expected[0]
        jax.tree.map(np.testing.assert_array_equal, params, expected[1])

    def test_a_wrapper_of_some_names(self, tmp_path):
        def wrapped(weights):
            return {
                (n if n.startswith("lm_head") else f"model.{n}").replace(
                    "encoder.block.1", "encoder._orig_mod.block.1"
                ): weight
                for n, weight in weights.items()
            }

        huggingface.load(self.rewritten(tmp_path, wrapped))

    def test_two_models_in_one_file(self, tmp_path):
        def twice(weights):
            return weights | {f"teacher.{name}": weight for name, weight in weights.items()}

        with pytest.raises(ValueError, match=r"several models: .*teacher\.encoder"):
            huggingface.load(self.rewritten(tmp_path, twice))

    @pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
    def test_a_weight_that_is_there_twice(self, wrapper, tmp_path):
        def twice(weights):
            wrapped = {wrapper + name: weight for name, weight in weights.items()}
            return wrapped | {"shared.weight": weights["shared.weight"] + 1}

        with pytest.raises(ValueError, match=r"holds shared\.weight twice"):
            huggingface.load(self.rewritten(tmp_path, twice))

    @pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
    def test_float8(self, dtype, tmp_path):
        def small(weights):
            return {name: weight.astype(dtype) for name, weight in weights.items()}

        _, params, _ = huggingface.load(self.rewritten(tmp_path, small))
        _, expected, _ = huggingface.load(MODELS["umt5"])
        expected = jax.tree.map(lambda w: w.astype(dtype).astype(np.float32), expected)
        jax.tree.map(np.testing.assert_array_equal, params, expected)

    @pytest.mark.parametrize("copy", ["encoder", "decoder"])
    def test_the_table_under_another_name(self, copy, tmp_path):
        def renamed(weights):
            table = weights.pop("shared.weight")
            return weights | {f"{copy}.embed_tokens.weight": table}

        config, params, _ = huggingface.load(self.rewritten(tmp_path, renamed, "madlad"))
        expected = huggingface.load(MODELS["madlad"])
        assert config == expected[0]
        jax.tree.map(np.testing.assert_array_equal, params, expected[1])


def test_how_to_generate_is_saved_too(tmp_path):
    path = changed("umt5", tmp_path)
    asked = {
        "num_beams": 4,
        "no_repeat_ngram_size": 3,
        "length_penalty": 0.6,
        "eos_token_id": [1, 5],
    }
    (path / "generation_config.json").write_text(json.dumps(asked | {"use_cache": True}))
    to_huggingface(str(path), str(tmp_path / "again"))
    model = pt.load_model(tmp_path / "again")
    expected = pt.load_model(path)
    assert model.generation.taken({}) == expected.generation.taken({})
    assert model.generation.eos_ids == (1, 5)
    again = json.loads((tmp_path / "again/generation_config.json").read_text())
    assert again == asked | {"pad_token_id": 0, "decoder_start_token_id": 0}


def test_what_a_model_does_not_have_any_more_is_gone(tmp_path):
    """Saved over another: whatever described that one would be believed."""
    config, params, _ = huggingface.load(MODELS["umt5"])
    first = huggingface.read_vocabulary(HERE / "umt5", config)
    asked = GenerationDefaults(source="a file", beams=4, stored='{"num_beams": 4}')
    huggingface.save(tmp_path, config, params, first, generation=asked)
    assert pt.load_model(tmp_path).generation.beams == 4
    huggingface.save(tmp_path, config, params)
    assert pt.load_model(tmp_path).vocabulary.fingerprint == first.fingerprint
    assert pt.load_model(tmp_path).generation.beams is None
    second = SentencePieceVocabulary(train_model())
    huggingface.save(tmp_path, config, params, second)
    assert load_vocabulary(tmp_path).fingerprint == second.fingerprint
    assert not (tmp_path / "tokenizer.json").exists()


class TestT5X:
    @pytest.mark.parametrize("name", ["umt5", "codet5p", "longt5_local", "longt5_tglobal"])
    @pytest.mark.parametrize("form", ["orbax", "legacy"])
    def test_there_and_back_is_the_same_model(self, name, form, tmp_path):
        expected = huggingface.load(MODELS[name])
        there = to_t5x(str(MODELS[name]), str(tmp_path / "t5x"), form=form)
        for place in (there, f"file://{there}"):
            config, params = t5x.load(place)
            assert config == expected[0]
            jax.tree.map(np.testing.assert_array_equal, params, expected[1])
        to_huggingface(str(there), str(tmp_path / "again"))
        assert huggingface.load_lazily(tmp_path / "again")[0] == expected[0]

    def test_a_vocabulary_says_what_a_checkpoint_does_not(self, tmp_path):
        there = to_t5x(str(MODELS["codet5p"]), str(tmp_path / "t5x"))
        other = HERE / "resized"
        with pytest.raises(ValueError, match="ends a text with the id 1, but the model"):
            pt.load_model(there, vocabulary=other)
        (there / t5x_model.CONFIG).unlink()
        assert pt.load_model(there, vocabulary=HERE / "codet5p").config.eos_id == 2
        to_huggingface(str(there), str(tmp_path / "hf"), vocabulary=HERE / "codet5p")
        assert huggingface.load_lazily(tmp_path / "hf")[0].eos_id == 2

    def test_side_keys_are_recognised(self, tmp_path):
        there = to_t5x(str(MODELS["longt5_tglobal"]), str(tmp_path / "t5x"))
        (there / t5x_model.CONFIG).unlink()
        assert t5x.load(there)[0].encoder_attention == "transient_global"

    def test_biases_of_every_layer_go_there_and_back(self, tmp_path):
        to_t5x(str(MODELS["umt5"]), str(tmp_path / "t5x"))
        config, params = t5x.load(tmp_path / "t5x")
        expected = huggingface.load(MODELS["umt5"])
        assert config.layer_relpos_bias
        jax.tree.map(np.testing.assert_array_equal, params, expected[1])
        to_huggingface(str(tmp_path / "t5x"), str(tmp_path / "again"))
        assert json.loads((tmp_path / "again/config.json").read_text())["model_type"] == "umt5"

    def test_what_shapes_do_not_tell_is_kept(self, tmp_path):
        path = changed("umt5", tmp_path, feed_forward_proj="gated-silu", dense_act_fn=...)
        to_t5x(str(path), str(tmp_path / "t5x"))
        config, _ = t5x.load(tmp_path / "t5x")
        assert config == huggingface.load_lazily(path)[0]
        assert config.mlp_activations == ("silu", "linear")

    def test_other_ids_than_its_own_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="padding at the id 1"):
            to_t5x(str(MODELS["madlad"]), str(tmp_path / "t5x"))


@pytest.mark.parametrize("stored", ["t5_v5_fp16", "t5_v5_bf16"])
def test_half_precision_is_raised_to_single(stored):
    shared = shared_dir() and shared_dir() / "goldens" / "families" / "seq2seq"
    if not shared:
        pytest.skip(NEEDS_SHARED)
    model = pt.load_model(shared / stored / "model")
    io = dict(np.load(shared / "t5_v5" / "io.npz")) | dict(np.load(shared / stored / "io.npz"))
    batch = batch_of(model, io)
    logits = model.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"])
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[io["labels"] != -100], io["logits_valid"], atol=1e-4, rtol=0)
