"""PEFT's adapters: PEFT's own numbers, recorded and live, and refusal of what is no prompt."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from common import GOLDENS, float64, widened
from safetensors.numpy import load_file, save_file

from prompt_tuning_jax import load_model, load_prompt, save_prompt
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.commands.export_prompt import export_prompt

HUGGINGFACE = GOLDENS / "huggingface"
BASE = HUGGINGFACE / "t5_v1_1"
ADAPTERS = {1: HUGGINGFACE / "peft_t5_v1_1_sub1", 2: HUGGINGFACE / "peft_t5_v1_1_sub2"}
VALUES = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
FACTS = {"base_model": "t5_v1_1", "num_layers": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def base():
    return load_model(BASE)


@pytest.fixture
def adapter(tmp_path):
    """A copy of PEFT's adapter of two submodules, to be damaged."""
    return shutil.copytree(ADAPTERS[2], tmp_path / "adapter")


def edit_config(directory, **changes):
    config = json.loads((directory / peft.CONFIG).read_text()) | changes
    (directory / peft.CONFIG).write_text(json.dumps(config))


def edit_weights(directory, **tensors):
    save_file(tensors, directory / peft.WEIGHTS, metadata={"format": "pt"})


def batch_of(inputs, mask, labels):
    """T5X's batch for the arrays that transformers takes."""
    targets = np.maximum(labels, 0)
    return {
        "encoder_input_tokens": inputs * mask,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (labels >= 0).astype(np.float32),
    }


def assert_numbers(model, prompt, data, expected, rtol=0.0):
    """Logits, mean loss and greedy sequences equal PEFT's."""
    batch = batch_of(data["input_ids"], data["attention_mask"], data["labels"])
    tokens, valid = batch["encoder_input_tokens"], batch["decoder_loss_weights"] > 0
    logits = np.asarray(model.logits(tokens, batch["decoder_input_tokens"], prompt))
    np.testing.assert_allclose(logits[valid], expected["logits"][valid], atol=1e-5, rtol=rtol)
    loss = model.loss(batch, prompt, z_loss=0.0) / valid.sum()
    np.testing.assert_allclose(loss, expected["loss"], atol=1e-6, rtol=rtol)
    sequences = expected["sequences"][:, 1:]
    generated, _ = model.generate_tokens(tokens, prompt, max_length=sequences.shape[1])
    np.testing.assert_array_equal(generated, sequences)


class TestGoldens:
    @pytest.fixture(params=ADAPTERS)
    def submodules(self, request):
        return request.param

    @pytest.fixture
    def golden(self, submodules):
        return dict(np.load(f"{ADAPTERS[submodules]}.npz"))

    def test_numbers(self, base, submodules, golden):
        prompt = load_prompt(ADAPTERS[submodules])
        expected = golden | {"sequences": golden["greedy_sequences"]}
        with float64():
            config, params = widened(base.config, base.params)
            assert_numbers(base.replace(config=config, params=params), prompt, golden, expected)

    @pytest.mark.slow
    def test_gradient(self, base, submodules, golden):
        prompt = load_prompt(ADAPTERS[submodules])
        batch = batch_of(golden["input_ids"], golden["attention_mask"], golden["labels"])
        gradient = jax.grad(lambda p: base.loss(batch, p, z_loss=0.0))(jnp.asarray(prompt.values))
        gradient /= batch["decoder_loss_weights"].sum()
        expected = golden["grad_prompt"]
        np.testing.assert_allclose(gradient, expected[:5], atol=1e-6, rtol=0)
        assert not expected[5:].any()  # what is left out was never trained

    def test_what_is_known(self, submodules, golden):
        prompt = load_prompt(ADAPTERS[submodules])
        np.testing.assert_array_equal(prompt.values, golden["prompt"][:5])
        assert prompt.layout == "prefix"
        unused = {} if submodules == 1 else {"peft_unused_rows": 5}
        assert prompt.metadata == unused | {
            "base_model": "t5_v1_1",
            "peft_type": "PROMPT_TUNING",
            "peft_task_type": "SEQ_2_SEQ_LM",
            "peft_version": "0.21.2",
        }


