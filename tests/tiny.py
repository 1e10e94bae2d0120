"""A T5 1.1 of a few thousand random weights with a real vocabulary, and a task it can learn."""

import io
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import optax
import sentencepiece

from prompt_tuning_jax import (
    ExampleList,
    FrozenModel,
    T5Config,
    Task,
    Transformer,
    Vocabulary,
    load_model,
    save_prompt,
)
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.data.metrics import get_metric
from prompt_tuning_jax.params import PROMPT_NAME, flatten, unflatten
from prompt_tuning_jax.vocabularies import SentencePieceVocabulary

FOODS = ("soup", "bread", "cake", "tea", "fish", "rice", "pie", "salad", "stew", "apple")
GOOD = ("good", "warm", "sweet", "fresh")
BAD = ("bad", "cold", "sour", "stale")
LABELS = ("yes", "no")
LENGTHS = {"inputs": 16, "targets": 4}
# Steps that rounding goes through as it is. The paper's optimizer divides a gradient by its size,
# so that a small one's rounding moves the prompt as far as a large one's.
PLAIN_STEPS = ((PROMPT_NAME, optax.sgd(0.01)),)


def examples() -> list[dict[str, str]]:
    """80 sentences of two lengths; the label depends on one word."""
    rows = []
    for food, (good, bad) in itertools.product(FOODS, zip(GOOD, BAD, strict=True)):
        rows.append({"inputs": f"the {food} was {good}", "targets": "yes"})
        rows.append({"inputs": f"we had {food} and it was very {bad}", "targets": "no"})
    return rows


def make_vocabulary() -> Vocabulary:
    """A piece for every word, and four extra ids."""
    sentences = [f"{row['inputs']} {row['targets']}" for row in examples()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="word",  # every word a piece, so that sequences are short
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return SentencePieceVocabulary(model.getvalue(), extra_ids=4)


def make_params(config: T5Config, seed: int = 0) -> dict:
    """Random weights at the scale of a trained T5's, made without compiling anything."""
    tokens = jax.ShapeDtypeStruct((1, 2), np.int32)
    shapes = jax.eval_shape(
        lambda t: Transformer(config).init(jax.random.key(0), t, t, t, enable_dropout=False), tokens
    )
    rng = np.random.default_rng(seed)

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("scale"):
            return np.ones(shape, np.float32)
        spread = 1.0 if "embedding" in name else shape[0] ** -0.5
        if "encoder_decoder_attention" in name and "query" not in name:
            spread *= 3  # the decoder listens to the encoder, so that a prompt can matter
        return rng.normal(0, spread, shape).astype(np.float32)

    flat = flatten(shapes["params"])
    return unflatten({name: values(name, leaf.shape) for name, leaf in flat.items()})


def make_config(vocabulary: Vocabulary, **changes) -> T5Config:
    shape = {
        "vocab_size": -(-vocabulary.size // 8) * 8,
        "emb_dim": 16,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": 32,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
    }
    return T5Config(**(shape | changes))


def save_model(directory: Path, vocabulary: Vocabulary | None = None, **changes) -> Path:
    """A Hugging Face directory; with `vocabulary=None`, one without spiece.model."""
    config = make_config(vocabulary or make_vocabulary(), **changes)
    huggingface.save(directory, config, make_params(config), vocabulary)
    return directory


def save_ranking_prompt(directory: Path, model: FrozenModel) -> Path:
    """A prompt of random rows that ranks two words, and knows the model."""
    values = np.random.default_rng(0).normal(size=(5, model.config.emb_dim)).astype(np.float32)
    return save_prompt(directory, values, fingerprint=model.fingerprint, verbalizers=["yes", "no"])


def make_task(**changes) -> Task:
    """Train on three quarters of the sentences, validate on the others."""
    rows = examples()
    held_out = [row for i, row in enumerate(rows) if i % 8 in (0, 3)]
    settings = {
        "name": "food",
        "splits": {
            "train": ExampleList(row for row in rows if row not in held_out),
            "validation": ExampleList(held_out),
        },
        "verbalizers": LABELS,
        "metrics": (get_metric("accuracy", LABELS),),
    }
    return Task(**(settings | changes))


def short_run(model: FrozenModel, model_dir: Path, **changes) -> dict:
    """Settings of a few steps of the task, for models whose vocabulary is not its own."""
    return {
        "model": model,
        "task": make_task(),
        "model_dir": str(model_dir),
        "feature_lengths": {"inputs": 48, "targets": 8},
        "batch_size": 8,
        "prompt_length": 5,
        "train_steps": 6,
        "eval_period": 3,
        "learning_rate": 0.05,
        "dropout_rate": 0.0,
        "quiet": True,
    } | changes


def own_run(model: FrozenModel, model_dir: Path, **changes) -> dict:
    """Settings of a few steps of the task, for `load_model`'s."""
    given = {"feature_lengths": LENGTHS, "prompt_length": 4, "batch_size": 4, "train_steps": 4}
    given |= {"eval_period": 2, "checkpoint_period": 2, "learning_rate": None}
    return short_run(model, model_dir, **given | changes)


def own_model(directory: Path) -> FrozenModel:
    """The model of `save_model`, with the task's vocabulary."""
    return load_model(save_model(directory, make_vocabulary()))


def save_files(directory: Path) -> Path:
    """The same task as train.jsonl and validation.jsonl with fields `text` and `label`."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, source in make_task().splits.items():
        lines = [{"text": row["inputs"], "label": int(row["targets"] == "no")} for row in source]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / f"{split}.jsonl").write_text(text)
    return directory
