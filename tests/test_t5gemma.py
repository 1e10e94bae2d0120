"""T5Gemma: transformers' and PEFT's numbers, and Hugging Face's files."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDENS, shared_dir, slow
from safetensors.numpy import load_file, save_file

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.convert import to_t5x
from prompt_tuning_jax.checkpoints.peft import read_adapter
from prompt_tuning_jax.decoding import generation
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.causal.network import FunctionalNetwork
from prompt_tuning_jax.models.t5gemma import network

HERE = GOLDENS / "t5gemma"


def found() -> dict[str, Path]:
    """The golden here, and the tied one where the shared goldens are."""
    shared = shared_dir() and shared_dir() / "goldens/families/seq2seq/t5gemma/model"
    return {"untied": HERE} | ({"tied": shared} if shared and shared.is_dir() else {})


MODELS = found()
EACH = pytest.mark.parametrize(
    "name", [slow(name) if name == "tied" else name for name in sorted(MODELS)], indirect=True
)


@pytest.fixture(scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return pt.load_model(MODELS[name])


def beside(name: str, file: str) -> Path:
    """One of a golden's files."""
    return (MODELS[name] if name == "untied" else MODELS[name].parent) / file


def numbers(name: str, file: str = "io.npz") -> dict[str, np.ndarray]:
    return dict(np.load(beside(name, file)))


def batch_of(name: str) -> dict[str, np.ndarray]:
    """The golden's batch under T5X's names, its loss being the mean over labels."""
    io = numbers(name)
    counts = io["labels"] != -100
    return {
        "encoder_input_tokens": np.where(io["attention_mask"] > 0, io["input_ids"], 0),
        "decoder_input_tokens": io["decoder_input_ids"],
        "decoder_target_tokens": np.where(counts, io["labels"], 0),
        "decoder_loss_weights": counts.astype(np.float32) / np.float32(counts.sum()),
    }


def assert_alike_until_they_end(tokens, expected, eos_id):
    ended = np.cumsum(expected == eos_id, axis=-1) - (expected == eos_id) > 0
    tokens = np.asarray(tokens)[..., : expected.shape[-1]]
    np.testing.assert_array_equal(np.where(ended, 0, tokens), np.where(ended, 0, expected))


