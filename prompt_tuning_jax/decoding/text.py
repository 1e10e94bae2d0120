"""From texts to answers: batches of token ids on the devices, generated texts, ranked labels."""

import itertools
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning_jax.banks import PromptSet
from prompt_tuning_jax.data.batches import eval_batches
from prompt_tuning_jax.data.encoding import Encoder, check_distinct
from prompt_tuning_jax.data.task import FEATURES
from prompt_tuning_jax.decoding import generation
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.vocabularies import Vocabulary

# One list of legal answers for all inputs, or one for each input.
LabelChoice = Sequence[str] | Sequence[Sequence[str]]


class Generated(NamedTuple):
    """Texts in the order of the inputs, and the log-probability score of each [n]."""

    texts: list[str]
    scores: Float[np.ndarray, " n"]


class Classified(NamedTuple):
    """Best verbalizer of each input, and every verbalizer's log-probability [n, C].

    Where inputs have labels of their own, the C columns are all labels in order of appearance, and
    those that are not an input's score -inf.
    """

    labels: list[str]
    scores: Float[np.ndarray, "n C"]


class Prompted(NamedTuple):
    """A frozen model with the prompts of a call among its parameters; its vocabulary and mesh."""

    config: NetworkConfig
    params: Mapping[str, Any]
    prompts: PromptSet
    vocabulary: Vocabulary | None
    mesh: Mesh | None

    def bind(self, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """The network, the batch's tokens, and where the prompts are in them; see `Family.bind`."""
        bind = family_of(self.config).bind
        return bind(self.config, self.params, batch, self.prompts.layout)


def as_examples(texts: Sequence[Any]) -> list[dict[str, Any]]:
    """Inputs without targets, of texts or lists of token ids."""
    return [{"inputs": text} for text in texts]


def batches(
    model: Prompted,
    examples: Sequence[Mapping[str, Any]],
    batch_size: int,
    lengths: Mapping[str, int],
) -> Iterator[tuple[np.ndarray, dict[str, Array]]]:
    """(rows of `examples`, their batch with its prompts on the devices), by similar length.

    A batch has room for so many examples that they, or their copies, fill `batch_size` and the mesh
    evenly; rows after those of examples are empty.
    """
    prompts, mesh = model.prompts, model.mesh
    prompts.check_inputs(len(examples))
    parts = 1 if mesh is None else sharding.batch_parts(mesh)
    at_once = -(-max(1, batch_size // prompts.copies) // parts) * parts
    for rows, batch in eval_batches(
        examples, model.vocabulary, batch_size=at_once, lengths=lengths
    ):
        placed = prompts.place(batch, model.config.eos_id, model.config.pad_id, rows)
        if mesh is None:
            yield rows, jax.tree.map(jnp.asarray, placed)
        else:
            yield rows, sharding.put(placed, sharding.batch_sharding(mesh))


def generate_tokens(
    model: Prompted, batch: Mapping[str, Any], keys: Array, **options: Any
) -> tuple[Int[Array, "B L"], Float[Array, " B"]]:
    """Generation of one batch that is laid out; `keys[b]` seeds the sampling of input b.

    The options are those of `generation.generate_tokens`.
    """
    network, tokens, places = model.bind(batch)
    members = model.prompts.copies
    with sharding.active(model.mesh):
        return generation.generate_tokens(
            network, model.params, tokens, rng=keys, members=members, **places, **options
        )


def generate(
    model: Prompted,
    texts: Sequence[Any],
    numbers: Int[np.ndarray, " n"],
    seed: int,
    batch_size: int,
    max_input_length: int,
    **options: Any,
) -> Generated:
    """Texts for texts, in order; `FrozenModel.generate` says what the arguments are."""
    ends = set(options.get("eos_ids") or (model.config.eos_id,))
    outputs, scores = [""] * len(texts), np.zeros(len(texts), np.float32)
    lengths = {"inputs": max_input_length, "targets": 1}
    for rows, batch in batches(model, as_examples(texts), batch_size, lengths):
        room = len(batch["encoder_input_tokens"]) // model.prompts.copies
        keys = row_keys(seed, numbers[np.pad(rows, (0, room - len(rows)))])
        ids, sums = sharding.to_host(generate_tokens(model, batch, keys, **options))
        scores[rows] = sums[: len(rows)]
        for row, row_ids in zip(rows, ids, strict=False):
            outputs[row] = model.vocabulary.decode(_until(ends, row_ids))
    return Generated(outputs, scores)


def _until(ends: Collection[int], ids: Iterable[int]) -> list[int]:
    """The ids before the first that ends a text."""
    return list(itertools.takewhile(lambda token: token not in ends, map(int, ids)))


def label_scores(
    model: Prompted, texts: Sequence[Any], labels: Sequence[str], batch_size: int, max_length: int
) -> Float[np.ndarray, "n copies C"]:
    """Log-probability of every label for each copy of every text."""
    examples, prompts = model.prompts.expanded(as_examples(texts))
    label_ids = label_tokens(labels, model.vocabulary)
    scores = np.zeros((len(examples), len(labels)), np.float32)
    each, lengths = model._replace(prompts=prompts), {"inputs": max_length, "targets": 1}
    for rows, batch in batches(each, examples, batch_size, lengths):
        network, tokens, places = each.bind(batch)
        with sharding.active(model.mesh):
            ranked = generation.rank(network, model.params, tokens, label_ids, **places)
        scores[rows] = sharding.to_host(ranked)[: len(rows)]
    return scores.reshape(len(texts), model.prompts.copies, len(labels))


def row_keys(seed: int, numbers: Int[np.ndarray, " B"]) -> Array:
    """A random key for each row [B]; it depends on the row's number, not on its batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(numbers))


def label_choices(
    verbalizers: LabelChoice, count: int
) -> tuple[list[str], Bool[np.ndarray, "n C"]]:
    """Every label that some of `count` texts may have, and which ones each text may have."""
    if not verbalizers or isinstance(verbalizers, str | Mapping):
        raise ValueError(f"Expected a list of verbalizers to choose from, got {verbalizers!r}.")
    if isinstance(verbalizers[0], str):
        return list(verbalizers), np.ones((count, len(verbalizers)), bool)
    if len(verbalizers) != count:
        raise ValueError(f"Got {count} texts but {len(verbalizers)} lists of verbalizers.")
    labels = list(dict.fromkeys(itertools.chain.from_iterable(verbalizers)))
    return labels, np.array([[label in own for label in labels] for own in verbalizers])


def label_tokens(labels: Sequence[str], vocabulary: Vocabulary) -> Int[np.ndarray, "C L"]:
    """Ids as targets have them, then padding; labels that look all alike are refused."""
    check_distinct(labels, vocabulary)
    whole = Encoder(vocabulary, dict.fromkeys(FEATURES, sys.maxsize))
    ids = whole.batch([{"targets": label} for label in labels], "targets")
    length = max(map(len, ids))
    return np.array([row + [vocabulary.pad_id] * (length - len(row)) for row in ids], np.int32)
