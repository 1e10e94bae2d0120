"""Where a prompt starts: from any form of base checkpoint, with one binding."""

import jax
import numpy as np
import pytest
import t5x_runs

from prompt_tuning_jax import save_prompt
from prompt_tuning_jax.checkpoints import convert, t5x
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.training.prompt_start import resolve
from prompt_tuning_jax.vocabularies import load_vocabulary

pytestmark = pytest.mark.t5x
LABELS = ("positive", "negative")
SHAPE = (6, t5x_runs.CONFIG.emb_dim)


@pytest.fixture(scope="module")
def words():
    import seqio

    return seqio.SentencePieceVocabulary(str(BUNDLED / "spiece.model"), 100)


@pytest.fixture(scope="module", params=["orbax", "legacy", "hugging face"])
def checkpoint(request, base, tmp_path_factory):
    """One model in each form; the last went through Hugging Face's and back."""
    directory = tmp_path_factory.mktemp("forms")
    if request.param != "hugging face":
        return str(t5x.save(directory, t5x_runs.weights(base), 3, request.param))
    convert.to_huggingface(str(base), str(directory / "hf"))
    return str(convert.to_t5x(str(directory / "hf"), str(directory / "t5x")))


@pytest.mark.parametrize(
    "init", [None, "uniform", "sampled_vocabulary", "class_labels", "text: it was positive"]
)
def test_it_starts_as_under_our_own_trainer(init, checkpoint, base, words):
    from prompt_tuning_jax.t5x_plugin.start import prompt_start

    found = prompt_start(init, checkpoint, words, LABELS, seed=7)(SHAPE)
    table = t5x_runs.weights(base)["token_embedder/embedding"]
    vocabulary = load_vocabulary(BUNDLED / "spiece.model")
    first = resolve(init, table, vocabulary, LABELS)
    np.testing.assert_array_equal(found, first(jax.random.key(7), SHAPE))
    assert found.dtype == np.float32


def test_it_starts_from_a_file(words, tmp_path):
    from prompt_tuning_jax.t5x_plugin.start import prompt_start

    values = np.arange(96, dtype=np.float32).reshape(SHAPE)
    path = str(save_prompt(tmp_path / "prompt", values))
    np.testing.assert_array_equal(prompt_start(path, "nowhere", words)(SHAPE), values)
    with pytest.raises(ValueError, match="Set PROMPT_LENGTH to 6"):
        prompt_start(path, "nowhere", words)((5, 16))


def test_class_labels_need_a_task_that_has_them(words, base):
    from prompt_tuning_jax.t5x_plugin.start import prompt_start
    from prompt_tuning_jax.t5x_plugin.task import verbalizers

    assert set(verbalizers("bundled_sentiment")) == set(LABELS)
    assert verbalizers("bundled_place", "prompt_tuning_jax.tasks.bundled") is None
    with pytest.raises(ValueError, match="needs a task with verbalizers"):
        prompt_start("class_labels", str(base), words)(SHAPE)


def test_a_prompts_length_is_its_own(run, base):
    from prompt_tuning_jax.t5x_plugin.start import prompt_length

    assert prompt_length(str(run / "prompts" / "15"), "nowhere") == 5
    assert prompt_length(None, str(run / "checkpoint_15")) == 5


def test_a_prompt_file_may_be_remote(tmp_path):
    """TensorFlow's file systems, of which gs:// is one and ram:// another."""
    from prompt_tuning_jax.t5x_plugin.files import local_directory
    from prompt_tuning_jax.t5x_plugin.save import read_prompt

    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    with local_directory("ram://bucket/prompts/15") as directory:
        save_prompt(directory, values, step=15)
    for path in ("ram://bucket/prompts/15", "ram://bucket/prompts/15/prompt.safetensors"):
        np.testing.assert_array_equal(read_prompt(path).values, values)
    assert read_prompt("ram://bucket/prompts/15").metadata["step"] == 15
