"""A T5 1.1 with random weights as a Hugging Face directory, for trying out sizes and paths.

    python scripts/make_random_t5.py --size small --vocabulary spiece.model --output random_t5_small

writes config.json, model.safetensors and spiece.model. The weights are about as large as T5's
before pre-training: the model has the real size and speed, and knows nothing.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.models.t5 import T5Config, Transformer, t5_1_1
from prompt_tuning_jax.params import flatten, unflatten
from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

SIZES = ("tiny", "small", "base", "large", "xl", "xxl")
TINY = {"emb_dim": 64, "num_heads": 2, "head_dim": 32, "mlp_dim": 128} | dict.fromkeys(
    ("num_encoder_layers", "num_decoder_layers"), 2
)


def model_config(size: str, vocab_size: int = 32128) -> T5Config:
    """A published size, or "tiny" (two layers of 64), which only serves to try things."""
    if size == "tiny":
        return t5_1_1("small", vocab_size=vocab_size, **TINY)
    return t5_1_1(size, vocab_size=vocab_size)


def weight_shapes(config: T5Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Every weight by its flat name, as T5X has it."""
    tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
    network = functools.partial(Transformer(config).init, enable_dropout=False)
    return flatten(jax.eval_shape(network, jax.random.key(0), tokens, tokens, tokens)["params"])


def spread(config: T5Config, name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation of a weight, about as large as T5's before pre-training."""
    if name.endswith("/embedding"):
        return 1.0
    heads = name.endswith("attention/out/kernel")
    inwards = config.num_heads * config.head_dim if heads else shape[0]
    if name.endswith("query/kernel"):
        inwards *= config.head_dim  # stands for the division of the scores
    return inwards**-0.5


def random_params(config: T5Config, seed: int = 0) -> dict[str, Any]:
    """Weights nested under T5X's names, float32, drawn by numpy so that nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("scale"):
            return np.ones(shape, np.float32)
        drawn = rng.standard_normal(shape, np.float32)
        return drawn * np.float32(spread(config, name, shape))

    return unflatten({n: draw(n, x.shape) for n, x in weight_shapes(config).items()})


def save_random_t5(output: Path, size: str, vocabulary: Vocabulary, seed: int = 0) -> T5Config:
    """Writes the directory; the embedding table has a row for each id, up to a multiple of 128."""
    config = model_config(size, -(-vocabulary.size // 128) * 128)
    huggingface.save(output, config, random_params(config, seed), vocabulary)
    return config


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--vocabulary", type=Path, required=True, help="a SentencePiece model")
    parser.add_argument("--output", type=Path, required=True, help="the directory to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    vocabulary = load_vocabulary(args.vocabulary)
    config = save_random_t5(args.output, args.size, vocabulary, args.seed)
    print(f"T5 1.1 {args.size}, {config.vocab_size} ids, random weights: {args.output}")


if __name__ == "__main__":
    command.run(main)
