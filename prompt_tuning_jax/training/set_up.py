"""What a run is set up from, before its first step, and what is read back after its last."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from prompt_tuning_jax.checkpoints.adapters.adapter_file import is_adapter
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED_MODELS
from prompt_tuning_jax.checkpoints.prompt_file import SNAPSHOTS, load_prompt
from prompt_tuning_jax.checkpoints.run_state import is_saved
from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.packing import PackedBatches
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.initializers import Initializer, sampled_vocabulary
from prompt_tuning_jax.methods import wayward
from prompt_tuning_jax.methods.adapters.choice import without_leaves
from prompt_tuning_jax.methods.assemble import folded
from prompt_tuning_jax.methods.parameterizations import choice as parameterizations
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.params import (
    PROMPT_NAME,
    flatten,
    split_params,
    unflatten,
    whole_prompt,
    with_shared,
    without_prompt,
)
from prompt_tuning_jax.settings.prompt_config import load_checked_prompt
from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.settings.task_config import load_task
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training import prompt_start
from prompt_tuning_jax.training.adapters.start import check_adapter_trains, with_adapter
from prompt_tuning_jax.training.checks import (
    check_private,
    check_prompt_trains,
    check_task,
    check_weights_train,
)
from prompt_tuning_jax.training.identity import run_identity, run_inputs
from prompt_tuning_jax.training.outputs import START, Outputs, TaskScoring
from prompt_tuning_jax.training.private.budget import Budget, resolved
from prompt_tuning_jax.training.private.sampling import (
    PoissonBatches,
    rows_at_once,
    rows_of_most,
)
from prompt_tuning_jax.training.private.secret import Secret
from prompt_tuning_jax.training.rules import trainable_rules
from prompt_tuning_jax.training.runs import Run
from prompt_tuning_jax.training.step_types import Params
from prompt_tuning_jax.training.transfer import nearest
from prompt_tuning_jax.training.transfer.mixed_batches import TaskExamples
from prompt_tuning_jax.training.transfer.probe import find_start
from prompt_tuning_jax.tuned_prompt import TunedPrompt
from prompt_tuning_jax.vocabularies import Vocabulary


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The best prompt by the validation metric (None without one), and every evaluation.

    `prompt, history = train(...)` unpacks it. `model` is the model the prompt belongs to: frozen,
    or with the adapter or the tuned weights of the best evaluation.
    """

    prompt: TunedPrompt | None
    history: list[dict[str, float]]
    model: FrozenModel

    def __repr__(self) -> str:
        return f"TrainResult({self.prompt}, {len(self.history)} evaluations, {self.model})"

    def __iter__(self) -> Iterator[Any]:
        return iter((self.prompt, self.history))


class Prepared(NamedTuple):
    """Runs before their first step.

    Attributes:
      starts: the trainable parameters of each run, as it begins; the first step may donate them.
      model: the model as the mesh holds it, without what trains.
      frozen: its weights and a shared prompt, flat; there once for all runs.
    """

    runs: list[Run]
    starts: list[Params]
    model: FrozenModel
    frozen: Params


def prepare(
    configs: Mapping[str, TrainConfig],
    model: FrozenModel,
    mesh: Mesh,
    check: Callable[[Params], None],
    own: PathLike,
) -> Prepared:
    """The runs in order of their names, and the weights that they share.

    Args:
      configs: name -> settings.
      check: refuses what would train, with a ValueError, before it is placed.
      own: the directory of the call, which holds their state and what they leave behind.
    """
    vocabulary = model.text_vocabulary("train on")
    runs, starts, placed, frozen = [], [], model, {}
    for name, config in sorted(configs.items()):
        task = load_task(config, model.vocabulary)
        lengths = check_task(config, task, vocabulary)
        config = resolved(config, task.split("train"))
        start = with_adapter(config, model, start_params(config, model, task))
        parts = split_params(start, trainable_rules(config))
        check_adapter_trains(config, parts[0])
        check_prompt_trains(config.input_rows, parts[1])
        check_weights_train(model, *parts)
        check(parts[0])
        check_private(config, parts[0])
        secret = Secret(config)
        identity = run_inputs(config, task) | run_identity(config, model, task, *parts)
        trainable, frozen = place(mesh, model, parts[0], frozen or parts[1])
        if not runs:
            placed = on_mesh(model, frozen)
        batches = make_batches(config, task, vocabulary, lengths, trainable | frozen, mesh, secret)
        asked = nearest_asked(config)
        record = recorded_start(config) if asked and is_saved(own) else None
        if asked and record is None:
            found = find_start(config, asked, own, placed, trainable, frozen, batches, mesh)
            begun = dataclasses.replace(config, prompt_init=found.initializer)
            parts = split_params(start_params(begun, model, task), trainable_rules(begun))
            trainable, frozen = place(mesh, model, parts[0], frozen)
            record = found.record
        budget = Budget(config, len(task.split("train"))) if config.is_private else None
        scoring = TaskScoring(config, task, lengths)
        runs.append(
            Run(
                name=name,
                config=config,
                identity=identity | {"SECRET": secret},
                key=secret.key(config.seed),
                batches=batches,
                outputs=Outputs(config, placed, scoring, frozen, record, budget),
                data=batches.get_state(),
            )
        )
        starts.append(trainable)
    return Prepared(runs, starts, placed, frozen)


def open_model(config: TrainConfig, mesh: Mesh) -> FrozenModel:
    """The model that is given or named, to run on the mesh; what a file's weights are is shown."""
    model = config.model
    if not isinstance(model, FrozenModel):
        verbose = hosts.is_first() and not config.quiet and str(model) not in BUNDLED_MODELS
        model = load_model(model, config.model_dtype, verbose, config.vocabulary, mesh)
    if config.scan_layers and not model.config.scan_layers:
        model = model.scanned()
    return model.replace(mesh=mesh if mesh.size > 1 else None)


