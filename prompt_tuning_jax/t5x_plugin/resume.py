"""Training data of a run that continues: the examples that it has not seen yet.

T5X can save the position of its data with a checkpoint, but then it no longer restores a base
checkpoint, which has none. Data drawn with a seed needs no saved position: it can be counted.
"""

from typing import Any

import tensorflow as tf
from t5x import checkpoints, utils


def training_data(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Any,
    *,
    model_dir: str,
    first_step: int,
) -> tf.data.Dataset:
    """T5X's batches, from the one after the latest checkpoint in `model_dir`.

    Bound as `train.get_dataset_fn`. With a seed, a run that was stopped trains on the very batches
    that it would have had.

    Args:
      first_step: the step at which the run began, its base checkpoint's.

    Raises:
      ValueError: the checkpoints in `model_dir` are earlier than the base checkpoint.
    """
    batches = utils.get_dataset(cfg, shard_id, num_shards, feature_converter_cls)
    if cfg.seed is None:
        return batches  # drawn anew at every start
    latest = checkpoints.latest_step(model_dir)
    if latest is None:
        return batches
    if latest < first_step:
        raise ValueError(
            f"MODEL_DIR {model_dir} holds another run: its latest step is {latest}, and "
            f"INITIAL_CHECKPOINT_PATH has {first_step}. Choose another MODEL_DIR."
        )
    return batches.skip(latest - first_step)
