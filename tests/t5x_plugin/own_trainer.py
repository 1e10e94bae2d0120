"""The steps of T5X's runs, taken by this library's own trainer."""

import jax
import numpy as np
import t5x_runs

from prompt_tuning_jax import FrozenModel, optim
from prompt_tuning_jax.train_config import TrainConfig
from prompt_tuning_jax.train_step import make_train_step

NAME = optim.PROMPT_NAME


def batches(size):
    """What T5X's training data are, for the settings of these runs."""
    import seqio
    from t5x import utils

    cfg = utils.DatasetConfig(
        mixture_or_task_name=t5x_runs.TASK["MIXTURE_OR_TASK_NAME"],
        module=t5x_runs.TASK["MIXTURE_OR_TASK_MODULE"],
        task_feature_lengths=t5x_runs.TASK["TASK_FEATURE_LENGTHS"],
        split="train",
        batch_size=size,
        shuffle=True,
        seed=0,
    )
    return utils.get_dataset(cfg, 0, 1, seqio.EncDecFeatureConverter).as_numpy_iterator()


def train(base, first_prompt, size, start_step=t5x_runs.BASE_STEP, last_step=23):
    """Step -> the prompt then, in one run on one device from `first_prompt`."""
    weights = t5x_runs.weights(base)
    model = FrozenModel(t5x_runs.CONFIG, optim.unflatten(weights))
    prompt = {NAME: jax.numpy.array(first_prompt)}
    optimizer = optim.make_optimizer(prompt, optim.prompt_rules(0.3, start_step))
    step = make_train_step(TrainConfig(dropout_rate=0.0), model, optimizer)
    state, prompts = optimizer.init(prompt), {}
    steps = range(t5x_runs.BASE_STEP + 1, last_step + 1)
    for number, batch in zip(steps, batches(size), strict=False):
        prompt, state, _ = step(prompt, state, weights, batch, jax.random.key(0))
        prompts[number] = np.asarray(prompt[NAME])
    return prompts
