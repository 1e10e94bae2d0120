"""Language modelling on C4, or on a directory of text, which adapts a model before tuning prompts.

    c4_v220_span_corruption             T5's pre-training
    c4_v220_span_corruption_sentinel    the same, <extra_id_0> before each target
    c4_v220_prefix_lm                   the paper's LM adaptation (section 3.2)
    c4_v220_bart_text_infilling         the whole text is the target: spans are hidden,
    c4_v220_bart_token_deletion         or single tokens are missing

and as many `text_...` tasks, on .txt files in the data directory (`text_release.TextFolder`). C4
comes from TFDS, or from the JSON files of its release in c4/en/.

The objectives are those of `prompt_tuning_jax.data.pretraining`; what they draw depends on SeqIO's
seed alone. Texts are cut into chunks such that neither side is longer than `feature_lengths`
says (512 where it says nothing), so nothing is trimmed.
"""

import bisect
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import seqio
import tensorflow as tf

from prompt_tuning_jax.data import pretraining
from prompt_tuning_jax.data.pretraining import SHORTEST, Ids
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.tasks.model_vocabulary import Sentinels
from prompt_tuning_jax.tasks.registration import add
from prompt_tuning_jax.tasks.text_release import C4Release, TextFolder, Texts

DEFAULT_LENGTH = 512
JOINED = 128
"""How many documents are joined end to end where an objective has them joined, as in T5."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """How a chunk of text becomes `inputs` and `targets`.

    Attributes:
      make: (tokens, rng, vocabulary) -> (inputs, targets), each with EOS.
      fills: whether the lengths it makes depend on the chunk's alone, so that chunks can be cut to
        fill the rows, and documents are joined for it. Else a document is cut only where a side
        could become too long.
    """

    make: pretraining.Objective
    fills: bool = False

    def chunk_length(self, lengths: Mapping[str, int], vocabulary: Sentinels) -> int:
        """The longest chunk that makes no side longer than `lengths`.

        Raises:
          ValueError: not even the shortest one fits.
        """
        longest = min(lengths.values()) - 1
        if self.fills:
            sizes = range(2, 2 * lengths["inputs"])
            longest = bisect.bisect(sizes, 0, key=lambda n: not self._fits(n, lengths, vocabulary))
            longest += sizes.start - 1
        if longest < SHORTEST:
            raise ValueError(
                f"{spelled('feature_lengths')} {dict(lengths)} leave no room for chunks of at "
                "least "
                f"{SHORTEST} tokens: raise them"
            )
        return longest

    def _fits(self, size: int, lengths: Mapping[str, int], vocabulary: Sentinels) -> bool:
        try:
            made = self.make(np.zeros(size, np.int32), np.random.default_rng(0), vocabulary)
        except ValueError:  # more spans than the vocabulary has sentinels
            return False
        return all(len(ids) <= lengths[side] for ids, side in zip(made, lengths, strict=True))


def after_sentinel(objective: pretraining.Objective) -> pretraining.Objective:
    """`objective`, whose targets begin with the first sentinel."""

    def make(tokens: Ids, rng: np.random.Generator, vocabulary: Sentinels) -> tuple[Ids, Ids]:
        inputs, targets = objective(tokens, rng, vocabulary)
        return inputs, np.concatenate([[vocabulary.sentinel(0)], targets]).astype(np.int32)

    return make


def text_infilling(tokens: Ids, rng: np.random.Generator, vocabulary: Sentinels) -> tuple[Ids, Ids]:
    """Span corruption's inputs, and all of the text as targets (after Lewis et al. 2020)."""
    inputs, _ = pretraining.span_corruption(tokens, rng, vocabulary)
    return inputs, np.append(tokens, vocabulary.eos_id)


def token_deletion(
    tokens: Ids, rng: np.random.Generator, vocabulary: Sentinels, noise_density: float = 0.15
) -> tuple[Ids, Ids]:
    """The text without 15% of its tokens, and all of it as targets (after Lewis et al. 2020)."""
    kept = tokens[rng.random(len(tokens)) >= noise_density]
    return np.append(kept, vocabulary.eos_id), np.append(tokens, vocabulary.eos_id)


OBJECTIVES = {
    "span_corruption": Objective(pretraining.span_corruption, fills=True),
    "span_corruption_sentinel": Objective(after_sentinel(pretraining.span_corruption), fills=True),
    "prefix_lm": Objective(pretraining.prefix_lm),
    "bart_text_infilling": Objective(text_infilling),
    "bart_token_deletion": Objective(token_deletion),
}


@seqio.map_over_dataset
def as_targets(record):
    return {"targets": record["text"]}


def corrupted(objective: Objective) -> Callable:
    """A preprocessor of token ids: texts in `targets` to chunks that the objective has changed."""

    def preprocess(dataset, sequence_length, output_features):
        vocabulary = Sentinels.of(output_features["targets"].vocabulary)
        told = sequence_length or {}
        lengths = {side: told.get(side) or DEFAULT_LENGTH for side in ("inputs", "targets")}
        chunks = _chunks(dataset, objective.chunk_length(lengths, vocabulary), objective.fills)

        def make(tokens: Ids, seed: np.ndarray) -> tuple[Ids, Ids]:
            rng = np.random.default_rng(seed.astype(np.uint32))
            inputs, targets = objective.make(tokens, rng, vocabulary)
            return inputs[:-1].astype(np.int32), targets[:-1].astype(np.int32)  # SeqIO adds EOS

        @seqio.map_over_dataset(num_seeds=1)
        def apply(tokens, seed):
            inputs, targets = tf.numpy_function(make, [tokens, seed], [tf.int32, tf.int32])
            return {
                "inputs": tf.ensure_shape(inputs, [None]),
                "targets": tf.ensure_shape(targets, [None]),
            }

        return apply(chunks)

    return preprocess


def _chunks(dataset: tf.data.Dataset, length: int, join: bool) -> tf.data.Dataset:
    """Arrays of up to `length` ids; those of fewer than 8, which ends of texts are, are dropped."""
    texts = dataset.map(lambda example: example["targets"])
    if join:
        texts = texts.ragged_batch(JOINED).map(lambda batch: batch.values)
    chunks = texts.flat_map(
        lambda ids: tf.data.Dataset.from_tensor_slices(
            tf.RaggedTensor.from_row_starts(ids, tf.range(0, tf.size(ids), length))
        )
    )
    return chunks.filter(lambda ids: tf.size(ids) >= SHORTEST)


SOURCES = {
    "c4_v220": Texts(C4Release(), tfds_name="c4/en:2.2.0"),
    "text": Texts(TextFolder()),
}

for _name, _source in SOURCES.items():
    for _objective_name, _objective in OBJECTIVES.items():
        add(
            f"{_name}_{_objective_name}",
            _source,
            [as_targets],
            run_time_preprocessors=[corrupted(_objective)],
        )
