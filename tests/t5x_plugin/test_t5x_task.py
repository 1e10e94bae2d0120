"""What a T5X run is told: its settings, its task, and the vocabulary that the task follows."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest
import t5x_runs
import task_records
import tiny

from prompt_tuning_jax.checkpoints import t5x

pytestmark = pytest.mark.t5x
BYTES = {"VOCABULARY_FILE": "bytes"}
CB = {
    "MIXTURE_OR_TASK_NAME": "taskless_super_glue_cb_v102",
    "MIXTURE_OR_TASK_MODULE": "prompt_tuning_jax.tasks.super_glue",
}


@pytest.fixture
def data(tmp_path):
    """Made-up release files; what a run has told the tasks is forgotten afterwards."""
    settings = importlib.import_module("prompt_tuning_jax.tasks.settings")
    with settings.using(data_dir=None, vocabulary=None):
        yield str(task_records.write_release(tmp_path / "data"))


@pytest.mark.parametrize(
    ("macro", "nearest"),
    [("LEARNING_RAT", "LEARNING_RATE"), ("PROMPT_LENGHT", "PROMPT_LENGTH"), ("LR", None)],
)
def test_a_setting_that_there_is_not_is_named(base, tmp_path, macro, nearest):
    hint = f"; did you mean {nearest}" if nearest else ""
    with pytest.raises(ValueError, match=f"no setting {macro}{hint}.*Settings: .*TRAIN_STEPS"):
        t5x_runs.train(tmp_path / "run", base, **{macro: 1})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=f"no setting {macro}"):
        t5x_runs.infer(tmp_path / "out", base, **{macro: 1})


def test_a_setting_of_another_program_and_a_macro_that_is_used_are_no_mistakes(run, base, tmp_path):
    prompt = str(run / "prompts" / "15")
    mine = {"MY_SPLIT": "validation", "SPLIT": t5x_runs.Gin("%MY_SPLIT"), "LEARNING_RATE": 0.1}
    assert t5x_runs.infer(tmp_path, base, PROMPT_FILE=prompt, **mine)


@pytest.mark.parametrize("form", ["class_labels", "sampled_vocabulary", "text: a heron"])
def test_a_task_follows_the_models_vocabulary(data, tmp_path, form):
    """ByT5's here; its ids 3 to 258 are bytes."""
    config = tiny.T5Config(384, 16, 2, 8, 32, 1, 1)
    base = t5x.save(tmp_path / "byt5", tiny.make_params(config), 3)
    sizes = {"config.T5Config.vocab_size": 384, "PROMPT_INIT": form, "TRAIN_STEPS": 5}
    t5x_runs.train(tmp_path / "run", base, DATA_DIR=data, **BYTES, **CB, **sizes)
    first = t5x_runs.prompt(tmp_path / "run" / "checkpoint_3")
    table = t5x_runs.weights(base)["token_embedder/embedding"]
    if form == "class_labels":
        label = np.mean([table[byte + 3] for byte in b"entailment"], axis=0)
        np.testing.assert_allclose(first[0], label, rtol=1e-5)
    if form.startswith("text"):
        np.testing.assert_array_equal(first[:5], [table[byte + 3] for byte in b"a her"])


def test_another_vocabulary_than_the_tasks_is_refused(run, base, tmp_path):
    prompt = str(run / "prompts" / "15")
    for start in (
        lambda: t5x_runs.train(tmp_path / "run", base, **BYTES),
        lambda: t5x_runs.evaluate(tmp_path / "out", base, PROMPT_FILE=prompt, **BYTES),
    ):
        with pytest.raises(ValueError, match="'bundled_sentiment' does not use the model's voc"):
            start()


def test_a_misspelt_task_is_named(base, tmp_path):
    with pytest.raises(ValueError, match=r"'bundled_sentimnt' .*did you mean 'bundled_sentiment'"):
        t5x_runs.train(tmp_path, base, MIXTURE_OR_TASK_NAME="bundled_sentimnt")


def test_rows_are_sampled_from_as_many_pieces_as_asked_for(base, tmp_path):
    t5x_runs.train(tmp_path, base, PROMPT_INIT="sampled_vocabulary", POPULATION_SIZE=7)
    first = t5x_runs.prompt(tmp_path / "checkpoint_3")
    table = t5x_runs.weights(base)["token_embedder/embedding"]
    ids = [np.flatnonzero((table == row).all(axis=1)).item() for row in first]
    assert max(ids) < 7
    assert len(set(ids)) == 5


def test_a_prompt_may_be_as_long_as_its_text(base, tmp_path):
    text = "Is this review positive or negative?"
    length = t5x_runs.Gin("@start.text_length()")
    t5x_runs.train(tmp_path, base, PROMPT_INIT=f"text: {text}", PROMPT_LENGTH=length)
    from prompt_tuning_jax.t5x_plugin import task

    ids = task.vocabulary("bundled").encode(text)
    table = t5x_runs.weights(base)["token_embedder/embedding"]
    np.testing.assert_array_equal(t5x_runs.prompt(tmp_path / "checkpoint_3"), table[np.array(ids)])


def test_the_length_of_a_text_needs_one(base, tmp_path):
    length = t5x_runs.Gin("@start.text_length()")
    with pytest.raises(ValueError, match="PROMPT_INIT is 'uniform' and not 'text"):
        t5x_runs.train(tmp_path, base, PROMPT_INIT="uniform", PROMPT_LENGTH=length)


@pytest.mark.parametrize(("parts", "shape"), [(1, (2, 1)), (2, (1, 2))])
def test_model_parallelism_counts_on_cpu_devices(parts, shape):
    """T5X's own mesh of two CPU devices is 1 x 2 whatever is asked for."""
    from prompt_tuning_jax.t5x_plugin.partitioning import Partitioner

    mesh = Partitioner(num_partitions=parts).mesh
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "model"), shape, strict=True))
    assert set(mesh.devices.flat) == set(jax.devices())


def test_model_parallelism_divides_the_devices():
    from prompt_tuning_jax.t5x_plugin.partitioning import Partitioner

    with pytest.raises(ValueError, match="MODEL_PARALLELISM=3 does not divide the 2 devices"):
        _ = Partitioner(num_partitions=3).mesh


def test_a_model_that_the_devices_cannot_split_is_refused(tmp_path):
    """As the bundled model, which has three heads."""
    config = dataclasses.replace(t5x_runs.CONFIG, num_heads=3)
    base = t5x.save(tmp_path / "three", tiny.make_params(config), 3)
    heads = {"config.T5Config.num_heads": 3}
    with pytest.raises(
        ValueError, match=r"\[3, 32\] cannot be split in 2 at its 3: choose a MODEL_"
    ):
        t5x_runs.train(tmp_path / "run", base, MODEL_PARALLELISM=2, **heads)
    t5x_runs.train(tmp_path / "run", base, TRAIN_STEPS=4, **heads)
