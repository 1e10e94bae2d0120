"""Causal models in Hugging Face's files: read, refused by name, written again."""

import json
import shutil

import jax
import numpy as np
import pytest
from causal_models import HERE, MODELS, continued, file_of, next_logits, numbers, padded
from common import GOLDENS
from safetensors.numpy import load_file, save_file

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.huggingface.causal import parse_config
from prompt_tuning_jax.decoding.constraints import Constraints
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.causal import CausalConfig, Rotary

EACH = pytest.mark.parametrize("name", sorted(MODELS))


def changed(name, tmp_path, **fields):
    """A copy of a model, with fields of config.json changed, or taken out by `...`."""
    path = tmp_path / "changed"
    shutil.copytree(MODELS[name], path, copy_function=shutil.copyfile)
    raw = json.loads((path / "config.json").read_text()) | fields
    raw = {key: value for key, value in raw.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(raw))
    return path


def config_of(path) -> CausalConfig:
    return huggingface.load_lazily(path)[0]


@EACH
def test_the_hubs_older_config_says_the_same(name, tmp_path):
    path = changed(name, tmp_path)
    shutil.copyfile(file_of(name, "config_hub_style.json"), path / "config.json")
    assert config_of(path) == config_of(MODELS[name])


@EACH
def test_saved_again(name, tmp_path):
    config, weights, vocabulary = huggingface.load(MODELS[name])
    huggingface.save(tmp_path / "again", config, weights, vocabulary)
    again, there, _ = huggingface.load(tmp_path / "again")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, there, weights)
    theirs = load_file(MODELS[name] / "model.safetensors")
    ours = load_file(tmp_path / "again" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for key, weight in ours.items():
        np.testing.assert_array_equal(weight, theirs[key])


def test_shards_read_in_parts_onto_a_mesh(tmp_path):
    config, weights, vocabulary = huggingface.load(MODELS["qwen3"])
    huggingface.save(tmp_path, config, weights, vocabulary, max_shard_bytes=50_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model = pt.load_model(tmp_path, mesh=sharding.make_mesh("model:2"))
    kernel = model.params["decoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    assert tuple(kernel.sharding.spec) == ("model", "fsdp")
    io = numbers("qwen3")
    logits = next_logits(model, padded(model, io, "unpadded"))
    np.testing.assert_allclose(logits, io["unpadded_logits"], atol=1e-4, rtol=0)


class TestNames:
    def rewritten(self, name, tmp_path, change):
        path = changed(name, tmp_path)
        weights = load_file(path / "model.safetensors")
        save_file(change(weights), path / "model.safetensors", {"format": "pt"})
        return path

    @pytest.mark.parametrize("before", ["", "module.model.", "_orig_mod.model."])
    def test_what_stands_before_them(self, before, tmp_path):
        def other(weights):
            return {before + n.removeprefix("model."): x for n, x in weights.items()}

        _, weights, _ = huggingface.load(self.rewritten("qwen3", tmp_path, other))
        jax.tree.map(np.testing.assert_array_equal, weights, huggingface.load(MODELS["qwen3"])[1])

    def test_constants_are_no_weights(self, tmp_path):
        def more(weights):
            return weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)}

        huggingface.load(self.rewritten("qwen3", tmp_path, more))

    def test_an_output_layer_that_is_the_table(self, tmp_path):
        def more(weights):
            return weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}

        huggingface.load(self.rewritten("qwen3", tmp_path, more))

    def test_an_output_layer_that_is_not(self, tmp_path):
        def more(weights):
            return weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1}

        with pytest.raises(ValueError, match="tie_word_embeddings that they are one"):
            huggingface.load(self.rewritten("qwen3", tmp_path, more))

    def test_a_weight_that_is_missing_or_too_many(self, tmp_path):
        path = changed("qwen3", tmp_path, tie_word_embeddings=False)
        with pytest.raises(ValueError, match=r"missing lm_head\.weight"):
            huggingface.load(path)

        def more(weights):
            return weights | {"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}

        path = self.rewritten("llama_tied", tmp_path / "more", more)
        with pytest.raises(ValueError, match=r"does not describe, model\.layers\.0\.self_attn"):
            huggingface.load(path)


class TestConfig:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts; only T5"),
            ({"model_type": "gemma3", "vision_config": {"a": 1}}, "reads images too.*gemma3_text"),
            ({"model_type": "gemma3n_text", "hidden_size_per_layer_input": 8}, "each layer; only"),
            ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
            ({"use_bidirectional_attention": True}, "use_bidirectional_attention is set"),
            ({"is_causal": False}, "is_causal is false: its positions see what comes after"),
            ({"hidden_act": "xielu"}, "hidden_act 'xielu' is not one of"),
            ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "need 'low_freq_factor'"),
            ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
            ({"eos_token_id": 336}, "eos_token_id must be a token id"),
            ({"num_attention_heads": ...}, "has no 'num_attention_heads'"),
            ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "an older name for it, differ"),
            ({"layer_types": ["full_attention"]}, "for each of 2 layers"),
            ({"layer_types": "full_attention"}, "for each of 2 layers"),
            ({"layer_types": [["full_attention"]] * 2}, "for each of 2 layers"),
            (
                {"layer_types": ["sliding_attention"] * 2, "sliding_window": 4},
                "use_sliding_window is not true",
            ),
            ({"model_type": ...}, "has no 'model_type', which says what kind"),
            ({"pad_token_id": 5}, "texts may hold.* Or set pad_token_id to null"),
            ({"attention_bias": True}, r"missing model\.layers\.0\.self_attn\.q_proj\.bias"),
            (
                {"num_hidden_layers": 1, "layer_types": ...},
                r"layers that config\.json does not describe",
            ),
            ({"num_key_value_heads": 3}, r"config\.json: num_key_value_heads, 3, must divide"),
            ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "one kind for all"),
        ],
    )
    def test_what_is_refused(self, fields, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            config_of(changed("qwen3", tmp_path, **fields))

    def test_a_linear_scaling(self, tmp_path):
        path = changed(
            "llama_tied",
            tmp_path,
            rope_parameters=...,
            rope_theta=1e5,
            rope_scaling={"type": "linear", "factor": 4.0},
        )
        assert config_of(path).layers[0].rotary == Rotary(1e5, "linear", 4.0)

    def test_windows_that_are_asked_for(self, tmp_path):
        path = changed(
            "qwen3",
            tmp_path,
            layer_types=...,
            use_sliding_window=True,
            sliding_window=5,
            max_window_layers=1,
        )
        assert [layer.window for layer in config_of(path).layers] == [None, 5]

    def test_a_mistral_whose_layers_differ(self, tmp_path):
        fields = {"model_type": "mistral", "sliding_window": 3}
        mixed = fields | {"layer_types": ["full_attention", "sliding_attention"]}
        model = pt.load_model(changed("llama_tied", tmp_path / "mixed", **mixed))
        golden = np.load(HERE / "layer_types.npz")
        found = next_logits(model, golden["ids"])
        np.testing.assert_allclose(found, golden["logits"], rtol=1e-5, atol=5e-5)
        huggingface.save(tmp_path / "again", *huggingface.load(tmp_path / "mixed" / "changed"))
        assert config_of(tmp_path / "again") == model.config
        alike = config_of(changed("llama_tied", tmp_path / "alike", **fields))
        assert [layer.window for layer in alike.layers] == [3, 3]

    def test_which_gemmas_windows_a_pattern_changes(self):
        for name, period in (("gemma2", 2), ("gemma3_text", 3)):
            fields = {"model_type": name, "num_hidden_layers": 4, "sliding_window_pattern": 3}
            fields |= {"vocab_size": 64, "hidden_size": 8, "num_attention_heads": 4}
            fields |= {"intermediate_size": 8, "max_position_embeddings": 32, "sliding_window": 5}
            found = [layer.window for layer in parse_config(fields, "here").layers]
            assert found == [5 if i % period else None for i in range(1, 5)]

    def test_rotary_positions_of_each_kind_of_layer(self):
        fields = {"model_type": "gemma3_text", "num_hidden_layers": 2, "vocab_size": 64}
        fields |= {"hidden_size": 8, "num_attention_heads": 4, "intermediate_size": 8}
        fields |= {"max_position_embeddings": 32, "rope_parameters": {"rope_theta": 500.0}}
        with pytest.raises(ValueError, match="must be full_attention and sliding_attention, each"):
            parse_config(fields, "here")

    def test_padding_of_its_own_and_none(self, tmp_path):
        config = config_of(MODELS["llama_tied"])
        assert (config.pad_id, config.eos_id) == (config.vocab_size, 2)
        assert config_of(MODELS["qwen3"]).pad_id == 330
        for number, pad in enumerate((None, -1, 332)):
            path = changed("qwen3", tmp_path / str(number), pad_token_id=pad)
            assert config_of(path).pad_id == 336

    def test_of_several_ends_the_vocabularys(self, tmp_path):
        path = changed("qwen3", tmp_path, eos_token_id=[5, 332])
        assert config_of(path).eos_id == 332

    def test_another_end_than_the_vocabularys(self, tmp_path):
        with pytest.raises(ValueError, match="ends a text with the id 332, but the model"):
            config_of(changed("qwen3", tmp_path, eos_token_id=5))


class TestGeneration:
    def generation(self, tmp_path, **fields):
        path = changed("qwen3", tmp_path)
        (path / "generation_config.json").write_text(json.dumps(fields))
        return pt.load_model(path).generation

    def test_what_published_chat_models_say_is_obeyed(self, tmp_path):
        """The fields of Qwen2.5's, Llama 3.2's and Gemma 3's, with ids of this vocabulary."""
        qwen = {
            "bos_token_id": 330,
            "pad_token_id": 330,
            "do_sample": True,
            "eos_token_id": [332, 330],
            "repetition_penalty": 1.05,
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
            "transformers_version": "4.37.0",
        }
        how = self.generation(tmp_path / "qwen", **qwen).resolved({})
        assert how["constraints"] == Constraints(repetition_penalty=1.05)
        assert (how["temperature"], how["top_p"], how["top_k"]) == (0.7, 0.8, 20)
        assert how["eos_ids"] == (332, 330)
        llama = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [332, 5]}
        how = self.generation(tmp_path / "llama", **llama).resolved({"temperature": 0.0})
        assert (how["temperature"], how["eos_ids"]) == (0.0, (332, 5))
        gemma = {"cache_implementation": "hybrid", "do_sample": True, "top_k": 64, "top_p": 0.95}
        how = self.generation(tmp_path / "gemma", **gemma).resolved({})
        assert (how["temperature"], how["top_k"], how["top_p"]) == (1.0, 64, 0.95)

    def test_a_length_that_counts_the_input_says_nothing(self, tmp_path):
        found = self.generation(tmp_path, max_length=4096, decoder_start_token_id=5)
        assert (found.max_length, found.start_id, found.refused) == (None, None, ())
        assert self.generation(tmp_path / "new", max_new_tokens=7).max_length == 7

    def test_what_depends_on_the_input_s_length_is_refused(self, tmp_path):
        found = self.generation(tmp_path, min_length=9, forced_bos_token_id=5, min_new_tokens=2)
        assert [one.what for one in found.refused] == ["min_length 9", "forced_bos_token_id 5"]
        assert found.constraints == Constraints(min_length=2)
        assert json.loads(found.stored)["min_length"] == 9
        assert not self.generation(tmp_path / "none", min_length=0).refused

    def test_several_ends(self, tmp_path):
        assert self.generation(tmp_path, eos_token_id=[332, 5]).eos_ids == (332, 5)


