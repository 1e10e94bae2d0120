"""A prompt for a T5Gemma is trained, saved, found again and used as a T5's."""

import json

import jax
import numpy as np
import optax
import pytest
import tiny
from common import GOLDENS, slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.peft import read_adapter
from prompt_tuning_jax.commands.evaluate import main as evaluate
from prompt_tuning_jax.commands.export_prompt import main as export
from prompt_tuning_jax.commands.import_prompt import main as import_prompt
from prompt_tuning_jax.commands.inference.infer import main as infer
from prompt_tuning_jax.commands.train import main as train
from prompt_tuning_jax.params import PROMPT_NAME

pytestmark = pytest.mark.usefixtures("one_device")
MODEL = GOLDENS / "t5gemma"


@pytest.fixture(scope="module")
def model():
    return pt.load_model(MODEL)


@pytest.mark.slow
def test_a_prompt_trains_and_nothing_else(model, tmp_path):
    before = jax.tree.map(np.asarray, model.params)
    prompt, history = pt.train(**tiny.short_run(model, tmp_path / "run"))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    again = pt.load_prompt(tmp_path / "run" / "best")
    model.check(again)
    np.testing.assert_array_equal(again.values, prompt.values)


@pytest.mark.parametrize(
    "how",
    [
        slow({"pack": True}),
        slow({"scan_layers": True, "remat_policy": "full"}),
        slow({"prompt_visibility": "isolated"}),
    ],
)
def test_packed_or_scanned_it_is_the_same_prompt(model, tmp_path, how):
    steps = {
        "train_steps": 2,
        "eval_period": 2,
        # Gradients here are up to 140, and round to 1e-5 of that: in float64 they are the same.
        "trainable": ((PROMPT_NAME, optax.sgd(1e-4)),),
        "learning_rate": None,
        "seed": 3,
    }
    visibility = {k: v for k, v in how.items() if k == "prompt_visibility"}
    expected, _ = pt.train(**tiny.short_run(model, tmp_path / "one", **steps, **visibility))
    how = how | ({"pack": True} if visibility else {})
    found, _ = pt.train(**tiny.short_run(model, tmp_path / "other", **steps, **how))
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_same_commands(tmp_path, capsys):
    """`prompt-tuning train`, `evaluate`, `infer`, `export` and `import`."""
    data, last = tiny.save_files(tmp_path / "data"), tmp_path / "run" / "last"
    task = f"--model {MODEL} --data_dir {data} --verbalizers 0=yes 1=no --input_template {{text}}"
    train(
        (
            f"{task} --prompt_length 4 --train_steps 2 --eval_period 2 --batch_size 8 "
            f"--model_dir {tmp_path}/run --quiet"
        ).split()
    )
    capsys.readouterr()
    evaluate(f"{task} --prompt {last}".split())
    assert "accuracy" in json.loads(capsys.readouterr().out)
    inputs = tmp_path / "texts.txt"
    inputs.write_text("the soup was good\n")
    infer(f"--model {MODEL} --prompt {last} --input_file {inputs}".split())
    assert json.loads(capsys.readouterr().out)["prediction"] in ("yes", "no")
    export([f"--model={MODEL}", str(last), f"{tmp_path}/peft"])
    values, facts = read_adapter(tmp_path / "peft")
    np.testing.assert_array_equal(values, pt.load_prompt(last).values)
    raw = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (raw["task_type"], raw["num_layers"], raw["token_dim"]) == ("SEQ_2_SEQ_LM", 3, 16)
    assert raw["num_attention_heads"] == 4
    assert facts["base_model"]
    import_prompt([f"--model={MODEL}", f"{tmp_path}/peft", f"{tmp_path}/back"])
    np.testing.assert_array_equal(pt.load_prompt(tmp_path / "back").values, values)
