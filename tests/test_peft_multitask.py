"""PEFT's multitask prompts: its own numbers, and what each task's prompt becomes here."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import NEEDS_SHARED, shared_dir
from safetensors.numpy import load_file, save_file

from prompt_tuning_jax import load_model, load_prompt
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.adapters.peft_multitask import is_multitask, read_multitask
from prompt_tuning_jax.commands.import_prompt import main
from prompt_tuning_jax.methods.shared_parts import fold

CONFIG = {
    "peft_type": "MULTITASK_PROMPT_TUNING",
    "task_type": "SEQ_2_SEQ_LM",
    "base_model_name_or_path": "somewhere",
    "num_transformer_submodules": 1,
    "num_tasks": 3,
    "num_virtual_tokens": 5,
    "num_ranks": 2,
    "token_dim": 16,
}


@pytest.fixture
def adapter(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {
        "prompt_embeddings": (5, 16),
        "prefix_task_cols": (3, 5, 2),
        "prefix_task_rows": (3, 2, 16),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(tensors, folder / peft.WEIGHTS, metadata={"format": "pt"})
    (folder / peft.CONFIG).write_text(json.dumps(CONFIG))
    return folder, tensors


def test_each_task_has_a_prompt(adapter, tmp_path, model_dir, model, capsys):
    folder, tensors = adapter
    assert is_multitask(folder)
    main([str(folder), str(tmp_path / "prompts"), "--model", str(model_dir)])
    assert capsys.readouterr().out.count("a prompt file, [5, 16]") == 3
    cols, rows = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
    for task in range(3):
        made = load_prompt(tmp_path / "prompts" / str(task))
        expected = tensors["prompt_embeddings"] * (cols[task] @ rows[task])
        np.testing.assert_allclose(made.values, expected, rtol=1e-5, atol=1e-6)
        assert made.metadata["peft_task"] == task
        model.check(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_transformer_submodules": 2}, "rows for the decoder's input too"),
        ({"num_transformer_submodules": None}, "rows for the decoder's input too"),
        ({"num_tasks": 0}, "num_tasks must be a positive number, not 0"),
        ({"task_type": 5}, "is a PEFT prompt for 5"),
        ({"num_tasks": 4}, r"prefix_task_cols is \[3, 5, 2\], but .* describes \[4, 5, 2\]"),
    ],
)
def test_what_is_refused(adapter, changes, message):
    folder, _ = adapter
    (folder / peft.CONFIG).write_text(json.dumps(CONFIG | changes))
    with pytest.raises(ValueError, match=message):
        read_multitask(folder)


def test_other_tensors_are_refused(adapter):
    folder, tensors = adapter
    save_file(tensors | {"more": np.zeros(2, np.float32)}, folder / peft.WEIGHTS)
    with pytest.raises(ValueError, match=r"holds .*'more'"):
        read_multitask(folder)
    (folder / peft.WEIGHTS).write_bytes(b"no")
    with pytest.raises(ValueError, match="corrupt or cut short"):
        read_multitask(folder)


def test_load_prompt_says_what_reads_it(adapter):
    with pytest.raises(ValueError, match="which `prompt-tuning import` writes as a prompt for"):
        load_prompt(adapter[0])
    assert not is_multitask(adapter[0].parent)
    (adapter[0] / peft.CONFIG).write_text("[" * 100_000)
    assert not is_multitask(adapter[0])


def test_an_adapter_without_weights_is_named(adapter, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(adapter[0] / peft.CONFIG, bare)
    with pytest.raises(FileNotFoundError, match=f"has no {peft.WEIGHTS}"):
        read_multitask(bare)


@pytest.mark.slow
@pytest.mark.skipif(shared_dir() is None, reason=NEEDS_SHARED)
def test_logits_loss_and_gradients_are_peft_s():
    families = shared_dir() / "goldens" / "families"
    folder, numbers = families / "adapters" / "mpt_sub1", families / "seq2seq" / "t5_v5"
    golden, io = np.load(f"{folder}.npz"), np.load(numbers / "io.npz")
    model = load_model(numbers / "model")
    prompts = read_multitask(folder)
    ids, counts = io["input_ids"] * io["attention_mask"], io["labels"] >= 0
    rows = [
        {
            "encoder_input_tokens": ids[i : i + 1],
            "decoder_input_tokens": io["decoder_input_ids"][i : i + 1],
            "decoder_target_tokens": np.maximum(io["labels"][i : i + 1], 0),
            "decoder_loss_weights": counts[i : i + 1].astype(np.float32) / counts.sum(),
        }
        for i in range(len(ids))
    ]
    tasks = golden["task_ids"].tolist()
    logits = [
        np.asarray(
            model.logits(row["encoder_input_tokens"], row["decoder_input_tokens"], prompts[task])
        )[0]
        for row, task in zip(rows, tasks, strict=True)
    ]
    np.testing.assert_allclose(np.stack(logits)[counts], golden["logits_valid"], atol=1e-4)

    def loss(tensors):
        names = ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")
        parts = dict(zip(("common", "columns", "rows"), map(tensors.get, names), strict=True))
        bank = fold("product", parts)
        return sum(
            model.loss(row, bank[task], z_loss=0.0) for row, task in zip(rows, tasks, strict=True)
        )

    tensors = {k: jnp.asarray(x) for k, x in load_file(folder / peft.WEIGHTS).items()}
    value, grads = jax.value_and_grad(loss)(tensors)
    np.testing.assert_allclose(value, golden["loss"], atol=5e-6)
    for name, grad in grads.items():
        expected = golden[f"grad:{name}"]
        np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max())