def on_mesh(model: FrozenModel, frozen: Params) -> FrozenModel:
    """The model with the frozen weights as the mesh holds them; they are hashed but once."""
    params = unflatten(without_leaves(without_prompt(frozen)))
    return model.replace(params=params, known_fingerprint=model.fingerprint)


def start_params(config: TrainConfig, model: FrozenModel, task: Task) -> Mapping[str, Any]:
    """The model's weights, and among them the initialised prompt, as it is while it trains."""
    if not config.input_rows:
        return model.params
    known = model.embeddings, model.vocabulary, task.verbalizers
    check = functools.partial(model.check, allow_prompt_mismatch=config.allow_prompt_mismatch)
    spec = None if nearest_asked(config) else config.prompt_init  # then to be compared from
    initializer = prompt_start.resolve(spec, *known, check)
    shape = (config.input_rows, model.config.emb_dim)
    key = jax.random.key(config.seed)
    prompt = initializer(key, shape)
    params = model.prompted(sharding.to_host(prompt)).params
    if config.shared_prompt is not None:
        params = with_shared(params, shared_values(config, model))
    flat = flatten(params)
    if config.wayward_text is not None:
        words = model.text_vocabulary("embed")
        told = config.wayward_text, model.embeddings, words, config.input_rows
        flat[wayward.NAME] = wayward.rows_of(*told)
    sample = sampled_vocabulary(model.embeddings)
    return unflatten(flat | prompt_leaves(config, flat.pop(PROMPT_NAME), key, sample))


def nearest_asked(config: TrainConfig) -> nearest.Nearest | None:
    """Which of other tasks' prompts a run is to start at; None where at none."""
    return nearest.parse(config.prompt_init) if config.input_rows else None


def recorded_start(config: TrainConfig) -> Mapping[str, Any] | None:
    """The nearest prompts at which a run started, as the first one that it kept says."""
    first = Path(config.model_dir) / SNAPSHOTS / "0"
    return load_prompt(first).metadata.get(START) if first.is_dir() else None


def prompt_leaves(
    config: TrainConfig, prompt: jax.Array, key: jax.Array, sample: Initializer
) -> Params:
    """The prompt as `prompt_parameterization` writes it while it trains.

    Args:
      key: whose random numbers made the prompt; those made here are others.
      sample: of the vocabulary.
    """
    form, size = config.prompt_parameterization, config.parameterization_size
    return parameterizations.start(form, jax.random.fold_in(key, 1), prompt, size, sample)


def shared_values(config: TrainConfig, model: FrozenModel) -> jax.Array:
    """The rows [P0, D] of the shared prompt, which must fit the model and the layout."""
    shared = load_checked_prompt(config.shared_prompt, model, config.allow_prompt_mismatch)
    for name in ("layout", "visibility"):
        theirs, ours = getattr(shared, name), getattr(config, f"prompt_{name}")
        if theirs != ours:
            raise ValueError(
                f"{spelled('shared_prompt')} {config.shared_prompt} has the {name} {theirs!r}: "
                f"set {spelled(f'prompt_{name}')} to that, it is {ours!r}."
            )
    return jnp.asarray(shared.values)


def place(
    mesh: Mesh, model: FrozenModel, trainable: Params, frozen: Params
) -> tuple[Params, Params]:
    """Both parts on the mesh; trainable ones are float32, whatever the frozen weights' dtype.

    Trainable arrays are copies, since the step donates them; frozen ones are not.
    """
    masters = {name: jnp.array(x, jnp.float32, copy=True) for name, x in trainable.items()}
    masters = sharding.put(masters, sharding.param_shardings(mesh, model.config, masters))
    return masters, sharding.put(frozen, sharding.param_shardings(mesh, model.config, frozen))


def make_batches(
    config: TrainConfig,
    task: Task,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    params: Params,
    mesh: Mesh,
    secret: Secret,
) -> TrainBatches:
    """The training split's batches, each of `batch_size` examples; hosts share the reading."""
    given = task.split("train"), vocabulary
    common = {"batch_size": config.batch_size, "lengths": lengths}
    if config.is_private:
        parts = sharding.batch_parts(mesh)
        rows = {"rows": rows_of_most(config, parts), "at_once": rows_at_once(config, parts)}
        batches = PoissonBatches(*given, **common, secret=secret.of_samples, **rows)
    elif config.pack:
        prompt = whole_prompt(folded(params))
        batches = PackedBatches(
            *given,
            **common,
            seed=config.seed,
            prompt_length=0 if prompt is None else len(prompt),
            layout=config.prompt_layout,
            row_multiple=sharding.batch_parts(mesh) * (config.microbatches or 1),
        )
    else:
        kind = TaskExamples if config.mix_tasks else TrainBatches
        batches = kind(*given, **common, seed=config.seed)
    if (count := jax.process_count()) > 1:
        own_rows = functools.partial(sharding.own_rows, mesh)
        batches.share(hosts.gather, jax.process_index(), count, own_rows)
    return batches


def read_result(
    model_dir: Path, model: FrozenModel, history: list[dict[str, float]], dtype: Any
) -> TrainResult:
    """The best prompt and model, read back from what the run wrote."""
    hosts.wait_for_all("results")
    best = model_dir / "best"
    prompt = load_prompt(best) if (best / "prompt.safetensors").exists() else None
    if (best / "config.json").exists():
        model = load_model(best, dtype, mesh=model.mesh)
    elif is_adapter(best):
        model = model.adapted(best)
    return TrainResult(prompt, history, model)
