"""A comparison of methods: every way to use one model for a task, scored alike, and its costs."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax import ExampleList
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.params import flatten
from prompt_tuning_jax.settings.compare_config import CompareConfig
from prompt_tuning_jax.training.comparison.compare import chosen_methods, rates_of
from prompt_tuning_jax.training.comparison.splits import with_test_split
from prompt_tuning_jax.training.monitor import NotFiniteError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.own_model(tmp_path_factory.mktemp("t5"))


def options(model, model_dir, **changes):
    return tiny.own_run(model, model_dir, **{"train_steps": 2, "seeds": 1} | changes)


def test_methods_are_scored_alike_and_their_costs_are_told(model, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("was it good? {input}\n{input}\n")
    methods = ["majority,no_prompt", "hand_written", "prompt", "model"]
    given = {"methods": methods, "text_prompts": texts, "eval_limit": 8}
    rows = pt.compare(**options(model, tmp_path / "run", **given))
    assert [row.method for row in rows] == ",".join(methods).split(",")
    rows = {row.method: row for row in rows}
    assert rows["majority"].scores == [50.0]
    assert rows["hand_written"].chosen in texts.read_text().splitlines()

    weights = sum(np.size(x) for x in flatten(model.params).values())
    assert rows["model"].trained == weights
    assert rows["prompt"].trained == 4 * model.config.emb_dim
    assert rows["prompt"].stored < rows["model"].stored
    assert rows["prompt"].memory < rows["model"].memory
    best = pt.load_prompt(tmp_path / "run" / "prompt" / "seed0" / "best")
    task = with_test_split(tiny.make_task())
    assert len(task.splits["validation"]) == len(task.splits["train"]) == 30
    scored = evaluate_task(model, task, "test", best, feature_lengths=tiny.LENGTHS)
    assert rows["prompt"].scores == [scored.scores["accuracy"]]

    told = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert [row["scores"] for row in told["rows"]] == [row.scores for row in rows.values()]
    assert (tmp_path / "run" / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_rate_that_is_best_on_validation_serves_all_seeds(model, tmp_path):
    given = options(model, tmp_path / "run", methods=["lora"], seeds=2, train_steps=8)
    (row,) = pt.compare(**given, rates={"lora": "1e-9,0.3"})
    assert row.chosen == "learning rate 0.3"
    assert len(row.scores) == len(row.curves) == 2
    assert 0 < row.trained < sum(np.size(x) for x in flatten(model.params).values())


def test_a_rate_that_breaks_is_not_chosen(model, tmp_path):
    given = options(model, tmp_path / "run", methods=["lora"])
    (row,) = pt.compare(**given, rates={"lora": "1e38,0.01"})
    assert row.chosen == "learning rate 0.01"
    with pytest.raises(NotFiniteError, match=r"lora: no learning rate of .* trains"):
        pt.compare(**given, rates={"lora": "1e38,3e38"})


def test_all_rows_are_of_the_same_examples(model, tmp_path):
    """The commonest answer of train, 1, is right in none of the first two."""
    examples = {"train": "11101", "validation": "01", "test": "0011"}
    splits = {
        name: [{"inputs": f"text {i}", "targets": label} for i, label in enumerate(labels)]
        for name, labels in examples.items()
    }
    task = dataclasses.replace(
        tiny.make_task(), splits={name: ExampleList(rows) for name, rows in splits.items()}
    )
    for limit, score in ((2, 0), (None, 50)):
        given = options(model, tmp_path / f"{limit}", task=task, methods=["majority"])
        (row,) = pt.compare(**given, test_limit=limit)
        assert row.scores == [score]


def test_without_a_split_to_choose_by_some_of_train_is_held_out():
    whole = tiny.make_task()
    test = ExampleList([{"inputs": "the soup", "targets": "yes"}])
    unchosen = dataclasses.replace(whole, splits={"train": whole.splits["train"], "test": test})
    splits = with_test_split(unchosen).splits
    assert splits["test"] is test
    held_out, rest = (
        {example["inputs"] for example in splits[name]} for name in ("validation", "train")
    )
    assert held_out
    assert not held_out & rest
    chosen = dataclasses.replace(whole, splits=whole.splits | {"test": test})
    assert with_test_split(chosen).splits == chosen.splits


def test_without_a_directory_it_says_so(model, tmp_path):
    with pytest.raises(ValueError, match="Set model_dir"):
        pt.compare(**(options(model, tmp_path, methods=["prompt"]) | {"model_dir": None}))


def test_a_training_split_too_small_to_choose_by_is_named(model, tmp_path):
    one = ExampleList([{"inputs": "a", "targets": "1"}])
    task = dataclasses.replace(tiny.make_task(), splits={"train": one, "validation": one})
    with pytest.raises(ValueError, match="its 1 training examples are too few"):
        pt.compare(**options(model, tmp_path / "run", task=task, methods=["majority"]))


@pytest.mark.slow
def test_seeds_of_a_prompt_train_together_and_come_out_as_alone(model, tmp_path):
    given = options(model, tmp_path / "run", methods=["prompt"], seeds=2)
    (row,) = pt.compare(**given)
    assert len(row.scores) == 2
    assert (tmp_path / "run" / "prompt" / "seed1" / "best").is_dir()
    (again,) = pt.compare(**given)
    assert again.scores == row.scores


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="'lara' is none of"):
        chosen_methods(CompareConfig(methods=["prompt,lara"]))
    with pytest.raises(UsageError, match="none of"):
        chosen_methods(CompareConfig(rates={"loro": "1"}))
    with pytest.raises(UsageError, match="no numbers"):
        rates_of(CompareConfig(rates={"lora": "fast"}), "lora")
    assert rates_of(CompareConfig(rates={"lora": [0.1, 0.2]}), "lora") == [0.1, 0.2]


@pytest.mark.slow
def test_settings_of_one_method_are_its_alone(model, tmp_path):
    texts = {"wayward_text": "is it good?", "lora_rank": 2}
    methods = ["prompt", "both_prompts", "lora"]
    rows = pt.compare(**options(model, tmp_path / "run", methods=methods, **texts))
    assert [row.method for row in rows] == methods
    _, eight = pt.compare(**options(model, tmp_path / "usual", methods=["prompt", "lora"]))
    assert rows[2].trained * 4 == eight.trained
    pulled, free = (
        pt.load_prompt(tmp_path / name / "prompt/seed0/last").values for name in ("run", "usual")
    )
    assert not np.array_equal(pulled, free)


def test_settings_of_no_method_that_is_compared_are_refused(model, tmp_path):
    for given, own in (
        ({"lora_rank": 2}, "lora_rank is for lora"),
        ({"wayward_text": "a"}, "wayward_text is for prompt and both_prompts"),
        ({"prompt_init": "uniform"}, "prompt_init is for prompt"),
        ({"method": "ia3"}, "method is of a single run"),
        ({"learning_rate": 0.1}, "learning_rate is for prompt: others have theirs by rates"),
        ({"halve_at": [2]}, "halve_at would end some seeds early"),
        ({"prompt_init": f"nearest:{tmp_path}"}, "would start at one another's prompts"),
    ):
        with pytest.raises(UsageError, match=own):
            pt.compare(**options(model, tmp_path / "run", methods=["model"], **given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("form", "size", "trained"),
    [slow("low_rank", 2, lambda P, D: P * 2 + 2 * D), ("superposition", 5, lambda P, _: P * 5)],
)
def test_what_stays_of_a_form_is_not_counted_as_trained(model, tmp_path, form, size, trained):
    given = {"prompt_parameterization": form, "parameterization_size": size, "methods": ["prompt"]}
    (row,) = pt.compare(**options(model, tmp_path / "run", **given))
    assert row.trained == trained(4, model.config.emb_dim)


@pytest.mark.slow
def test_private_prompts_are_compared_too(model, tmp_path):
    pytest.importorskip("dp_accounting")
    given = {"methods": ["prompt"], "dp_noise_multiplier": 1.0, "dp_clip_norm": 1.0}
    (row,) = pt.compare(**options(model, tmp_path / "run", **given))
    assert row.trained == 4 * model.config.emb_dim
    assert row.memory > 0


def test_a_task_without_anything_to_compare_by_says_how_it_gets_it(model, tmp_path):
    data = tiny.save_files(tmp_path / "data")
    (data / "validation.jsonl").unlink()
    files = {"task": None, "data_dir": data, "input_template": "{text}", "verbalizers": ["0", "1"]}
    given = options(model, tmp_path / "run", **files)
    with pytest.raises(ValueError, match=r"neither test nor validation.*validation_share"):
        pt.compare(**given)
    del given["seeds"]
    with pytest.raises(ValueError, match=r"no validation split to rank by.*validation_share"):
        pt.sweep({"seed": [0, 1]}, **given)


def test_a_task_without_a_metric_is_refused(model, tmp_path):
    task = tiny.make_task(metrics=(), verbalizers=None)
    with pytest.raises(ValueError, match="no metric to compare by"):
        pt.compare(**options(model, tmp_path / "run", task=task, methods=["prompt"]))