class TestWrite:
    def test_is_as_peft_writes_it(self, tmp_path):
        values = load_prompt(ADAPTERS[1]).values
        ours = peft.write_adapter(tmp_path / "new", values, **FACTS)
        expected, found = (
            json.loads((directory / peft.CONFIG).read_text()) for directory in (ADAPTERS[1], ours)
        )
        assert found.items() <= expected.items()
        # What is not written is what PEFT fills in where it finds nothing.
        left_out = {name for name in expected.keys() - found.keys() if expected[name] is not None}
        assert left_out == {"peft_version"}
        expected, found = (load_file(directory / peft.WEIGHTS) for directory in (ADAPTERS[1], ours))
        assert found.keys() == expected.keys()
        np.testing.assert_array_equal(found["prompt_embeddings"], expected["prompt_embeddings"])

    def test_round_trip(self, tmp_path):
        directory = peft.write_adapter(tmp_path / "new", VALUES, **FACTS)
        for path in (directory, str(directory), directory / peft.WEIGHTS):
            prompt = load_prompt(path)
            assert prompt.values.tobytes() == VALUES.tobytes()
            assert prompt.metadata["base_model"] == "t5_v1_1"

    @pytest.mark.parametrize("layout", ["suffix", "after_bos", "suffix_before_eos"])
    def test_only_a_prefix(self, tmp_path, layout):
        with pytest.raises(ValueError, match=f"stands as '{layout}', but PEFT puts"):
            peft.write_adapter(tmp_path / "new", VALUES, **FACTS, layout=layout)
        assert not (tmp_path / "new").exists()


class TestVariants:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_half_precision(self, adapter, dtype):
        values = np.concatenate([VALUES, VALUES]).astype(dtype)
        edit_weights(adapter, prompt_embeddings=values)
        prompt = load_prompt(adapter)
        assert prompt.values.dtype == np.float32
        np.testing.assert_array_equal(prompt.values, values[:5].astype(np.float32))

    def test_submodules_left_to_the_default(self, adapter):
        edit_config(adapter, num_transformer_submodules=None)
        assert load_prompt(adapter).metadata["peft_unused_rows"] == 5

    def test_a_prompt_file_goes_before_an_adapter(self, adapter):
        save_prompt(adapter, VALUES, task="food")
        assert load_prompt(adapter).metadata["task"] == "food"


class TestRefused:
    @pytest.mark.parametrize(
        ("kind", "what"),
        [
            ("LORA", "weights changed or added"),
            ("PREFIX_TUNING", "keys and values"),
            ("MULTITASK_PROMPT_TUNING", "factors"),
            (None, "of type None"),
        ],
    )
    def test_another_kind(self, adapter, kind, what):
        edit_config(adapter, peft_type=kind)
        with pytest.raises(ValueError, match=what) as error:
            load_prompt(adapter)
        assert "Only PROMPT_TUNING and P_TUNING" in str(error.value)

    @pytest.mark.parametrize("task", ["TOKEN_CLS", None])
    def test_another_task(self, adapter, task):
        edit_config(adapter, task_type=task)
        with pytest.raises(ValueError, match=f"for {task}; a T5's is for SEQ_2_SEQ_LM"):
            load_prompt(adapter)

    @pytest.mark.parametrize("length", [None, 0, "5"])
    def test_no_length(self, adapter, length):
        edit_config(adapter, num_virtual_tokens=length)
        with pytest.raises(ValueError, match="num_virtual_tokens"):
            load_prompt(adapter)

    def test_three_submodules(self, adapter):
        edit_config(adapter, num_transformer_submodules=3)
        with pytest.raises(ValueError, match="num_transformer_submodules is 3"):
            load_prompt(adapter)

    @pytest.mark.parametrize("shape", [(5, 16), (10, 8), (160,), ()])
    def test_another_shape(self, adapter, shape):
        edit_weights(adapter, prompt_embeddings=np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match=r"describes \[10, 16\]"):
            load_prompt(adapter)

    def test_not_finite(self, adapter):
        edit_weights(adapter, prompt_embeddings=np.full((10, 16), np.nan, np.float32))
        with pytest.raises(ValueError, match="NaN"):
            load_prompt(adapter)

    def test_another_tensor(self, adapter):
        edit_weights(adapter, weight=VALUES)
        with pytest.raises(ValueError, match=r"holds \['weight'\]"):
            load_prompt(adapter)

    def test_weights_of_the_base_model(self, adapter):
        tensors = load_file(adapter / peft.WEIGHTS)
        edit_weights(adapter, **tensors, **{"base_model.shared.weight": VALUES})
        with pytest.raises(ValueError, match=r"base_model\.shared\.weight"):
            load_prompt(adapter)

    def test_a_pickle_is_never_read(self, adapter):
        (adapter / peft.WEIGHTS).rename(adapter / "adapter_model.bin")
        with pytest.raises(FileNotFoundError, match=r"a pickle.*save_pretrained"):
            load_prompt(adapter)

    @pytest.mark.parametrize("name", [peft.CONFIG, peft.WEIGHTS])
    def test_a_missing_file(self, adapter, name):
        (adapter / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"has no {name}"):
            load_prompt(adapter)

    @pytest.mark.parametrize("keep", [0, 100, -1])
    def test_cut_short(self, adapter, keep):
        path = adapter / peft.WEIGHTS
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match="corrupt or cut short"):
            load_prompt(adapter)

    def test_configuration_that_is_not_json(self, adapter):
        (adapter / peft.CONFIG).write_text("{")
        with pytest.raises(ValueError, match=r"adapter_config\.json is not valid JSON"):
            load_prompt(adapter)


