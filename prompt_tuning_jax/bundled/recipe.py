"""How the bundled model is made: its vocabulary, its shape, and its two pre-training tasks.

`scripts/prepare_bundled_model.py` runs the whole recipe; the experiments under
`gin_configs/experiments/pretrain_*.gin` bind these functions. Span corruption comes first and LM
adaptation second, as in the paper (section 2.2), both on English prose mixed with generated text.
"""

import dataclasses
import io
import itertools
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sentencepiece

from prompt_tuning_jax import optim
from prompt_tuning_jax.bundled.skills import SkillSource, iter_documents
from prompt_tuning_jax.data.pretraining import (
    MixtureSource,
    Objective,
    TextDirectory,
    TextSource,
    paragraphs,
    prefix_lm,
    span_corruption,
)
from prompt_tuning_jax.data.task import Example, ExampleList, Source, Task
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.vocabularies import SentencePieceVocabulary, Vocabulary, load_vocabulary

PIECES = 4096
OBJECTIVES = ("span_corruption", "lm_adaptation")


def bundled_config(vocab_size: int) -> T5Config:
    """T5 1.1 with 4.6M parameters; the table is padded to a multiple of 128 rows, as T5's is."""
    return T5Config(
        vocab_size=-(-vocab_size // 128) * 128,
        emb_dim=192,
        num_heads=3,
        head_dim=64,
        mlp_dim=512,
        num_encoder_layers=4,
        num_decoder_layers=2,
    )


def train_vocabulary(prose: str | Path, generated: int = 60_000, seed: int = 0) -> Vocabulary:
    """A SentencePiece unigram vocabulary of 4,096 pieces on prose and `generated` documents."""
    files = sorted(Path(prose).rglob("*.txt"))
    asked = SkillSource().stream(seed=seed, epoch=0)
    texts = itertools.chain(
        itertools.islice(iter_documents(seed=seed), generated // 2),
        (
            f"{example['inputs']} {example['targets']}"
            for example in itertools.islice(asked, generated // 2)
        ),
        *(paragraphs(file.read_text(encoding="utf-8-sig")) for file in files),
    )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=model,
        vocab_size=PIECES,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=0.9995,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        max_sentence_length=20_000,
        input_sentence_size=150_000,
        num_threads=1,  # the result must not depend on the machine
        minloglevel=2,
    )
    return SentencePieceVocabulary(model.getvalue())


@gin.configurable
def new_model(vocabulary_file: str = gin.REQUIRED, seed: int = 0) -> FrozenModel:
    """A model of the bundled shape with T5's initial weights; nothing is learnt yet."""
    vocabulary = load_vocabulary(vocabulary_file)
    config = bundled_config(vocabulary.size)
    tokens = jnp.zeros((1, 1), jnp.int32)
    variables = Transformer(config).init(
        jax.random.key(seed), tokens, tokens, tokens, enable_dropout=False
    )
    return FrozenModel(config, variables["params"], vocabulary, "new")


@dataclasses.dataclass(frozen=True)
class DocumentSource:
    """Generated documents passed through a pre-training objective; every epoch brings new ones."""

    objective: Objective
    vocabulary: Vocabulary
    control: bool = False
    size: int = 1_000_000

    def __len__(self) -> int:
        return self.size

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        numbers = np.random.SeedSequence([seed or 0, epoch]).generate_state(1)
        texts = iter_documents(int(numbers[0]), start, control=self.control)
        for index, text in zip(range(start, self.size), texts, strict=False):
            rng = np.random.default_rng([seed or 0, epoch, index])
            tokens = np.array(self.vocabulary.encode(text), np.int32)
            inputs, targets = self.objective(tokens, rng, self.vocabulary)
            yield {"inputs": inputs, "targets": targets}


@dataclasses.dataclass(frozen=True)
class BehindSentinel:
    """Questions whose answer is a corrupted span: "... Who was it? <extra_id_0>"."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        for example in self.source.stream(seed=seed, epoch=epoch, start=start):
            yield {
                "inputs": f"{example['inputs']} <extra_id_0>",
                "targets": f"<extra_id_0> {example['targets']}",
            }


@gin.configurable
def pretraining_task(
    prose: str = gin.REQUIRED,
    vocabulary_file: str = gin.REQUIRED,
    objective: str = gin.REQUIRED,
    control: bool = False,
    chunk: int = 96,
) -> Task:
    """Prose, generated documents, and questions about them, in the form of `objective`.

    Args:
      prose: a directory of .txt files.
      objective: "span_corruption" (answers stand behind a sentinel) or "lm_adaptation" (prefix
        language modelling; answers continue the question).
      control: leave the questions out, for a model that never met the skills.
      chunk: the longest piece of prose in tokens.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {OBJECTIVES}, got {objective!r}.")
    vocabulary = load_vocabulary(vocabulary_file)
    spans = objective == "span_corruption"
    corrupt = span_corruption if spans else prefix_lm
    directory = TextDirectory(prose, vocabulary)
    members: list[tuple[Source, float]] = [
        (TextSource(directory, corrupt, vocabulary, chunk), 8),
        (DocumentSource(corrupt, vocabulary, control), 48 if control else 8),
    ]
    if not control:
        members.append((BehindSentinel(SkillSource()) if spans else SkillSource(), 40))
    mixture = MixtureSource(members)
    held_out = list(itertools.islice(mixture.stream(seed=1_000_003, epoch=0), 500))
    return Task(f"pretrain_{objective}", {"train": mixture, "validation": ExampleList(held_out)})


@gin.configurable
def pretraining_rules(
    peak: float = 1e-3, steps: int = gin.REQUIRED, decay_from: float = 1.0
) -> Any:
    """Adam with a smaller rate for queries and a larger one for embeddings.

    T5 does not divide attention logits by sqrt(head_dim) but starts from small query matrices, and
    its embeddings start at standard deviation 1; under Adam, whose steps have one size, both need
    rates of their own. Without them training stalls.
    """

    def adam(scale: float) -> optax.GradientTransformation:
        schedule = optim.linear_decay(peak * scale, steps, decay_from, warmup=min(200, steps // 10))
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b1=0.9, b2=0.99))

    return [
        (r".*/query/kernel", adam(1 / 8)),
        (r"token_embedder/embedding", adam(4)),
        (r".*", adam(1)),
    ]
