"""Initializers: the reference implementation's numbers, the paper's defaults, and errors."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow

from prompt_tuning_jax import initializers
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.training import prompt_start

GOLDENS = Path(__file__).parent / "goldens" / "initializers"
SPEC = json.loads((GOLDENS / "initializers.json").read_text())
SHAPE = (6, 4)


class TokenisedBefore:
    """A vocabulary that knows the goldens' texts and no others."""

    def encode(self, text):
        return SPEC["tokenization"][text] if text else []


VOCABULARY = TokenisedBefore()


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDENS / "initializers.npz"))


@pytest.fixture(scope="module")
def embeddings(golden):
    """The reference's test table of 32,128 x 4, less the rows that no golden looks up."""
    table = np.zeros((32128, 4), np.float32)
    table[golden["embedding_ids"]] = golden["embedding_rows"]
    return table


def build(case, embeddings):
    sampled = initializers.sampled_vocabulary(embeddings, 5000)
    reference_uniform = initializers.uniform(case.get("scale", 0.01), symmetric=False)
    fallback = sampled if case.get("initializer") else reference_uniform
    if case["kind"] == "from_sample_of_embeddings":
        table = embeddings[: case.get("embedding_rows")]
        return initializers.sampled_vocabulary(table, case["population_size"])
    if case["kind"] == "from_embedded_list":
        return initializers.class_labels(embeddings, VOCABULARY, case["texts"], fallback)
    if case["kind"] == "from_embedded_string":
        return initializers.text(embeddings, VOCABULARY, case["text"], fallback)
    return reference_uniform


@pytest.mark.parametrize("jit", [slow(False), True])
@pytest.mark.parametrize("case", SPEC["cases"], ids=lambda case: case["name"])
def test_equals_the_reference(case, jit, golden, embeddings):
    initializer = build(case, embeddings)
    initializer = jax.jit(initializer, static_argnums=1) if jit else initializer
    values = initializer(jax.random.PRNGKey(7), (case["length"], 4))
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, golden[case["name"]])


def test_the_papers_uniform_is_symmetric(key):
    values = np.asarray(initializers.uniform()(key, (100, 64)))
    assert -0.5 <= values.min() < -0.49
    assert 0.49 < values.max() < 0.5


def test_sampling_takes_no_token_twice(key, embeddings):
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    values = initializers.sampled_vocabulary(table, 10)(key, (10, 4))
    np.testing.assert_array_equal(np.sort(values[:, 0]), table[:, 0])


def test_sampling_stays_in_the_population(key):
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    values = initializers.sampled_vocabulary(table, 7)(key, (7, 4))
    assert np.asarray(values).max() == table[6].max()


def test_rows_after_the_labels_are_sampled(key, embeddings):
    labels = ["neutral", "contradiction"]
    values = initializers.class_labels(embeddings, VOCABULARY, labels)(key, SHAPE)
    sampled = initializers.sampled_vocabulary(embeddings)(key, SHAPE)
    np.testing.assert_array_equal(values[0], embeddings[7163])
    np.testing.assert_array_equal(values[2:], sampled[2:])


def test_bfloat16_tables_make_float32_prompts(key, embeddings):
    table = jnp.asarray(embeddings, jnp.bfloat16)
    for initializer in (
        initializers.sampled_vocabulary(table),
        initializers.class_labels(table, VOCABULARY, ["not_entailment"]),
    ):
        assert initializer(key, SHAPE).dtype == jnp.float32


def test_from_file(key, tmp_path):
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    for path in (tmp_path / "ours", tmp_path / "theirs.npy"):
        save_prompt(path, values)
        np.testing.assert_array_equal(prompt_start.from_file(path)(key, SHAPE), values)
        with pytest.raises(ValueError, match="prompt_length to 6"):
            prompt_start.from_file(path)(key, (5, 4))


def test_another_width_is_refused(key, embeddings):
    for initializer in (
        initializers.sampled_vocabulary(embeddings),
        initializers.class_labels(embeddings, VOCABULARY, ["neutral"]),
        initializers.text(embeddings, VOCABULARY, "neutral"),
    ):
        with pytest.raises(ValueError, match="4 wide, the prompt 5"):
            initializer(key, (6, 5))


@pytest.mark.parametrize("population_size", [0, -1])
def test_empty_population_is_refused(embeddings, population_size):
    with pytest.raises(ValueError, match="population_size"):
        initializers.sampled_vocabulary(embeddings, population_size)


def test_words_without_tokens_are_refused(embeddings):
    with pytest.raises(ValueError, match="no tokens"):
        initializers.class_labels(embeddings, VOCABULARY, ["neutral", ""])


class TestResolve:
    def resolve(self, embeddings, spec, vocabulary=VOCABULARY, labels=("neutral",)):
        return prompt_start.resolve(spec, embeddings, vocabulary, labels)(
            jax.random.PRNGKey(7), SHAPE
        )

    def test_default_is_class_labels_where_there_are_any(self, embeddings):
        values = self.resolve(embeddings, None)
        np.testing.assert_array_equal(values[0], embeddings[7163])
        np.testing.assert_array_equal(values, self.resolve(embeddings, "class_labels"))

    def test_default_is_sampled_vocabulary_elsewhere(self, embeddings):
        sampled = self.resolve(embeddings, "sampled_vocabulary")
        np.testing.assert_array_equal(self.resolve(embeddings, None, labels=None), sampled)
        np.testing.assert_array_equal(self.resolve(embeddings, None, vocabulary=None), sampled)

    def test_text(self, embeddings):
        values = self.resolve(embeddings, "text: a sentence of words")
        np.testing.assert_array_equal(values[:5], embeddings[[3, 9, 7142, 13, 1234]])

    def test_an_initializer_or_a_file(self, embeddings, tmp_path):
        ones = np.ones(SHAPE, np.float32)
        save_prompt(tmp_path / "prompt", ones)
        for spec in (lambda key, shape: jnp.ones(shape), str(tmp_path / "prompt")):
            np.testing.assert_array_equal(self.resolve(embeddings, spec), ones)

    def test_what_cannot_be_is_refused(self, embeddings):
        with pytest.raises(ValueError, match="verbalizers"):
            self.resolve(embeddings, "class_labels", labels=None)
        with pytest.raises(ValueError, match="vocabulary"):
            self.resolve(embeddings, "text: neutral", vocabulary=None)
        with pytest.raises(FileNotFoundError, match="no_such_prompt"):
            self.resolve(embeddings, "no_such_prompt")