class TestVocabulary:
    @EACH
    def test_a_text_begins_and_a_target_ends(self, name):
        """transformers' ids of an input; those of a target are its own, and the end."""
        cases = json.loads(file_of(name, "tokens.json").read_text())["cases"]
        vocabulary = huggingface.load_lazily(MODELS[name])[2]
        for case in cases[:8]:
            text = vocabulary.encode(case["text"])
            assert vocabulary.framed(text) == case["ids"]
            assert vocabulary.framed_target(text) == [
                *case["ids_without_special"],
                vocabulary.eos_id,
            ]
        ids = vocabulary.encode("go on")
        assert vocabulary.decode([*ids, vocabulary.eos_id, 7]) == "go on"

    def test_a_token_that_was_added_and_is_not_embedded(self, tmp_path):
        """As Gemma 3's vocabulary has one for images."""
        path = changed("qwen3", tmp_path)
        raw = json.loads((path / "tokenizer.json").read_text())
        last = raw["added_tokens"][-1]
        raw["added_tokens"] += [last | {"id": i, "content": f"<{i}>"} for i in range(333, 337)]
        (path / "tokenizer.json").write_text(json.dumps(raw))
        model = pt.load_model(path)
        assert model.vocabulary.size == 337
        expected = pt.load_model(MODELS["qwen3"]).classify(["a text"], ["yes", "no"])
        np.testing.assert_array_equal(
            model.classify(["a text"], ["yes", "no"]).scores, expected.scores
        )
        rows = model.config.vocab_size
        past = f"<{rows}>.*id {rows}, but the model embeds only the ids 0 to {rows - 1}"
        for texts, labels in ((["a", f"a <{rows}>"], ["yes"]), (["a"], ["yes", f"<{rows}>"])):
            with pytest.raises(ValueError, match=past):
                model.classify(texts, labels)
        with pytest.raises(ValueError, match=past):
            model.generate([f"a <{rows}>"], max_decode_length=2)

    def test_classify_is_the_loss_of_each_label(self):
        model = pt.load_model(MODELS["llama_tied"])
        prompt = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
        labels = ["good", "quite bad"]
        _, scores = model.classify(["the soup", "a longer text than that"], labels, prompt)
        text = model.vocabulary.framed(model.vocabulary.encode("the soup"))
        for label, score in zip(labels, scores[0], strict=True):
            target = model.vocabulary.framed_target(model.vocabulary.encode(label))
            batch = continued(model, np.array([text]), np.array([target]))
            loss = model.loss(batch, prompt, z_loss=0.0) * len(target)
            np.testing.assert_allclose(-loss, score, rtol=1e-5)


