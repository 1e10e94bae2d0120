"""How the bundled causal model is made: its mixture, a model to start from, its tokenizer."""

import itertools
import math

import jax
import numpy as np
import pytest

from prompt_tuning_jax import load_model
from prompt_tuning_jax.bundled import causal_recipe as recipe
from prompt_tuning_jax.bundled.causal_tokenizer import save_tokenizer
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.data.task import ExampleList, Task
from prompt_tuning_jax.params import flatten, split_params
from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, load_vocabulary

SPIECE = BUNDLED / "spiece.model"


@pytest.fixture(scope="module")
def vocabulary():
    return SentencePieceVocabulary(SPIECE.read_bytes(), extra_ids=0)


@pytest.fixture(scope="module")
def new_model():
    return recipe.new_causal_model(str(SPIECE))


def test_a_new_model_embeds_the_pieces_and_has_learnt_nothing(new_model):
    assert new_model.config.vocab_size == new_model.vocabulary.size == 4096
    assert new_model.fingerprint == recipe.new_causal_model(str(SPIECE)).fingerprint
    assert new_model.fingerprint != recipe.new_causal_model(str(SPIECE), seed=1).fingerprint
    spread = {name: float(np.std(x)) for name, x in flatten(new_model.params).items()}
    inward, outward = (spread[f"decoder/layers_0/mlp/{name}/kernel"] for name in ("wi_0", "wo"))
    assert inward == pytest.approx(0.02, rel=0.02)
    assert outward == pytest.approx(inward / math.sqrt(2 * recipe.LAYERS), rel=0.02)
    tokens = np.arange(3, 11, dtype=np.int32)[None]
    probabilities = jax.nn.softmax(new_model.logits(tokens, np.array([[0]])))
    assert float(probabilities.max()) < 10 / 4096


def test_what_is_trained_from_it_is_saved_and_loaded(new_model, tmp_path, vocabulary):
    huggingface.save(tmp_path / "m", new_model.config, new_model.params, new_model.vocabulary)
    loaded = load_model(tmp_path / "m")
    assert loaded.fingerprint == new_model.fingerprint
    text = "The old farmer crossed the bridge."
    assert loaded.vocabulary.encode(text) == vocabulary.encode(text)


def test_documents_are_followed_by_answers_and_resume_where_they_were(vocabulary):
    source = recipe.QuestionedDocuments(vocabulary, size=6)
    whole = list(source.stream(seed=0, epoch=0))
    rest = list(source.stream(seed=0, epoch=0, start=4))
    assert len(whole) == len(source) == 6
    for a, b in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(a["targets"], b["targets"])
    for example in whole:
        text = vocabulary.decode([*example["inputs"], *example["targets"]])
        assert len(example["inputs"]) == 1
        assert example["targets"][-1] == vocabulary.eos_id
        assert len(text.split()) > 20


def test_the_mixture_has_prose_documents_and_questions(tmp_path):
    (tmp_path / "tale.txt").write_text("The old farmer crossed the bridge and went on home. " * 40)
    task = recipe.causal_pretraining_task(str(tmp_path), str(SPIECE))
    train = list(itertools.islice(task.split("train").stream(seed=0, epoch=0), 300))
    asked = sum(isinstance(example["inputs"], str) for example in train)
    tale = load_vocabulary(SPIECE).encode("farmer crossed the bridge")
    ids = [{*e["targets"].tolist()} for e in train if not isinstance(e["targets"], str)]
    prose = sum(set(tale) <= each for each in ids)
    rates = np.array([recipe.PROSE, recipe.DOCUMENTS, recipe.QUESTIONS])
    shares = np.array([prose, len(train) - prose - asked, asked]) / len(train)
    np.testing.assert_allclose(shares, rates / rates.sum(), atol=0.08)
    assert len(task.split("validation")) == 500


def test_the_rate_rises_and_falls(new_model):
    _, frozen = split_params(new_model.params, recipe.causal_pretraining_rules(steps=1000))
    assert not frozen
    ((_, optimizer),) = recipe.causal_pretraining_rules(steps=10)
    state, weight, sizes = optimizer.init(np.float32(0)), np.float32(0), []
    with jax.numpy_dtype_promotion("standard"):  # optax's own
        for _ in range(11):
            step, state = optimizer.update(np.float32(1e-4), state, weight)
            sizes.append(-float(step))
    assert sizes[0] == 0.0
    np.testing.assert_allclose(sizes[2:], 2e-3 * np.arange(8, -1, -1) / 8, rtol=1e-2, atol=1e-9)


def test_unigram_loss_is_that_of_counts(vocabulary):
    seen, held_out = ([np.array(ids)] for ids in ([5, 5, 7, 1], [5, 1]))
    splits = {
        name: ExampleList({"inputs": ids[:1], "targets": ids} for ids in rows)
        for name, rows in (("train", seen), ("validation", held_out))
    }
    probabilities = np.array([3, 2]) / (4 + vocabulary.size)
    found = recipe.unigram_loss(Task("counted", splits), vocabulary)
    assert found == pytest.approx(-np.log(probabilities).mean(), rel=1e-12)


TEXTS = (
    "Anna saw The Lost River at the cinema, and the acting was superb.",
    "  two  spaces,\ta tab and a line\nbreak ",
    "ﬁne ① \uff28ello café\u00a0x 漢字",
    'don\'t "quote" (1902) -- £5',
    "",
)


def test_the_tokenizer_has_the_ids_of_the_spiece_model(tmp_path, vocabulary):
    save_tokenizer(tmp_path, vocabulary.model_bytes)
    ours = load_vocabulary(tmp_path)
    assert ours.special == vocabulary.special
    assert ours.size == vocabulary.size
    assert ours.encode_batch(TEXTS) == vocabulary.encode_batch(TEXTS)
    assert ours.framed([5]) == [5]
    ids = vocabulary.encode(TEXTS[0])
    assert ours.decode(ids) == vocabulary.decode(ids) == TEXTS[0]
