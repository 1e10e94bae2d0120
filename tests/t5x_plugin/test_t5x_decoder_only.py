"""A decoder-only prefix LM under `t5x.train` with our gin files: only its prompt moves."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import t5x_runs

from prompt_tuning_jax import load_prompt
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5.decoder_only import DecoderOnly

pytestmark = pytest.mark.t5x
PROMPT = "decoder/prompt/prompt"
CONFIG = T5Config(4224, 16, 2, 8, 32, 0, 2, logits_via_embedding=True)
EXPERIMENT = f"""
from __gin__ import dynamic_registration

from prompt_tuning_jax import optim

include '{t5x_runs.GIN}/models/decoder_only_base.gin'
include '{t5x_runs.GIN}/prompts/uniform.gin'
include '{t5x_runs.GIN}/runs/train.gin'

VOCABULARY_FILE = 'bundled'
TRAINABLE = [('{PROMPT}', @optim.paper_adafactor())]
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base checkpoint of step 3, without a prompt."""
    tokens = np.ones((1, 4), np.int32)
    params = jax.jit(DecoderOnly(CONFIG).init)(jax.random.key(0), tokens, tokens)["params"]
    path = tmp_path_factory.mktemp("base") / "checkpoint_3"
    with ocp.PyTreeCheckpointer(use_ocdbt=True) as checkpointer:
        checkpointer.save(path / "state", {"target": params, "state": {"step": np.int32(3)}})
    return path


@pytest.fixture(scope="module")
def model_dir(base, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    experiment = directory / "experiment.gin"
    experiment.write_text(EXPERIMENT)
    sizes = {
        "config.T5Config.vocab_size": CONFIG.vocab_size,
        "config.T5Config.num_encoder_layers": 0,
        "config.T5Config.num_decoder_layers": 2,
    }
    t5x_runs.train(directory / "model", base, (str(experiment),), **sizes)
    return directory / "model"


def test_only_the_prompt_moves(base, model_dir):
    before, after = t5x_runs.weights(base), t5x_runs.weights(model_dir / "checkpoint_15")
    assert set(after) - set(before) == {PROMPT}
    for name, values in before.items():
        assert after[name].tobytes() == values.tobytes(), name
    first = t5x_runs.weights(model_dir / "checkpoint_3")[PROMPT]
    assert np.abs(after[PROMPT] - first).mean() > 0.1


def test_a_prompt_file_comes_with_every_checkpoint(model_dir):
    for step in (3, 7, 11, 15):
        prompt = load_prompt(model_dir / "prompts" / str(step))
        expected = t5x_runs.weights(model_dir / f"checkpoint_{step}")[PROMPT]
        np.testing.assert_array_equal(prompt.values, expected)
