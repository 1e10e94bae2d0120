"""Hugging Face checkpoints: their numbers, exact round trips, and refusal of anything doubtful."""

import dataclasses
import functools
import json
import logging
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from common import float64, widened
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from test_vocabulary import train_model

from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.huggingface import hub
from prompt_tuning_jax.models.t5.config import t5_1_1
from prompt_tuning_jax.models.t5.network import Transformer
from prompt_tuning_jax.optim import token_cross_entropy
from prompt_tuning_jax.vocabularies import SentencePieceVocabulary

GOLDENS = Path(__file__).parent / "goldens" / "huggingface"
MODELS = ("t5_v1_1", "t5_v1_0")
Q = "encoder.block.0.layer.0.SelfAttention.q.weight"


@pytest.fixture
def directory(tmp_path):
    """A copy of the tiny T5 1.1, to be damaged."""
    return shutil.copytree(GOLDENS / "t5_v1_1", tmp_path / "model")


@pytest.fixture
def tied_directory(tmp_path):
    return shutil.copytree(GOLDENS / "t5_v1_0", tmp_path / "tied")


def edit_config(directory, **changes):
    path = directory / "config.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not ...}))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def assert_same(params, others):
    flat, other = flatten_dict(params, sep="/"), flatten_dict(others, sep="/")
    assert flat.keys() == other.keys()
    for name, weight in flat.items():
        assert weight.dtype == other[name].dtype, name
        np.testing.assert_array_equal(weight, other[name], name)


@jax.jit
def mean_loss(logits, labels):
    """Hugging Face's loss: the mean over labels that are not -100."""
    losses = token_cross_entropy(logits, jnp.maximum(labels, 0))
    weights = (labels >= 0).astype(jnp.float32)
    return jnp.sum(losses * weights) / jnp.sum(weights)


class TestGoldens:
    @pytest.fixture(scope="class", params=MODELS)
    def name(self, request):
        return request.param

    @pytest.fixture(scope="class")
    def loaded(self, name):
        config, params, _ = huggingface.load(GOLDENS / name)
        return config, jax.tree.map(jnp.asarray, params)

    @pytest.fixture(scope="class")
    def golden(self, name):
        return dict(np.load(GOLDENS / f"{name}_forward.npz"))

    def run(self, loaded, golden, prefix=""):
        """The encoder's output and the logits, in float64."""
        config, params = widened(*loaded)
        network = Transformer(config)

        @jax.jit
        def forward(tokens, targets):
            variables = {"params": params}
            options = {"enable_dropout": False}
            encoded = network.apply(variables, tokens, method="encode", **options)
            return encoded, network.apply(variables, tokens, targets, targets, **options)

        tokens = golden[prefix + "input_ids"] * golden[prefix + "attention_mask"]
        return forward(tokens, golden[prefix + "decoder_input_ids"])

    def test_forward(self, loaded, golden):
        with float64():
            encoded, logits = self.run(loaded, golden)
            loss = mean_loss(logits, golden["labels"])
        valid = golden["attention_mask"] > 0
        expected = golden["encoder_last_hidden_state"]
        np.testing.assert_allclose(encoded[valid], expected[valid], atol=1e-5, rtol=0)
        targets = golden["labels"] != -100
        np.testing.assert_allclose(logits[targets], golden["logits"][targets], atol=1e-5, rtol=0)
        np.testing.assert_allclose(loss, golden["loss"], atol=1e-6)

    def test_past_the_maximum_distance(self, loaded, golden):
        with float64():
            _, logits = self.run(loaded, golden, "long_")
        expected = golden["long_logits_last8"]
        np.testing.assert_allclose(logits[:, -8:], expected, atol=1e-5, rtol=0)

    def test_tying_is_seen_in_the_weights(self, loaded, name):
        config, params = loaded
        assert config.logits_via_embedding == (name == "t5_v1_0")
        assert config.outputs_scaled == (name == "t5_v1_0")
        assert ("logits_dense" in params["decoder"]) == (name == "t5_v1_1")

    def test_the_hubs_older_config_says_the_same(self, loaded, name, tmp_path):
        path = shutil.copytree(GOLDENS / name, tmp_path / name)
        shutil.move(path / "config_hub_style.json", path / "config.json")
        config, params, _ = huggingface.load(path)
        assert config == loaded[0]
        assert_same(params, loaded[1])


