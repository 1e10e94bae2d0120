"""Tasks mixed in equal parts, each example with a token that says its task."""

from collections.abc import Sequence

import seqio

from prompt_tuning_jax.data.seqio_source import find_provider
from prompt_tuning_jax.tasks.glue_preprocessors import sentinel_first

_ENDS = (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim)


def mixed(
    names: Sequence[str],
    vocabulary: seqio.Vocabulary,
    module: str | None = None,
    data_dir: str | None = None,
) -> str:
    """The name of a mixture of tasks; the inputs of task i begin with <extra_id_i>.

    It is registered, and so is each `NAME_as_task_i`, with the metrics of NAME.

    Args:
      vocabulary: the model's.

    Raises:
      ValueError: as `find_provider`; or one of them is a mixture itself.
    """
    numbered = []
    for i, name in enumerate(names):
        task = find_provider(name, module, vocabulary, data_dir)
        if isinstance(task, seqio.Mixture):
            raise ValueError(f"{name!r} is a mixture: name its tasks in its place.")
        steps = list(task.preprocessors)
        last = next((at for at, step in enumerate(steps) if step in _ENDS), len(steps))
        steps.insert(last, sentinel_first("inputs", i))
        numbered.append(f"{name}_as_task_{i}")
        _register(
            seqio.TaskRegistry, numbered[-1], task.replace(name=numbered[-1], preprocessors=steps)
        )
    mixture = "_and_".join(names)
    tasks = [(name, 1.0) for name in numbered]
    _register(seqio.MixtureRegistry, mixture, seqio.Mixture(mixture, tasks))
    return mixture


def _register(registry: type, name: str, provider: object) -> None:
    """Registers it in the place of one that an earlier run of this process has made."""
    if name in registry.names():
        registry.remove(name)
    registry.add_provider(name, provider)
