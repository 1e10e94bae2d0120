"""What benchmark_gpu.py measures: its rows, who takes part in them, and what each is told."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmark import OURS, PEFT, PEFT_COMPILED
from benchmark_jax import RUNS
from make_random_t5 import model_config

from prompt_tuning_jax.checkpoints.huggingface.causal import PUBLISHED, published_fields

ISOLATED, DROPPED = f"{OURS}, isolated prompt", ", dropout 0.1"
IN_TURN, TOGETHER = "one after another", "together"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One process.

    Attributes:
      order: who comes first; among equals, the first row's.
      settings: what it adds to those of its row.
      against: contenders of the same row whose time its own is divided by.
    """

    order: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    against: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """Work of one shape; `work` is the name that the workers know it by."""

    work: str
    size: str
    batch: int
    inputs: int
    contenders: Mapping[str, Contender]
    prompt: int = 100
    targets: int = 8


def training(order: int, **others: Contender) -> dict[str, Contender]:
    """This library and PEFT, without dropout and then with it."""
    dropout = {"dropout": 0.1}
    return {
        PEFT: Contender(order),
        OURS: Contender(order, {}, (PEFT,)),
        PEFT + DROPPED: Contender(5, dropout, (PEFT,)),
        OURS + DROPPED: Contender(4, dropout, (OURS, PEFT + DROPPED)),
    }


def against_peft(order: int) -> dict[str, Contender]:
    return {PEFT: Contender(order), OURS: Contender(order, {}, (PEFT,))}


def with_isolated(order: int) -> dict[str, Contender]:
    return {
        PEFT: Contender(order),
        OURS: Contender(order, {}, (PEFT,)),
        ISOLATED: Contender(order, {"visibility": "isolated"}, (PEFT, OURS)),
    }


ROWS = {
    "xl_long": Row(
        "train_step",
        "xl",
        batch=32,
        inputs=512,
        contenders=training(0) | {PEFT_COMPILED: Contender(3, {"compile": True}, (PEFT,))},
    ),
    "xxl_long": Row("train_step", "xxl", batch=16, inputs=512, contenders=training(0)),
    "xl_short": Row("train_step", "xl", batch=64, inputs=64, contenders=with_isolated(0)),
    "many": Row(
        "many",
        "xl",
        batch=4,
        inputs=64,
        contenders={
            IN_TURN: Contender(2, {"together": False}),
            TOGETHER: Contender(2, {"together": True}, (IN_TURN,)),
        },
    ),
    "decode": Row("decode", "xl", batch=16, inputs=64, contenders=with_isolated(1)),
    "llama_1b": Row("train_step", "llama3.2-1b", batch=16, inputs=512, contenders=against_peft(2)),
    "llama_3b": Row("train_step", "llama3.2-3b", batch=16, inputs=512, contenders=against_peft(2)),
    "llama_decode": Row("decode", "llama3.2-3b", batch=16, inputs=64, contenders=against_peft(3)),
}
# A causal model for tests, by what a `config.json` says.
TINY_CAUSAL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def settings_of(row: Row, tiny: bool) -> dict[str, Any]:
    """What all contenders of a row are told."""
    sizes = {name: getattr(row, name) for name in ("batch", "inputs", "prompt", "targets")}
    if tiny:
        sizes = {"batch": 4, "inputs": 24, "prompt": 4, "targets": 8}
    return {
        "benchmark": row.work,
        "config": shape(row.size, tiny),
        "device": "cpu" if tiny else "cuda",
        "dropout": 0.0,
        "compile": False,
        **sizes,
    }


def shape(size: str, tiny: bool) -> dict[str, Any]:
    dtype = {"dtype": "float32" if tiny else "bfloat16"}
    if size in PUBLISHED:
        return published_fields(size) | (TINY_CAUSAL if tiny else {}) | dtype
    config = model_config("tiny", vocab_size=512) if tiny else model_config(size)
    return dataclasses.asdict(config) | dtype


def check_settings(rows: Mapping[str, Row], tiny: bool) -> dict[str, Any]:
    """Two layers of XL's and of Llama's width are compared, in rows longer than a chunk."""
    compared = {"num_encoder_layers": 2, "num_decoder_layers": 2, "dtype": "bfloat16"}
    sizes = {"batch": 4, "inputs": 120 if tiny else 512, "prompt": 100, "targets": 8}
    causal = {"num_hidden_layers": 2, "dtype": "bfloat16"}
    return {
        "benchmark": "check",
        "config": shape("xl", tiny) | compared,
        "causal": shape("llama3.2-3b", tiny) | causal,
        "width": 256 if tiny else 8192,
        "rows": {name: counted(row, tiny) for name, row in rows.items()},
        **sizes,
    }


def counted(row: Row, tiny: bool) -> dict[str, Any]:
    """What a row's useful work is counted from."""
    settings = settings_of(row, tiny)
    lengths = {name: settings[name] for name in ("batch", "inputs", "targets", "prompt")}
    if row.work == "many":
        lengths["batch"] *= RUNS
    return {"config": settings["config"], "lengths": lengths, "trains": row.work != "decode"}


def in_order(rows: Mapping[str, Row]) -> list[tuple[str, str, Contender]]:
    """(row, name, contender), the most important ones first."""
    every = [(row, name, c) for row, one in rows.items() for name, c in one.contenders.items()]
    return sorted(every, key=lambda each: each[2].order)