@EACH
class TestNumbers:
    def test_logits_and_loss(self, model, name):
        io, batch = numbers(name), batch_of(name)
        logits = model.logits(batch["encoder_input_tokens"], batch["decoder_input_tokens"])
        valid = io["labels"] != -100
        np.testing.assert_allclose(logits[valid], io["logits_valid"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(model.loss(batch, z_loss=0.0), io["loss"], atol=5e-6, rtol=0)

    def test_the_encoders_output(self, model, name):
        io, batch = numbers(name), batch_of(name)
        tokens = jnp.asarray(batch["encoder_input_tokens"])
        encoded, is_text = network.encode(model.config, model.params, tokens)
        np.testing.assert_array_equal(is_text, io["attention_mask"] > 0)
        expected = io["encoder_last_hidden_state"]
        np.testing.assert_allclose(encoded[is_text], expected[is_text], atol=1e-4, rtol=0)

    @pytest.mark.parametrize("prompted", [slow(False), True])
    def test_greedy_and_beams(self, model, name, prompted):
        expected = numbers(name, "peft.npz" if prompted else "io.npz")
        length = expected["greedy_ids"].shape[1] - 1
        params, tokens = model.params, batch_of(name)["encoder_input_tokens"]
        net, places = FunctionalNetwork(model.config), {}
        if prompted:
            params = model.prompted(expected["prompt"]).params
            tuned = pt.TunedPrompt(expected["prompt"])
            placed = model.prompted(tuned).prompts.place({"encoder_input_tokens": tokens}, 1, 0)
            tokens = placed.pop("encoder_input_tokens")
            places = {"prompt_positions": jnp.asarray(placed["prompt_positions"])}
        greedy, _ = generation.generate_tokens(net, params, tokens, max_length=length, **places)
        assert_alike_until_they_end(greedy, expected["greedy_ids"][:, 1:], model.config.eos_id)
        beams, scores = generation.generate_tokens(
            net,
            params,
            tokens,
            max_length=length,
            beams=4,
            length_penalty=1.0,
            return_all_beams=True,
            **places,
        )
        assert_alike_until_they_end(beams, expected["beam4_ids"][:, :, 1:], model.config.eos_id)
        np.testing.assert_allclose(scores, expected["beam4_scores"], atol=1e-5, rtol=0)

    def test_a_prompt_of_peft(self, model, name):
        theirs, batch = numbers(name, "peft.npz"), batch_of(name)
        prompt, _ = read_adapter(beside(name, "peft"))
        np.testing.assert_array_equal(prompt, theirs["prompt"])
        tokens = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
        logits = model.logits(*tokens, prompt)[batch["decoder_loss_weights"] > 0]
        np.testing.assert_allclose(logits, theirs["logits_valid"], atol=1e-4, rtol=0)
        loss, gradient = jax.value_and_grad(lambda p: model.loss(batch, p, z_loss=0.0))(prompt)
        np.testing.assert_allclose(loss, theirs["loss"], atol=5e-6, rtol=0)
        largest = np.abs(theirs["grad_prompt"]).max()
        np.testing.assert_allclose(gradient, theirs["grad_prompt"], atol=1e-4 * largest, rtol=0)


@EACH
def test_saved_again(model, name, tmp_path):
    weights = jax.tree.map(np.asarray, model.params)
    huggingface.save(tmp_path / "again", model.config, weights, model.vocabulary)
    config, again, vocabulary = huggingface.load(tmp_path / "again")
    assert config == model.config
    assert vocabulary.fingerprint == model.vocabulary.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again, weights)
    theirs = load_file(MODELS[name] / "model.safetensors")
    ours = load_file(tmp_path / "again" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    raw = json.loads((tmp_path / "again" / "config.json").read_text())
    expected = json.loads((MODELS[name] / "config.json").read_text())
    for stack in ("encoder", "decoder"):  # whole numbers stay whole: transformers takes no other
        for key in raw[stack].keys() & expected[stack].keys() - {"tie_word_embeddings"}:
            assert json.dumps(raw[stack][key]) == json.dumps(expected[stack][key]), key


def test_shards_read_in_parts_onto_a_mesh(tmp_path):
    config, weights, vocabulary = huggingface.load(HERE)
    huggingface.save(tmp_path, config, weights, vocabulary, max_shard_bytes=50_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model = pt.load_model(tmp_path, mesh=sharding.make_mesh("model:2"))
    kernel = model.params["decoder"]["layers_0"]["cross_attention"]["key"]["kernel"]
    assert tuple(kernel.sharding.spec) == ("fsdp", "model")
    io, batch = numbers("untied"), batch_of("untied")
    rows = {name: np.concatenate([x, x[:1]]) for name, x in batch.items()}
    logits = model.logits(rows["encoder_input_tokens"], rows["decoder_input_tokens"])[:-1]
    valid = io["labels"] != -100
    np.testing.assert_allclose(logits[valid], io["logits_valid"], atol=1e-4, rtol=0)


def changed(tmp_path: Path, encoder=(), decoder=(), **fields) -> Path:
    """A copy of the golden, with fields of config.json changed, or taken out by `...`."""
    path = tmp_path / "changed"
    shutil.copytree(HERE, path, copy_function=shutil.copyfile)
    raw = json.loads((path / "config.json").read_text())
    raw |= {"encoder": raw["encoder"] | dict(encoder), "decoder": raw["decoder"] | dict(decoder)}
    raw |= fields
    for part in (raw, raw["encoder"], raw["decoder"]):
        for key in [key for key, value in part.items() if value is ...]:
            del part[key]
    (path / "config.json").write_text(json.dumps(raw))
    return path


class TestConfig:
    def test_the_hubs_older_config_says_the_same(self, tmp_path):
        stack = {"rope_parameters": ..., "layer_types": ..., "rope_theta": 10000.0}
        older = {"decoder_start_token_id": ..., "dtype": ..., "vocab_size": ...}
        path = changed(tmp_path, stack, stack, **older, torch_dtype="float32")
        assert huggingface.load_lazily(path)[0] == huggingface.load_lazily(HERE)[0]

    def test_its_ids(self):
        config = huggingface.load_lazily(HERE)[0]
        assert (config.pad_id, config.eos_id, config.start_id) == (0, 1, 2)

    def test_training_starts_from_bos_and_generation_where_the_file_says(self, tmp_path):
        path = changed(tmp_path, decoder={"bos_token_id": 5}, decoder_start_token_id=7)
        (path / "generation_config.json").unlink()
        model = pt.load_model(path)
        assert (model.config.start_id, model.generation.start_id) == (5, 7)

    def test_of_several_ends_the_vocabularys(self, tmp_path):
        config = huggingface.load_lazily(changed(tmp_path, eos_token_id=[107, 1]))[0]
        assert config.eos_id == 1

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"encoder": {"hidden_activation": "xielu"}}, "encoder.*xielu"),
            (
                {"decoder": {"num_attention_heads": ...}},
                r"\(decoder\) has no 'num_attention_heads'",
            ),
            ({"decoder": {"bos_token_id": None}}, "no bos_token_id in its decoder"),
            ({"encoder": {"pad_token_id": 3}}, "id 3 in the encoder and 0 in the decoder"),
            ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
            ({"encoder": {"vocab_size": 440}}, "embeds 440 ids and the decoder 432"),
            ({"model_type": "t5gemma2"}, "describes a 't5gemma2' model; only T5.*t5gemma.*causal"),
        ],
    )
    def test_what_is_refused(self, changes, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            huggingface.load_lazily(changed(tmp_path, **changes))

    def test_a_stack_that_is_not_there(self, tmp_path):
        path = changed(tmp_path)
        raw = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(raw | {"encoder": None}))
        with pytest.raises(ValueError, match="has no 'encoder', the fields of that stack"):
            huggingface.load_lazily(path)

    def test_no_t5x_checkpoint_is_made_of_it(self, tmp_path):
        with pytest.raises(ValueError, match="is no T5: T5X has no such model"):
            to_t5x(HERE, tmp_path / "t5x")


