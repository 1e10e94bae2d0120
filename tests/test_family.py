"""A second family of models stands beside T5, and nothing else has to know of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax import FrozenModel, TunedPrompt
from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models import family
from prompt_tuning_jax.models.family import Family, family_of
from prompt_tuning_jax.params import prompt_of

D, V = 8, 128
TOKENS = np.array([[5, 6, 1, 0], [7, 1, 0, 0]])


@dataclasses.dataclass(frozen=True)
class BagConfig:
    emb_dim: int = D
    pad_id: int = 0
    eos_id: int = 1
    start_id: int = 0
    dtype: str = "float32"
    scan_layers: bool = False
    prompt_visibility: str = "full"
    continues_inputs: bool = False

    def visibility_in(self, layouts, visibility):
        return visibility


@dataclasses.dataclass(frozen=True)
class BagNetwork:
    config: BagConfig


class Bag:
    """The sum of all embedded inputs and of the prompt's rows says every next token."""

    EMBEDDING_NAME = "table"

    def embedding_scale(self, config):
        return 1.0

    def depth(self, config):
        return 0

    def abstract_variables(self, config, prompt_shape):
        table = jax.ShapeDtypeStruct((V, D), jnp.float32)
        names = type("Axes", (), {"names": ("vocab", "embed")})
        return {"params": {"table": table}, "params_axes": {"table_axes": names}}

    def apply(self, config, params, batch, layout="prefix", dropout_rng=None):
        network, tokens, places = self.bind(config, params, batch, layout)
        inputs = self.read(network, params, tokens, places)
        return self.decode(network, params, inputs, batch["decoder_input_tokens"])[0]

    def bind(self, config, params, batch, layout):
        places = {"prompt_ids": batch.get("prompt_ids")}
        return BagNetwork(config), batch["encoder_input_tokens"], places

    def read(self, network, params, tokens, places):
        table, prompt = params["table"], prompt_of(params)
        bag_BxD = jnp.where((tokens > 0)[..., None], table[tokens], 0).sum(axis=1)
        if prompt is not None:
            rows = prompt[None] if prompt.ndim == 2 else prompt[places["prompt_ids"]]
            bag_BxD += jnp.broadcast_to(rows.sum(axis=1), bag_BxD.shape)
        return bag_BxD

    def decode(self, network, params, inputs, tokens, cache=None, max_decode_length=None):
        shape = (*tokens.shape, V)
        logits = jnp.broadcast_to((inputs @ params["table"].T)[:, None], shape)
        return logits, {"nothing": jnp.zeros((len(tokens), 1))}

    def attention_shape(self, config, **lengths):
        return None

    def cache_axis(self, config):
        return 0

    def scanned(self, config, params):
        return config, params


@pytest.fixture
def bag(monkeypatch, model):
    monkeypatch.setitem(family.FAMILIES, BagConfig, Bag())
    table = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
    return FrozenModel(BagConfig(), {"table": jnp.asarray(table)}, model.vocabulary)


def prompt(seed):
    return np.random.default_rng(seed).normal(size=(3, D)).astype(np.float32)


def expected(bag, values):
    table = np.asarray(bag.params["table"])
    sums = (table[TOKENS] * (TOKENS > 0)[..., None]).sum(axis=1) + values.sum(axis=0)
    return jax.nn.log_softmax(sums @ table.T)


def test_every_family_has_all_that_is_asked_of_one():
    assert all(isinstance(one, Family) for one in [*family.FAMILIES.values(), Bag()])


def test_a_config_of_no_family_is_refused():
    with pytest.raises(ValueError, match=r"BagConfig.*T5Config.*FAMILIES"):
        family_of(BagConfig())


def test_its_logits_and_gradient(bag):
    values, batch = prompt(0), np.zeros((2, 1), int)
    logits = bag.logits(TOKENS, batch, values)
    np.testing.assert_allclose(
        jax.nn.log_softmax(logits)[:, 0], expected(bag, values), rtol=1e-4, atol=1e-4
    )
    gradient = jax.grad(lambda p: bag.logits(TOKENS, batch, p)[..., 5].sum())(values)
    row = 2 * np.asarray(bag.params["table"][5])
    np.testing.assert_allclose(gradient, np.tile(row, (3, 1)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["array", "rows", "ensemble"])
def test_it_generates_with_every_form_of_a_prompt(bag, kind):
    bank = TunedBank({str(i): TunedPrompt(prompt(i)) for i in range(2)})
    form, log_probs = {
        "array": (prompt(0), expected(bag, prompt(0))),
        "rows": (
            bank.rows(["1", "0"]),
            np.stack([expected(bag, prompt(i))[row] for row, i in enumerate((1, 0))]),
        ),
        "ensemble": (
            bank.ensemble(),
            np.mean([expected(bag, prompt(i)) for i in range(2)], axis=0),
        ),
    }[kind]
    tokens, scores = bag.generate_tokens(TOKENS, form, max_length=1)
    np.testing.assert_array_equal(tokens[:, 0], log_probs.argmax(axis=-1))
    np.testing.assert_allclose(scores, log_probs.max(axis=-1), rtol=1e-4, atol=1e-4)


def test_it_ranks_texts(bag):
    labels, scores = bag.classify(["soup", "bread"], ["yes", "no"], prompt(0))
    assert scores.shape == (2, 2)
    assert labels == [["yes", "no"][i] for i in scores.argmax(axis=-1)]


def test_its_embeddings_and_partition_rules(bag):
    assert bag.embeddings.shape == (V, D)
    places = sharding.param_shardings(sharding.make_mesh("model:2"), bag.config, dict(bag.params))
    assert tuple(places["table"].spec) == ("model", "fsdp")