class TestRoundTrip:
    @pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    @pytest.mark.parametrize("name", MODELS)
    def test_bit_for_bit(self, name, dtype, max_shard_bytes, tmp_path):
        vocabulary = SentencePieceVocabulary(train_model(), extra_ids=7)
        config, params, _ = huggingface.load(GOLDENS / name, dtype)
        huggingface.save(tmp_path / "new", config, params, vocabulary, max_shard_bytes)
        again = huggingface.load(tmp_path / "new", dtype)
        assert again[0] == config
        assert_same(again[1], params)
        assert again[2].fingerprint == vocabulary.fingerprint
        assert (tmp_path / "new" / "model.safetensors").exists() == (max_shard_bytes > 20_000)

    def test_files_are_what_transformers_writes(self, tmp_path):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_1")
        huggingface.save(tmp_path / "new", config, params)
        ours = load_file(tmp_path / "new" / "model.safetensors")
        theirs = load_file(GOLDENS / "t5_v1_1" / "model.safetensors")
        assert_same(ours, theirs)
        raw = json.loads((tmp_path / "new" / "config.json").read_text())
        expected = json.loads((GOLDENS / "t5_v1_1" / "config.json").read_text())
        same = raw.keys() & expected.keys() - {"tie_word_embeddings"}
        assert {k: raw[k] for k in same} == {k: expected[k] for k in same}

    def test_jax_arrays_are_saved_alike(self, tmp_path):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_0")
        huggingface.save(tmp_path / "new", config, jax.tree.map(jnp.asarray, params))
        assert_same(huggingface.load(tmp_path / "new")[1], params)

    @pytest.mark.parametrize("first", [10**9, 20_000, 30_000])
    @pytest.mark.parametrize("second", [10**9, 20_000, 30_000])
    def test_saving_over_a_model_replaces_it_whole(self, first, second, tmp_path):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_0")
        newer = jax.tree.map(lambda x: x + 1, params)
        (tmp_path / "prompt.json").write_text("{}")
        huggingface.save(tmp_path, config, params, max_shard_bytes=first)
        huggingface.save(tmp_path, config, newer, max_shard_bytes=second)
        assert_same(huggingface.load(tmp_path)[1], newer)
        stored = [load_file(path) for path in tmp_path.glob("*.safetensors")]
        assert sum(map(len, stored)) == 47  # nothing of the first is left
        assert (tmp_path / "prompt.json").exists()

    @pytest.mark.parametrize("old_shards", [10**9, 20_000])
    def test_a_failed_write_leaves_the_old_model(self, old_shards, tmp_path, monkeypatch):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_0")
        huggingface.save(tmp_path / "m", config, params, max_shard_bytes=old_shards)

        def fail(*args):
            raise OSError("disk full")

        monkeypatch.setattr(huggingface.model, "write_weights", fail)
        newer = jax.tree.map(lambda x: x + 1, params)
        for place in ("m", "elsewhere"):
            with pytest.raises(OSError, match="disk full"):
                huggingface.save(tmp_path / place, config, newer)
        assert_same(huggingface.load(tmp_path / "m")[1], params)
        assert [path.name for path in tmp_path.iterdir()] == ["m"]

    def test_a_model_of_another_shape_is_not_overwritten(self, directory):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_0")
        with pytest.raises(FileExistsError, match="another shape"):
            huggingface.save(directory, config, params)

    def test_weights_of_another_config_are_not_saved(self, tmp_path):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_0")
        params["encoder"]["prompt"] = {"prompt": np.zeros((5, 16), np.float32)}
        with pytest.raises(ValueError, match="encoder/prompt/prompt"):
            huggingface.save(tmp_path / "m", config, params)
        del params["encoder"]
        with pytest.raises(ValueError, match=r"needed \(16,\)"):
            huggingface.save(tmp_path / "m", config, params)