def torch_python() -> str | None:
    """An interpreter with PEFT: PROMPT_TUNING_TORCH_PYTHON, or this one if it has it."""
    here = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft"))
    return os.environ.get("PROMPT_TUNING_TORCH_PYTHON") or (sys.executable if here else None)


@pytest.mark.skipif(
    torch_python() is None,
    reason="need PEFT: pip install torch transformers peft, or PROMPT_TUNING_TORCH_PYTHON=PYTHON",
)
class TestLive:
    """PEFT itself, in its own process."""

    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        """Has PEFT do jobs; each one's numbers."""
        data = np.load(HUGGINGFACE / "t5_v1_1_forward.npz")
        data = {name: data[name] for name in ("input_ids", "attention_mask", "labels")}
        batch = tmp_path_factory.mktemp("batch") / "batch.npz"
        np.savez(batch, **data)

        def run(*jobs):
            jobs = [job | {"adapter": str(job["adapter"]), "batch": str(batch)} for job in jobs]
            worker = str(Path(__file__).with_name("peft_worker.py"))
            done = subprocess.run(
                [torch_python(), worker],
                input=json.dumps(jobs),
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return [dict(np.load(Path(job["adapter"]) / "numbers.npz")) for job in jobs]

        run.data = data
        return run

    def test_peft_to_us(self, run, base, tmp_path):
        made = {
            "sub1": {"kind": "PROMPT_TUNING", "num_transformer_submodules": 1},
            "sub2": {"kind": "PROMPT_TUNING"},
            "bfloat16": {"kind": "PROMPT_TUNING", "dtype": "bfloat16"},
            "p_tuning": {"kind": "P_TUNING", "encoder_hidden_size": 24},
        }
        jobs = [
            {"base": str(BASE), "adapter": tmp_path / name, "make": {"dtype": "float32"} | settings}
            for name, settings in made.items()
        ]
        for name, numbers in zip(made, run(*jobs), strict=True):
            prompt = load_prompt(tmp_path / name)
            assert prompt.shape == (5, 16)
            assert prompt.metadata["base_model"] == str(BASE)
            assert prompt.metadata.get("peft_unused_rows", 0) == (0 if name == "sub1" else 5)
            assert_numbers(base, prompt, run.data, numbers, rtol=1e-6)

    def test_us_to_peft(self, run, base, tmp_path):
        rng = np.random.default_rng(1)
        models = {"tiny": base, "bundled": load_model("bundled")}
        names = {"tiny": str(BASE), "bundled": "bundled"}
        for name, model in models.items():
            values = rng.normal(size=(7, model.config.emb_dim)).astype(np.float32)
            save_prompt(tmp_path / name, values)
            export_prompt(str(tmp_path / name), str(tmp_path / f"{name}-peft"), model=names[name])
        found = run(*({"adapter": tmp_path / f"{name}-peft"} for name in models))
        for (name, model), numbers in zip(models.items(), found, strict=True):
            prompt = load_prompt(tmp_path / name)
            assert_numbers(model, prompt, run.data, numbers, rtol=1e-6)
        assert load_prompt(tmp_path / "bundled-peft").metadata["base_model"] == str(BUNDLED)
