"""What privacy costs: scores at several epsilons, and the time of a private step.

    nice -n 15 python scripts/measure_privacy.py --output scripts/results/privacy.json \
        --data path/to/glue                                # half an hour of 2 idle cores
    python scripts/measure_privacy.py --output scripts/results/privacy.json --plot privacy.png

The settings were fixed beforehand, the same for every epsilon and for the run without privacy; the
learning rate is the middle one of three that were tried on one task at epsilon 8, and there are
three times the steps of a first try, in which no task was learned, with noise or without. Scores
are those of the validation split after the last step: nothing is chosen by it. All seeds of a task
and an epsilon train in one job. --output is written after each, and what it holds is not run again.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

import prompt_tuning_jax as pt
from prompt_tuning_jax import optim
from prompt_tuning_jax.params import split_params
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.private.sampling import rows_of_most
from prompt_tuning_jax.training.train_step import make_train_step

RECIPE = {
    "prompt_length": 5,
    "batch_size": 32,
    "train_steps": 120,
    "eval_period": 120,
    "checkpoint_period": 120,
    "learning_rate": 0.1,
    "dropout_rate": 0.0,
    "feature_lengths": {"inputs": 32, "targets": 8},
}
TASKS = ("bundled_sentiment", "bundled_topic", "SST-2")
SST2 = {"input_template": "{sentence}", "verbalizers": {"0": "negative", "1": "positive"}}
EPSILONS = (None, 8.0, 3.0, 1.0)
SEEDS = (0, 1, 2)
# (batch size, tokens of inputs, prompt length) of steps that are timed.
SHAPES = ((32, 64, 20), (128, 64, 20))


def name_of(epsilon: float | None) -> str:
    return "without" if epsilon is None else f"{epsilon:g}"


def scores(task: str, epsilon: float | None, data: Path | None) -> dict[str, Any]:
    """The last accuracy of every seed, and what was spent."""
    asked = {"task": task}
    if task == "SST-2":
        if data is None:
            raise SystemExit(
                "SST-2 is read from files: give the folder that holds SST-2/ as --data"
            )
        asked = {"data_dir": str(data / task), **SST2}
    private = {} if epsilon is None else {"dp_epsilon": epsilon}
    started = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        runs = {f"seed{seed}": {"seed": seed} for seed in SEEDS}
        results = pt.train_many(runs, **asked, **RECIPE, **private, model_dir=directory, quiet=True)
        facts = json.loads((Path(directory) / "seed0/last/prompt.json").read_text())
    return {
        "accuracies": [result.history[-1]["accuracy"] for result in results.values()],
        "privacy": facts.get("privacy"),
        "cpu_seconds": round(time.process_time() - started),
    }


def step_times(batch_size: int, inputs: int, prompt_length: int, repeats: int) -> dict[str, Any]:
    """The shortest time of a plain and of a private step, in turn, so that both see the same load.

    The private step has the rows that a sample of the usual size is padded to.
    """
    model, rng = pt.load_model("bundled"), np.random.default_rng(0)
    prompt = rng.normal(size=(prompt_length, model.config.emb_dim)).astype(np.float32)
    trainable, frozen = split_params(model.prompted(prompt).params, optim.prompt_rules())
    optimizer = optim.make_optimizer(trainable, optim.prompt_rules())
    common = {"batch_size": batch_size, "dropout_rate": 0.0}
    private = TrainConfig(**common, dp_noise_multiplier=1.0, dp_clip_norm=1.0)
    forms = {"plain": (TrainConfig(**common), batch_size)}
    forms["private_of_equal_rows"] = (private, None)
    forms["private"] = (private, rows_of_most(private, 1))
    steps, times = {}, {name: [] for name in forms}
    for name, (config, rows) in forms.items():
        if rows is None:  # a batch size whose samples have so many rows
            sizes = range(1, batch_size + 1)
            counts = [rows_of_most(TrainConfig(batch_size=n), 1) for n in sizes]
            nearest = min(sizes, key=lambda n: abs(counts[n - 1] - batch_size))
            rows = counts[nearest - 1]
            config = TrainConfig(
                **common | {"batch_size": nearest}, dp_noise_multiplier=1.0, dp_clip_norm=1.0
            )
        batch = {
            "encoder_input_tokens": rng.integers(3, 4000, (rows, inputs)).astype(np.int32),
            "decoder_input_tokens": rng.integers(3, 4000, (rows, 8)).astype(np.int32),
            "decoder_target_tokens": rng.integers(3, 4000, (rows, 8)).astype(np.int32),
            "decoder_loss_weights": np.ones((rows, 8), np.float32),
        }
        steps[name] = make_train_step(config, model, optimizer), batch, rows
    for _ in range(repeats + 1):
        for name, (step, batch, _) in steps.items():
            mine = {key: jax.numpy.array(x, copy=True) for key, x in trainable.items()}
            state = optimizer.init(mine)
            started = time.perf_counter()
            jax.block_until_ready(step(mine, state, frozen, batch, jax.random.key(0)))
            times[name].append(time.perf_counter() - started)
    best = {name: min(each[1:]) for name, each in times.items()}
    return {
        "batch_size": batch_size,
        "inputs": inputs,
        "prompt_length": prompt_length,
        "rows": {name: rows for name, (*_, rows) in steps.items()},
        "seconds": {name: round(x, 4) for name, x in best.items()},
        "ratio": round(best["private"] / best["plain"], 3),
        "ratio_of_equal_rows": round(best["private_of_equal_rows"] / best["plain"], 3),
    }


def plot(record: dict[str, Any], path: Path) -> None:
    """Mean accuracies, with the seeds as points."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), dpi=100)
    names = [name_of(epsilon) for epsilon in reversed(EPSILONS)]
    for task, cells in record["scores"].items():
        known = [name for name in names if name in cells]
        places = [names.index(name) for name in known]
        values = np.array([cells[name]["accuracies"] for name in known])
        (line,) = axes.plot(places, values.mean(axis=1), marker="o", label=task)
        for seed in values.T:
            axes.plot(places, seed, ".", color=line.get_color(), alpha=0.4)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("epsilon")
    axes.set_ylabel("validation accuracy")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="the folder that holds SST-2/")
    parser.add_argument("--plot", type=Path, help="draws what --output holds, and runs nothing")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"scores": {}, "steps": []}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    if arguments.plot:
        plot(record, arguments.plot)
        return
    record |= {"recipe": RECIPE, "seeds": SEEDS, "model": "bundled", "jax": jax.__version__}
    record["machine"] = f"{platform.machine()}, {jax.devices()[0].platform}"

    def write() -> None:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")

    if not record["steps"]:
        record["steps"] = [step_times(*shape, arguments.repeats) for shape in SHAPES]
        write()
    for task in TASKS:
        cells = record["scores"].setdefault(task, {})
        for epsilon in EPSILONS:
            if name_of(epsilon) not in cells:
                cells[name_of(epsilon)] = scores(task, epsilon, arguments.data)
                print(task, name_of(epsilon), cells[name_of(epsilon)], flush=True)
                write()


if __name__ == "__main__":
    main()