class TestMissingFiles:
    @pytest.mark.parametrize(("name", "kind"), [("qwen3", "CausalLM"), ("t5", "Seq2SeqLM")])
    def test_a_pickle_is_converted_by_its_own_class(self, name, kind, tmp_path):
        """transformers' class for the model that config.json describes."""
        source = MODELS.get(name, GOLDENS / "huggingface" / "t5_v1_1")
        shutil.copyfile(source / "config.json", tmp_path / "config.json")
        (tmp_path / "pytorch_model.bin").touch()
        with pytest.raises(FileNotFoundError, match=f"AutoModelFor{kind}.from_pretrained"):
            pt.load_model(tmp_path)

    def test_a_shard_that_is_not_there(self, tmp_path):
        config, weights, vocabulary = huggingface.load(MODELS["qwen3"])
        huggingface.save(tmp_path, config, weights, vocabulary, max_shard_bytes=50_000)
        next(tmp_path.glob("model-00002-of-*")).unlink()
        with pytest.raises(FileNotFoundError, match=r"model-00002.* is missing: its index names"):
            pt.load_model(tmp_path)

    def test_a_sentencepiece_model_does_not_say_how_a_text_begins(self):
        with pytest.raises(ValueError, match=r"SentencePiece model.*pass the model's tokenizer"):
            pt.load_model(MODELS["llama_tied"], vocabulary=huggingface.BUNDLED / "spiece.model")

    def test_a_tokenizer_without_its_config(self, tmp_path):
        path = changed("qwen3", tmp_path)
        (path / "tokenizer_config.json").unlink()
        with pytest.raises(ValueError, match=r"ends a text with the id 330.*Pass all files"):
            pt.load_model(path)