class TestNames:
    def rewritten(self, tmp_path, change, **fields):
        path = changed(tmp_path, **fields)
        weights = change(load_file(path / "model.safetensors"))
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        return path

    @pytest.mark.parametrize("before", ["", "module.model.", "_orig_mod.model."])
    def test_what_stands_before_them(self, before, tmp_path):
        def other(weights):
            return {
                name if name.startswith("lm_head") else before + name.removeprefix("model."): x
                for name, x in weights.items()
            }

        weights = huggingface.load(self.rewritten(tmp_path, other))[1]
        jax.tree.map(np.testing.assert_array_equal, weights, huggingface.load(HERE)[1])

    def test_a_tied_models_output_layer(self, tmp_path):
        def alike(weights):
            table = weights["model.decoder.embed_tokens.weight"]
            return weights | {"lm_head.out_proj.weight": table}

        config, *_ = huggingface.load(
            self.rewritten(tmp_path / "alike", alike, tie_word_embeddings=True)
        )
        assert config.logits_via_embedding
        path = self.rewritten(tmp_path / "not", lambda weights: weights, tie_word_embeddings=True)
        with pytest.raises(ValueError, match=r"lm_head\.out_proj\.weight differs from model\.dec"):
            huggingface.load(path)

    def test_a_weight_that_is_missing(self, tmp_path):
        def fewer(weights):
            del weights["model.decoder.layers.1.cross_attn.v_proj.bias"]
            return weights

        with pytest.raises(ValueError, match=r"missing model\.decoder\.layers\.1\.cross_attn"):
            huggingface.load(self.rewritten(tmp_path, fewer))


def test_a_target_does_not_begin_with_what_the_decoder_starts_from():
    vocabulary = huggingface.load_lazily(HERE)[2]
    ids = vocabulary.encode("yes")
    assert vocabulary.framed(ids) == [2, *ids]
    assert (vocabulary.target_prefix, vocabulary.framed_target(ids)) == ((), [*ids, 1])


@pytest.mark.parametrize("dtype", [slow(jnp.bfloat16), "int8"])
@pytest.mark.slow
def test_fewer_bits(dtype):
    whole, small = pt.load_model(HERE), pt.load_model(HERE, dtype=dtype)
    batch = batch_of("untied")
    loss = whole.loss(batch)
    for each in (small, small.scanned()):
        np.testing.assert_allclose(each.loss(batch), loss, rtol=0.02)
        assert each.fingerprint == small.fingerprint
    gradient = jax.grad(lambda p: small.loss(batch, p))(jnp.zeros((2, 16)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    if dtype == "int8":
        for table in (small.params["token_embedder"], small.params["decoder"]["token_embedder"]):
            assert table["embedding"].dtype == jnp.int8
            assert table["embedding_scale"].shape == (432, 1)
