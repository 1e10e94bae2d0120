"""How the bundled model is made: sources, rules and a model to start from."""

import itertools

import jax
import numpy as np
import pytest

from prompt_tuning_jax import optim
from prompt_tuning_jax.bundled import recipe
from prompt_tuning_jax.bundled.skills import SkillSource
from prompt_tuning_jax.data.pretraining import prefix_lm, span_corruption
from prompt_tuning_jax.params import split_params


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prose")
    lines = [
        f"The {a} {b} crossed the {c} bridge and went on to the next town slowly."
        for a in ("old", "tall", "young")
        for b in ("farmer", "sailor")
        for c in ("stone", "iron")
    ]
    (folder / "tale.txt").write_text("\n\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def vocabulary(prose):
    """The recipe's own, made small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "PIECES", 300)
        return recipe.train_vocabulary(prose, generated=300)


@pytest.fixture(scope="module")
def vocabulary_file(tmp_path_factory, vocabulary):
    file = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    file.write_bytes(vocabulary.model_bytes)
    return str(file)


def test_the_vocabulary_knows_every_letter(vocabulary):
    assert vocabulary.size == 400
    for text in ("Question: who?", "JQXZ jqxz 0123456789"):
        assert vocabulary.decode(vocabulary.encode(text)) == text


def take(source, count, **where):
    return list(itertools.islice(source.stream(**({"seed": 0, "epoch": 0} | where)), count))


@pytest.fixture(scope="module")
def new_model(vocabulary_file):
    return recipe.new_model(vocabulary_file)


@pytest.mark.slow
def test_a_new_model_has_the_bundled_shape_and_nothing_learnt(vocabulary_file, new_model):
    model = recipe.new_model(vocabulary_file, seed=1)
    again = recipe.new_model(vocabulary_file, seed=1)
    assert model.config.emb_dim == 192
    assert model.config.vocab_size % 128 == 0
    assert model.fingerprint == again.fingerprint != new_model.fingerprint


@pytest.mark.parametrize("objective", [span_corruption, prefix_lm])
def test_documents_resume_where_they_were(vocabulary, objective):
    source = recipe.DocumentSource(objective, vocabulary)
    whole, rest = take(source, 6), take(source, 4, start=2)
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])
        np.testing.assert_array_equal(a["targets"], b["targets"])
    assert any(len(a["inputs"]) != len(b["inputs"]) for a, b in zip(whole, rest, strict=False))


def test_answers_stand_behind_a_sentinel():
    plain, spans = take(SkillSource(), 3), take(recipe.BehindSentinel(SkillSource()), 3)
    for a, b in zip(plain, spans, strict=True):
        assert b["inputs"] == f"{a['inputs']} <extra_id_0>"
        assert b["targets"] == f"<extra_id_0> {a['targets']}"


@pytest.mark.parametrize("objective", recipe.OBJECTIVES)
@pytest.mark.parametrize("control", [False, True])
def test_pretraining_mixes_prose_documents_and_questions(
    prose, vocabulary_file, objective, control
):
    task = recipe.pretraining_task(str(prose), vocabulary_file, objective, control=control)
    train = take(task.split("train"), 200)
    asked = [e for e in train if isinstance(e["inputs"], str)]
    assert (len(asked) == 0) if control else (100 < len(asked) < 180)
    assert len(task.split("validation")) == 500


def test_an_unknown_objective_is_named(prose, vocabulary_file):
    with pytest.raises(ValueError, match="objective must be one of"):
        recipe.pretraining_task(str(prose), vocabulary_file, "causal")


@pytest.mark.slow
def test_queries_and_embeddings_have_rates_of_their_own(new_model):
    trainable, frozen = split_params(new_model.params, rules := recipe.pretraining_rules(steps=100))
    assert not frozen
    optimizer = optim.make_optimizer(trainable, rules)
    ones = jax.tree.map(lambda x: np.full(x.shape, 1e-4, np.float32), trainable)
    state, update = optimizer.init(trainable), jax.jit(optimizer.update)
    with jax.numpy_dtype_promotion("standard"):  # optax's own
        for _ in range(12):  # past the warm-up
            updates, state = update(ones, state, trainable)
    size = {name: float(np.abs(x).max()) for name, x in updates.items()}
    weight = size["encoder/layers_0/mlp/wi_0/kernel"]
    assert size["token_embedder/embedding"] == pytest.approx(4 * weight, rel=1e-3)
    assert size["decoder/layers_0/self_attention/query/kernel"] == pytest.approx(
        weight / 8, rel=1e-3
    )
