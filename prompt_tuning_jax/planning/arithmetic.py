"""What a traced program computes and holds on any device, and what it could not do without.

Only matrix products count as flops: on an accelerator the rest rides along.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jax.extend import core

from prompt_tuning_jax.models.adapters import DECODER_PROMPT, LORA_A, LORA_B
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.params import PROMPT_NAME
from prompt_tuning_jax.planning.step import Lengths

# The output layer, in every family; where there is none, it is the embedding table: the decoder's,
# if it has its own.
OUTPUT_NAME = "decoder/logits_dense/kernel"
_DECODER, _DECODER_TABLE = "decoder/", "decoder/token_embedder/embedding"
_MATRICES = ("/kernel", "/kernel" + LORA_A, "/kernel" + LORA_B)


@dataclasses.dataclass(frozen=True)
class Work:
    """Totals over all devices, of one execution.

    Attributes:
      flops: of the matrix products, two for a multiplication and the addition of its result.
      traffic: bytes of their operands and results; everything else taken as fused into them.
    """

    flops: int
    traffic: int


def work_of(jaxpr: core.Jaxpr) -> Work:
    """The matrix products of a traced function, those within loops as often as they are executed.

    What is computed again in the backward pass counts again.
    """
    flops = traffic = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            flops += _product_flops(equation)
            traffic += sum(_size(v) for v in (*equation.invars, *equation.outvars))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in inner_jaxprs(equation):
            work = work_of(inner)
            flops, traffic = flops + times * work.flops, traffic + times * work.traffic
    return Work(flops, traffic)


def _product_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)


def peak_memory(jaxpr: core.Jaxpr) -> int:
    """Bytes of everything a traced function has alive at its fullest moment, arguments excepted.

    Values are taken as computed in the order written, each kept until its last use. A compiler
    fuses some away; what it stores for the backward pass is among them in either case.
    """
    last_use = {}
    for index, equation in enumerate(jaxpr.eqns):
        last_use |= {v: index for v in equation.invars if isinstance(v, core.Var)}
    last_use |= dict.fromkeys((v for v in jaxpr.outvars if isinstance(v, core.Var)), math.inf)
    mine, alive, peak = set(), 0, 0
    for index, equation in enumerate(jaxpr.eqns):
        inside = max((peak_memory(inner) for inner in inner_jaxprs(equation)), default=0)
        results = sum(_size(v) for v in equation.outvars)
        # A loop fills its stacked results while its body runs; another call's are among its own.
        both = inside + results if equation.primitive.name == "scan" else max(inside, results)
        peak = max(peak, alive + both)
        alive += results
        mine |= set(equation.outvars)
        ended = {v for v in mine if last_use.get(v, index) <= index}
        mine -= ended
        alive -= sum(_size(v) for v in ended)
    return peak


def inner_jaxprs(equation: Any) -> Iterator[core.Jaxpr]:
    """The functions that an equation calls: a loop's body, a rematerialised layer, a jit."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _size(variable: Any) -> int:
    aval = variable.aval
    return aval.size * aval.dtype.itemsize if hasattr(aval, "dtype") else 0


def useful_flops(
    parameters: Mapping[str, int],
    config: NetworkConfig,
    lengths: Lengths,
    trained: Mapping[str, int] | None = None,
) -> int:
    """Model flops of a step: 4 x parameters x tokens of prompt tuning, 6 of model tuning.

    A weight costs 2 flops a token forward, 2 backward for the gradient of what came in, and 2 for
    its own gradient if it trains. Backward goes only through what stands behind something that
    trains: where that is in the decoder alone, the encoder costs 2. LoRA's matrices are weights
    too. An encoder's weights see inputs and prompt, its decoder's the targets and the decoder's
    prompt; those of a model without an encoder see all of these but the last target, which is only
    predicted. The output layer sees the targets alone. Of an embedding a row is looked up, which is
    no product, unless it is the output layer too. Attention's own products, and whatever is
    computed twice, are not counted.

    Args:
      parameters: number of the model's weights by flat name.
      trained: the same of what trains; None for a prompt at the input.
    """
    trained = {PROMPT_NAME: 0} if trained is None else trained
    passes_encoder = any(not name.startswith(_DECODER) for name in trained)
    sizes, flops = {**parameters, **trained}, 0
    for name, tokens in _tokens(sizes, config, lengths).items():
        backward = name.startswith(_DECODER) or passes_encoder
        flops += (2 + 2 * backward + 2 * (name in trained)) * sizes[name] * tokens
    return lengths.batch * flops


def _tokens(names: Collection[str], config: NetworkConfig, lengths: Lengths) -> dict[str, int]:
    """Weights that are multiplied with -> how many positions of a row each sees."""
    text, targets = lengths.inputs + lengths.settings.input_rows, lengths.targets
    has_prompt = any(name.endswith(DECODER_PROMPT) for name in names)
    seen = {"encoder": text, "decoder": targets + has_prompt * lengths.prompt}
    if config.continues_inputs:
        seen = {"decoder": text + targets - 1}
    tokens = {
        name: targets if name.startswith(OUTPUT_NAME) else seen[name.partition("/")[0]]
        for name in names
        if name.endswith(_MATRICES)
    }
    if OUTPUT_NAME not in names:
        embedding = family_of(config).EMBEDDING_NAME
        tokens[_DECODER_TABLE if _DECODER_TABLE in names else embedding] = targets
    return tokens