class TestConfigs:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"d_model": ...}, "no 'd_model'"),
            ({"d_ff": "32"}, "d_ff must be a positive whole number"),
            ({"num_heads": 0}, "num_heads must be"),
        ],
    )
    def test_what_is_not_this_t5_is_refused(self, directory, changes, reason):
        edit_config(directory, **changes)
        with pytest.raises(ValueError, match=reason) as error:
            huggingface.load(directory)
        assert "config.json" in str(error.value)

    def test_older_files_leave_keys_out(self, directory):
        expected, _, _ = huggingface.load(directory)
        optional = (
            "num_decoder_layers",
            "relative_attention_max_distance",
            "scale_decoder_outputs",
        )
        edit_config(directory, **dict.fromkeys(optional, ...), tie_word_embeddings=False)
        assert huggingface.load(directory)[0] == expected

    def test_mt5(self, directory):
        expected, _, _ = huggingface.load(directory)
        absent = dict.fromkeys(("feed_forward_proj", "scale_decoder_outputs"), ...)
        edit_config(directory, model_type="mt5", tie_word_embeddings=..., **absent)
        assert huggingface.load(directory)[0] == expected

    @pytest.mark.parametrize("text", ["", "{", "[1]", b"\xff\xfe"])
    def test_broken_json(self, directory, text):
        content = text.encode() if isinstance(text, str) else text
        (directory / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json"):
            huggingface.load(directory)

    @pytest.mark.parametrize("name", MODELS)
    def test_scaling_that_departs_from_tying(self, name, tmp_path):
        # As in a tied model that transformers 5 untied: its config still says to scale.
        path = shutil.copytree(GOLDENS / name, tmp_path / "odd")
        edit_config(path, scale_decoder_outputs=name == "t5_v1_1")
        config, params, _ = huggingface.load(path)
        assert config.outputs_scaled != config.logits_via_embedding
        huggingface.save(tmp_path / "again", config, params)
        assert huggingface.load(tmp_path / "again")[0] == config

    def test_scaling_divides_the_logits(self):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_1")
        config = dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)
        scaled = dataclasses.replace(config, scale_decoder_outputs=True)
        tokens = jnp.array([[5, 6, 1]])

        @functools.partial(jax.jit, static_argnums=0)
        def logits(config):
            network = Transformer(config)
            return network.apply({"params": params}, tokens, tokens, tokens, enable_dropout=False)

        np.testing.assert_allclose(logits(scaled), logits(config) * 16**-0.5, rtol=1e-5)


class TestWeights:
    def test_report_is_a_short_table(self, directory):
        reports = []
        huggingface.load(directory, report=reports.append)
        lines = str(reports[0]).splitlines()
        assert "52 matched, 0 missing" in lines[0]
        assert len(lines) == 30
        layers = "encoder.block.*.layer.0.SelfAttention.q.weight"
        assert any(layers in line and "x2" in line for line in lines)

    def test_missing_weight_is_refused_after_the_table(self, directory):
        edit_weights(directory, lambda weights: weights.pop(Q))
        reports = []
        with pytest.raises(ValueError, match="random") as error:
            huggingface.load(directory, report=reports.append)
        assert Q in str(error.value)
        assert "1 missing" in str(reports[0])

    def test_a_missing_layer_is_counted(self, directory):
        edit_config(directory, num_layers=3, num_decoder_layers=2)
        with pytest.raises(ValueError, match=r"9 weight\(s\).*encoder\.block\.2"):
            huggingface.load(directory)

    def test_a_spare_layer_means_a_wrong_config(self, directory):
        edit_config(directory, num_layers=1, num_decoder_layers=2)
        with pytest.raises(ValueError, match=r"encoder\.block\.1.*Correct config\.json"):
            huggingface.load(directory)

    def test_wrong_shape(self, directory):
        edit_weights(directory, lambda w: w.update({Q: np.zeros((8, 16), np.float32)}))
        with pytest.raises(ValueError, match=r"\(8, 16\), config\.json needs \(16, 16\)"):
            huggingface.load(directory)

    def test_wrong_vocabulary_size(self, directory):
        edit_config(directory, vocab_size=256)
        with pytest.raises(ValueError, match=r"shared\.weight has shape \(128, 16\)"):
            huggingface.load(directory)

    def test_unused_weight_is_reported(self, directory, caplog):
        edit_weights(directory, lambda w: w.update({"spare": np.zeros(3, np.float32)}))
        reports = []
        with caplog.at_level(logging.WARNING):
            huggingface.load(directory, report=reports.append)
        assert "unexpected  spare" in str(reports[0])
        assert "spare" in caplog.text

    def test_first_conversions_extra_weight_is_ignored(self, directory):
        name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        edit_weights(directory, lambda w: w.update({name: np.zeros((32, 2), np.float32)}))
        assert_same(huggingface.load(directory)[1], huggingface.load(GOLDENS / "t5_v1_1")[1])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_half_precision_files(self, directory, dtype):
        expected = huggingface.load(directory)[1]
        edit_weights(directory, lambda w: w.update({k: v.astype(dtype) for k, v in w.items()}))
        rounded = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), expected)
        assert_same(huggingface.load(directory)[1], rounded)

    def test_bfloat16_in_memory(self, directory):
        config, params, _ = huggingface.load(directory, jnp.bfloat16)
        assert config.dtype == jnp.bfloat16
        assert {str(x.dtype) for x in jax.tree.leaves(params)} == {"bfloat16"}
        with pytest.raises(ValueError, match="float32 or bfloat16"):
            huggingface.load(directory, jnp.float16)

    def test_integers_are_refused(self, directory):
        edit_weights(directory, lambda w: w.update({Q: np.zeros((16, 16), np.int8)}))
        with pytest.raises(ValueError, match=f"{Q} is int8"):
            huggingface.load(directory)

    def test_nan_is_refused(self, directory):
        edit_weights(directory, lambda w: w.update({Q: np.full((16, 16), np.nan, np.float32)}))
        with pytest.raises(ValueError, match=f"{Q} holds NaN"):
            huggingface.load(directory)

    def test_copies_of_the_embedding_table(self, tied_directory):
        expected = huggingface.load(tied_directory)[1]
        copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
        edit_weights(tied_directory, lambda w: w.update(dict.fromkeys(copies, w["shared.weight"])))
        assert_same(huggingface.load(tied_directory)[1], expected)
        edit_weights(tied_directory, lambda w: w.pop("shared.weight"))
        assert_same(huggingface.load(tied_directory)[1], expected)
        edit_weights(tied_directory, lambda w: w.update({copies[1]: w[copies[0]] + 1}))
        with pytest.raises(ValueError, match=r"decoder\.embed_tokens\.weight differs"):
            huggingface.load(tied_directory)


