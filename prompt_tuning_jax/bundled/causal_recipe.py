"""How the bundled causal model is made: its shape, its initial weights and its pre-training task.

`scripts/prepare_bundled_model.py --causal` runs the recipe; the experiment
`gin_configs/experiments/pretrain_causal.gin` binds these functions. There is one phase: the next
token of prose, of generated documents, and of questions about them.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gin
import jax.numpy as jnp
import numpy as np
import optax

from prompt_tuning_jax import optim
from prompt_tuning_jax.bundled.causal_tokenizer import continuing_vocabulary
from prompt_tuning_jax.bundled.skills import SkillSource, questioned_document
from prompt_tuning_jax.bundled.worlds import generator
from prompt_tuning_jax.data.pretraining import MixtureSource, TextDirectory, TextSource, next_tokens
from prompt_tuning_jax.data.task import Example, ExampleList, Task
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.causal import CausalConfig, LayerKind, Rotary
from prompt_tuning_jax.models.causal.weights import shapes
from prompt_tuning_jax.params import unflatten
from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

LAYERS = 4
STDDEV = 0.02
# Rates of the mixture. Of prose and documents every token is predicted; of single questions, as in
# tuning, only the answer.
PROSE, DOCUMENTS, QUESTIONS = 8, 16, 24


def bundled_causal_config(pieces: int) -> CausalConfig:
    """A Llama with tied embeddings, as wide as the bundled T5; no sentinels are embedded."""
    return CausalConfig(
        architecture="llama",
        vocab_size=-(-pieces // 128) * 128,
        emb_dim=192,
        num_heads=3,
        num_kv_heads=3,
        head_dim=64,
        mlp_dim=512,
        layers=(LayerKind(rotary=Rotary(theta=10000.0)),) * LAYERS,
        norm_epsilon=1e-5,
        score_scale=64**-0.5,
        logits_via_embedding=True,
    )


@gin.configurable
def new_causal_model(vocabulary_file: str = gin.REQUIRED, seed: int = 0) -> FrozenModel:
    """A model of the bundled causal shape with initial weights as GPT-2's; nothing is learnt yet.

    They are normal, of standard deviation 0.02, and in the kernels that write to the residual
    stream smaller by sqrt(2 * layers) (Radford et al. 2019, section 2.3).
    """
    vocabulary = continuing_vocabulary(Path(vocabulary_file).read_bytes())
    config = bundled_causal_config(vocabulary.size)
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in shapes(config).items():
        if name.endswith("/scale"):
            weights[name] = jnp.ones(shape)
            continue
        writes = name.endswith(("out/kernel", "wo/kernel"))
        stddev = STDDEV / math.sqrt(2 * LAYERS) if writes else STDDEV
        weights[name] = jnp.asarray(stddev * rng.standard_normal(shape), jnp.float32)
    return FrozenModel(config, unflatten(weights), vocabulary, "new")


@dataclasses.dataclass(frozen=True)
class QuestionedDocuments:
    """Generated documents with questions and answers behind them; every epoch brings new ones."""

    vocabulary: Vocabulary
    size: int = 1_000_000

    def __len__(self) -> int:
        return self.size

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        for index in range(start, self.size):
            text = questioned_document(generator("questioned", seed or 0, epoch, index))
            tokens = np.array(self.vocabulary.encode(text), np.int32)
            inputs, targets = next_tokens(tokens, np.random.default_rng(0), self.vocabulary)
            yield {"inputs": inputs, "targets": targets}


@gin.configurable
def causal_pretraining_task(
    prose: str = gin.REQUIRED, vocabulary_file: str = gin.REQUIRED, chunk: int = 96
) -> Task:
    """Prose, generated documents, and questions about them, for a causal model.

    Args:
      prose: a directory of .txt files.
      chunk: the longest piece of prose in tokens.
    """
    vocabulary = load_vocabulary(vocabulary_file)
    mixture = MixtureSource(
        [
            (TextSource(TextDirectory(prose, vocabulary), next_tokens, vocabulary, chunk), PROSE),
            (QuestionedDocuments(vocabulary), DOCUMENTS),
            (SkillSource(), QUESTIONS),
        ]
    )
    held_out = list(itertools.islice(mixture.stream(seed=1_000_003, epoch=0), 500))
    return Task("pretrain_causal", {"train": mixture, "validation": ExampleList(held_out)})


@gin.configurable
def causal_pretraining_rules(
    peak: float = 2e-3, steps: int = gin.REQUIRED, decay_from: float = 0.2
) -> Any:
    """Adam with one rate for all weights, which falls to 0 from a share of the steps on."""
    schedule = optim.linear_decay(peak, steps, decay_from, warmup=min(100, steps // 10))
    adam = optax.adam(schedule, b1=0.9, b2=0.99)
    return [(r".*", optax.chain(optax.clip_by_global_norm(1.0), adam))]


def unigram_loss(task: Task, vocabulary: Vocabulary, examples: int = 5000) -> float:
    """What knowing how often each token occurs leaves: nats a target token on validation.

    Args:
      examples: of how many training examples the tokens are counted; each has one count more.
    """

    def targets(stream: Iterable[Example]) -> np.ndarray:
        rows = [
            vocabulary.framed_target(vocabulary.encode(x["targets"]))
            if isinstance(x["targets"], str)
            else x["targets"]
            for x in stream
        ]
        return np.concatenate([np.asarray(row) for row in rows])

    seen = targets(itertools.islice(task.split("train").stream(seed=0, epoch=0), examples))
    counts = np.bincount(seen, minlength=vocabulary.size) + 1
    held_out = targets(task.split("validation").stream(seed=None, epoch=0))
    return float(-np.mean(np.log(counts / counts.sum())[held_out]))
