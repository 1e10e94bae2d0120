"""The experiment of PEFT's comparison: its data, and the whole of it with a tiny model."""

import json
from pathlib import Path

import gin
import numpy as np
import pytest
from causal_models import MODELS

from prompt_tuning_jax.commands.evaluate import main as evaluate
from prompt_tuning_jax.commands.train import main as train
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.train_config import TrainConfig

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
FILE = "--gin_file=experiments/metamathqa_gsm8k.gin"


@pytest.fixture(autouse=True)
def clean():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Sums, in the form of both data sets."""
    root = tmp_path_factory.mktemp("released")
    sums = [
        {
            "type": "GSM_AnsAug",
            "query": f"Ann has {i} pens and buys {i + 2}. How many are there?",
            "original_question": "How many pens are there?",
            "response": f"There are {i} + {i + 2} = {2 * i + 2}.\n#### {2 * i + 2}\n"
            f"The answer is: {2 * i + 2}",
        }
        for i in range(40)
    ]
    sums.append(sums[0] | {"response": "x" * 1300})
    exact = 1300 - len(sums[1]["query"]) - 1
    sums.append(sums[1] | {"response": "y" * exact})
    (root / "MetaMathQA-395K.json").write_text(json.dumps(sums))
    (root / "gsm8k").mkdir()
    for name, count in (("train", 60), ("test", 3)):
        lines = (
            {"question": f"What is {i} and {i}?", "answer": f"It is <<{i}+{i}>>.\n#### {i + i}"}
            for i in range(count)
        )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / "gsm8k" / f"{name}.jsonl").write_text(text)
    return root


@pytest.fixture(scope="module")
def program():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        import prepare_metamathqa

        yield prepare_metamathqa


@pytest.fixture(scope="module")
def data(program, released, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "metamathqa"
    files = ["--metamathqa", released / "MetaMathQA-395K.json", "--gsm8k", released / "gsm8k"]
    program.main([*map(str, files), "--output", str(folder)])
    return folder


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_data_are_those_of_the_comparison(data):
    train, validation, test = (
        records(data / f"{name}.jsonl") for name in ("train", "validation", "test")
    )
    assert len(train) == 41  # one is a character too long
    assert train[-1]["response"].startswith("y")
    assert set(train[0]) == {"query", "response"}
    assert [one["response"][-1] for one in test] == ["0", "2", "4"]
    state = np.random.get_state()
    np.random.seed(0)  # as it is shuffled there
    order = np.arange(60)
    np.random.shuffle(order)
    np.random.set_state(state)
    assert [one["query"] for one in validation] == [f"What is {i} and {i}?" for i in order[:50]]


def test_a_file_of_another_kind_is_refused(program, tmp_path):
    (tmp_path / "MetaMathQA-395K.json").write_text(json.dumps([{"question": "?"}]))
    with pytest.raises(ValueError, match=r"MetaMathQA-395K.json, problem 1: .* query and response"):
        program.metamathqa(tmp_path / "MetaMathQA-395K.json")


@pytest.mark.usefixtures("one_device")
@pytest.mark.slow
def test_the_experiment_runs_with_a_tiny_model(data, tmp_path, capsys):
    run, few = tmp_path / "run", tmp_path / "few"
    few.mkdir()
    for file in data.glob("*.jsonl"):  # but for the longest, which leaves this model no room
        lines = file.read_text().splitlines(keepends=True)
        (few / file.name).write_text("".join(line for line in lines if "yyy" not in line))
    small = ["--model", str(MODELS["qwen3"]), "--data_dir", str(few), "--batch_size", "4"]
    small += ["--feature_lengths", "inputs=48", "targets=24", "--model_dtype", "float32"]
    steps = ["--train_steps", "2", "--eval_period", "2", "--eval_limit", "2", "--quiet"]
    train([FILE, *small, *steps, "--prompt_length", "30", "--model_dir", str(run)])
    config = parse(TrainConfig, [FILE], "")
    assert "step 2, final_answer 0" in capsys.readouterr().out
    gin.clear_config()
    asked = ["--prompt", str(run / "best"), *small, "--split", "test", "--metric", config.metric]
    templates = ["--input_template", config.input_template]
    evaluate([*asked, *templates, "--target_template", config.target_template])
    assert json.loads(capsys.readouterr().out)["final_answer"] == 0
