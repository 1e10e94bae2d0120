"""A compiled program's text, cut into computations and their instructions."""

import dataclasses
import functools
import math
import re

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `%name = shape opcode(%operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @functools.cached_property
    def size(self) -> int:
        """Bytes of its result."""
        return sum(_size(*array) for array in _ARRAY.findall(self.shape))

    @functools.cached_property
    def main_memory_size(self) -> int:
        """Bytes of its result that are in main memory, not in a chip's own fast memory."""
        arrays = _ARRAY.findall(self.shape)
        return sum(_size(*array) for array in arrays if "S(" not in array[2])

    @property
    def is_fusion(self) -> bool:
        """Whether it is a fused computation, or starts one that runs on beside other work."""
        return self.opcode in ("fusion", "fusion-start")

    @property
    def collective(self) -> str | None:
        """Its kind, where it is one, or starts one that runs on beside other work."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else None


def _size(dtype: str, dims: str, layout: str = "") -> int:
    """Bytes of an array; token and opaque types have none."""
    bits = re.fullmatch(r"(?:pred|[a-z]+?(\d+)\w*)", dtype)
    if not bits:
        return 0
    elements = math.prod(int(d) for d in dims.split(",") if d)
    return elements * (int(bits[1]) if bits[1] else 8) // 8


def dims(shape: str) -> list[int]:
    """Of the first array of a shape."""
    return [int(d) for d in _ARRAY.findall(shape)[0][1].split(",") if d]


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """(computations, the name of the one that is the program)."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current[match[2]] = _instruction(match[2], match[3], match[1] is not None)
    return computations, entry


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside, attributes = rest[opening + 1 : closing], rest[closing + 1 :]
    opcode = rest[:opening]
    if opcode in ("constant", "parameter"):  # their value or number stands where operands do
        return Instruction(name, shape, opcode, (), inside, is_root)
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, shape, opcode, operands, attributes, is_root)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for match in re.finditer(r"[()]", text[opening:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return opening + match.start()
    raise ValueError(f"An instruction's parentheses do not close: {text[:80]}.")