NAME = "someone/t5-old"


class Offer(NamedTuple):
    """A pull request on the hub."""

    author: str
    title: str
    git_reference: str


class TestDirectories:
    def test_only_a_pickle(self, directory):
        (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
        with pytest.raises(FileNotFoundError, match="save_pretrained"):
            huggingface.load(directory)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_missing_file(self, directory, name):
        (directory / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            huggingface.load(directory)

    @pytest.mark.parametrize("keep", [0, 4, 200, -1])
    def test_cut_short(self, directory, keep):
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match=r"model\.safetensors is corrupt or cut short"):
            huggingface.load(directory)

    def test_missing_shard(self, tmp_path):
        config, params, _ = huggingface.load(GOLDENS / "t5_v1_0")
        huggingface.save(tmp_path / "m", config, params, max_shard_bytes=20_000)
        next((tmp_path / "m").glob("model-00002*")).unlink()
        with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
            huggingface.load(tmp_path / "m")

    @pytest.mark.parametrize("weight_map", [None, {"a": "../../secret.safetensors"}, {"a": 3}])
    def test_bad_index(self, directory, weight_map):
        (directory / "model.safetensors").unlink()
        index = {"weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="weight_map"):
            huggingface.load(directory)

    def test_no_such_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no directory"):
            huggingface.load(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="is a file"):
            huggingface.load(GOLDENS / "t5_v1_1" / "config.json")

    @pytest.fixture(autouse=True)
    def hub_that_answers(self, monkeypatch):
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: None)

    def test_a_hub_that_is_silent_is_not_waited_for(self, monkeypatch):
        import huggingface_hub

        monkeypatch.setattr(hub, "ANSWER_SECONDS", 1.0)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            api = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setattr(huggingface_hub, "model_info", api.model_info)
            with pytest.raises(FileNotFoundError, match=r"no answer for 1 seconds\)"):
                huggingface.load("someone/t5-tiny")

    def test_hub_name_without_a_network(self, monkeypatch):
        import huggingface_hub

        def fail(*args, **kwargs):
            raise ConnectionError("no network\nand more")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(FileNotFoundError, match=r"no network\).*pass the path"):
            huggingface.load("someone/t5-tiny")

    def test_hub_name(self, monkeypatch, directory):
        import huggingface_hub

        asked = {}

        def download(name, revision, allow_patterns):
            assert revision is None
            asked[name] = allow_patterns
            return str(directory)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        assert_same(
            huggingface.load("someone/t5-tiny")[1], huggingface.load(GOLDENS / "t5_v1_1")[1]
        )
        assert not any("bin" in pattern for pattern in asked["someone/t5-tiny"])

    @pytest.fixture
    def pickled_on_hub(self, monkeypatch, tmp_path, directory):
        """A hub whose model is a pickle; offers of weights by somebody can be added."""
        import huggingface_hub

        offers = []
        (tmp_path / "main").mkdir()
        shutil.copy(directory / "config.json", tmp_path / "main")
        places = {None: tmp_path / "main", "refs/pr/3": directory}

        def discussions(name, author, discussion_type, discussion_status):
            assert (name, discussion_type, discussion_status) == (NAME, "pull_request", "open")
            return (offer for offer in offers if offer.author == author)

        monkeypatch.setattr(
            huggingface_hub, "snapshot_download", lambda name, revision, **_: str(places[revision])
        )
        monkeypatch.setattr(huggingface_hub, "get_repo_discussions", discussions)
        return offers

    def test_the_hubs_own_conversion_of_a_pickle_is_taken(self, pickled_on_hub):
        title = "Adding `safetensors` variant of this model"
        pickled_on_hub += [
            Offer("mallory", title, "refs/pr/1"),
            Offer("SFconvertbot", "Adding something else", "refs/pr/2"),
            Offer("SFconvertbot", title, "refs/pr/3"),
        ]
        assert_same(huggingface.load(NAME)[1], huggingface.load(GOLDENS / "t5_v1_1")[1])

    def test_a_pickle_that_nobody_converted_is_refused(self, pickled_on_hub):
        pickled_on_hub.append(Offer("mallory", "Adding `safetensors` variant", "refs/pr/1"))
        words = rf"^{NAME} has no safetensors.*from_pretrained\('{NAME}'\)"
        with pytest.raises(FileNotFoundError, match=words):
            huggingface.load(NAME)

    def test_vocabulary_is_optional_and_must_fit(self, directory):
        assert huggingface.load(directory)[2] is None
        (directory / "spiece.model").write_bytes(train_model())
        (directory / "tokenizer_config.json").write_text('{"extra_ids": 5}')
        assert huggingface.load(directory)[2].extra_ids == 5
        (directory / "tokenizer_config.json").unlink()  # 100 is T5's number, too many for 128 rows
        with pytest.raises(ValueError, match="embeds only 128"):
            huggingface.load(directory)


class TestFingerprint:
    def test_is_of_the_weights_not_of_their_precision(self):
        full = huggingface.load(GOLDENS / "t5_v1_1")[1]
        half = huggingface.load(GOLDENS / "t5_v1_1", jnp.bfloat16)[1]
        assert (
            fingerprint(full) == fingerprint(half) == fingerprint(jax.tree.map(jnp.asarray, full))
        )

    def test_every_value_counts_and_so_does_its_place(self):
        params = huggingface.load(GOLDENS / "t5_v1_1")[1]
        before = fingerprint(params)
        kernel = params["decoder"]["layers_1"]["mlp"]["wo"]["kernel"]
        kernel[7, 3] *= 1.1
        changed = fingerprint(params)
        kernel[7, 3] /= 1.1
        attention = params["decoder"]["layers_1"]["self_attention"]
        attention["query"], attention["key"] = attention["key"], attention["query"]
        assert len({before, changed, fingerprint(params)}) == 3

    def test_the_prompt_does_not_count(self):
        params = huggingface.load(GOLDENS / "t5_v1_0")[1]
        before = fingerprint(params)
        params["encoder"]["prompt"] = {"prompt": np.ones((5, 16), np.float32)}
        assert fingerprint(params) == before


def test_names_are_the_networks():
    """Every parameter the network makes has a Hugging Face name, with the same shape."""
    from prompt_tuning_jax.checkpoints.huggingface.names import is_transposed, weight_names

    config = t5_1_1("small", vocab_size=256, num_encoder_layers=2, num_decoder_layers=1)
    tokens = jnp.ones((1, 4), jnp.int32)
    made = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens, tokens, tokens)
    made = flatten_dict(made["params"], sep="/")
    named = {
        ours: tuple(reversed(shape)) if is_transposed(ours) else shape
        for ours, shape in weight_names(config).values()
    }
    assert named == {name: tuple(x.shape) for name, x in made.items()}
