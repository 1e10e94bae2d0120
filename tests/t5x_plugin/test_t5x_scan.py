"""A scanned T5 under `t5x.train`: the prompt of the same T5 with layers of their own."""

import numpy as np
import orbax.checkpoint as ocp
import own_trainer
import pytest
import t5x_runs

from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.params import unflatten

pytestmark = pytest.mark.t5x


@pytest.fixture(scope="module")
def stacked(base, tmp_path_factory):
    """The base checkpoint of the other runs, with its layers stacked."""
    params = stack_layers(unflatten(t5x_runs.weights(base)))
    path = tmp_path_factory.mktemp("stacked") / "checkpoint_3"
    with ocp.PyTreeCheckpointer(use_ocdbt=True) as checkpointer:
        checkpointer.save(path / "state", {"target": params, "state": {"step": np.int32(3)}})
    return path


def test_a_scanned_model_trains_to_the_same_prompt(run, base, stacked, tmp_path):
    """Within what rounding alone makes of it in twelve steps."""
    t5x_runs.train(tmp_path, stacked, **{"config.T5Config.scan_layers": True})
    weights = t5x_runs.weights(tmp_path / "checkpoint_15")
    prompt = weights.pop("encoder/prompt/prompt")
    trainer = own_trainer.Trainer(base, t5x_runs.TASK["BATCH_SIZE"])
    bound = 2 * trainer.rounding(t5x_runs.prompt(run / "checkpoint_3"))[15]
    expected = t5x_runs.prompt(run / "checkpoint_15")
    np.testing.assert_allclose(prompt, expected, rtol=0, atol=bound)
    before = t5x_runs.weights(stacked)
    assert weights.keys() == before.keys()
    for name, values in before.items():
        assert weights[name].tobytes() == values.tobytes(), name
