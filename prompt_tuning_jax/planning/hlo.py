"""What a compiled program's text says: loops, the compiler's cycles, collectives, memory traffic.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs, and a model whose
layers are scanned is nearly all loop. Here every instruction counts as often as it is executed.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

from prompt_tuning_jax.planning.fused_kernels import attention_flops
from prompt_tuning_jax.planning.instructions import COLLECTIVES, Instruction, dims, parse

# These move nothing: they name a part of memory.
_FREE = (
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
)
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# A product says which axes it sums over; where a GPU's library computes it, the call says so.
_SUMMED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_LIBRARY_PRODUCT = 'custom_call_target="__cublas$'


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of collective in a program.

    Attributes:
      count: how often a device takes part in one.
      size: bytes, of what a device gives or gets (the larger), over all of them.
    """

    count: int
    size: int


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One thing that a device does at a time: flops of its matrix products, bytes of its traffic.

    Attributes:
      times: how often it runs.
      attention_flops: of fused attention, which is far from the rate of other products.
      cycles: a TPU compiler's estimate for it.
    """

    times: int
    flops: int
    traffic: int
    attention_flops: int = 0
    cycles: int = 0


class Program:
    """A compiled program, of which every device executes the same.

    Attributes:
      computations: name -> its instructions by their names, in order.
      entry: the name of the one that is the program.
      executions: name -> how often it is executed; fused ones among them.
    """

    def __init__(self, text: str):
        self.computations, self.entry = parse(text)
        self.executions: collections.Counter[str] = collections.Counter()
        self._fused: set[str] = set()
        self._count(self.entry, 1)

    def _count(self, name: str, times: int) -> None:
        self.executions[name] += times
        for instruction in self.computations[name].values():
            for called, rounds in self.called(instruction):
                self._count(called, times * rounds)
            if inside := fused_into(instruction):
                self._count(inside, times)
                self._fused.add(inside)

    def called(self, instruction: Instruction) -> list[tuple[str, int]]:
        """Computations that it executes, and how often; not those fused into it."""
        called = dict(_CALLED.findall(instruction.attributes))
        found = []
        if "body" in called:
            found.append((called["body"], self.trips(instruction)))
        if "calls" in called and not instruction.is_fusion:
            found.append((called["calls"], 1))
        if "to_apply" in called and instruction.opcode == "call":
            found.append((called["to_apply"], 1))
        if "true_computation" in called:
            found.append((called["true_computation"], 1))
        for branches in _BRANCHES.findall(instruction.attributes):
            # Only one is taken: of a condition the last, where it is true.
            found.append((re.findall(r"%?([\w.\-]+)", branches)[-1], 1))
        return found

    def trips(self, loop: Instruction) -> int:
        """How often a loop's body runs; 1 where the program does not say."""
        if known := re.search(r"known_trip_count\D*(\d+)", loop.attributes):
            return int(known[1])
        condition = dict(_CALLED.findall(loop.attributes))["condition"]
        constants = (
            re.fullmatch(r"[su]32\[\]\S* constant (\d+)", f"{i.shape} {i.opcode} {i.attributes}")
            for i in self.computations[condition].values()
        )
        return max((int(constant[1]) for constant in constants if constant), default=1)

    def executed(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, how often), without what is fused into others."""
        for name, times in self.executions.items():
            if name not in self._fused:
                for instruction in self.computations[name].values():
                    yield name, instruction, times

    def cycles(self) -> int:
        """The compiler's estimate of a device's clock cycles; 0 where it makes none."""
        return sum(kernel.times * kernel.cycles for kernel in self.kernels())

    def collectives(self) -> dict[str, Collective]:
        """Kind -> how many and how large; those inside fusions too.

        One that runs beside other work may stand in the text again, inside the fusions where it
        goes on and ends, each time with its channel's number.
        """
        counts, sizes, seen = collections.Counter(), collections.Counter(), set()
        for name in sorted(self.executions, key=lambda name: name in self._fused):
            here, times = self.computations[name], self.executions[name]
            for instruction in here.values():
                kind = instruction.collective
                if kind is None:
                    continue
                channel = (kind, *re.findall(r"channel_id=\d+", instruction.attributes))
                if name in self._fused and channel in seen:
                    continue
                seen.add(channel)
                counts[kind] += times
                sizes[kind] += times * moved(instruction, here)
        return {kind: Collective(counts[kind], sizes[kind]) for kind in COLLECTIVES if counts[kind]}

    def kernels(self) -> Iterator[Kernel]:
        """Everything that takes time but communication; how an instruction becomes one on GPUs."""
        for name, instruction, times in self.executed():
            if kernel := self.kernel(name, instruction, times):
                yield kernel

    def kernel(self, name: str, instruction: Instruction, times: int = 1) -> Kernel | None:
        """What an instruction of a computation makes the device do; None where that is nothing."""
        estimate = _CYCLES.search(instruction.attributes)
        cycles = int(estimate[1]) if estimate else 0
        if instruction.collective or instruction.opcode.endswith("-done"):
            return Kernel(times, 0, 0, 0, cycles) if cycles else None
        flops, traffic = self.product_flops(name, instruction), self.traffic(name, instruction)
        here = self.computations[name]
        shapes = [dims(here[operand].shape) for operand in instruction.operands if operand in here]
        attention = attention_flops(instruction.attributes, shapes)
        found = Kernel(times, flops, traffic, attention, cycles)
        return found if flops or traffic or cycles else None

    def main_memory_traffic(self) -> int:
        """Bytes that a device reads from and writes to its main memory."""
        return sum(times * self.traffic(name, i) for name, i, times in self.executed())

    def traffic(self, computation: str, instruction: Instruction) -> int:
        """Bytes that one execution of an instruction reads from and writes to main memory."""
        if instruction.opcode in _FREE or '"AllocateBuffer"' in instruction.attributes:
            return 0
        here = self.computations[computation]
        in_parts = fused_into(instruction)
        written = instruction.main_memory_size
        if instruction.opcode == "fusion-done":  # all of it counted where it starts
            return 0
        if instruction.opcode == "fusion-start":  # its shape has the operands too
            written = self._written(instruction, here, in_parts)
        elif instruction.opcode.endswith("-start"):  # what it writes counts where it is done
            written = 0
        elif written:
            written = min(written, self._written(instruction, here, in_parts))
        read = 0
        if not instruction.opcode.endswith("-done"):
            for index, operand in enumerate(instruction.operands):
                if operand in here and (whole := here[operand].main_memory_size):
                    read += min(whole, self._read(instruction, here, in_parts, index))
        return read + written

    def _read(
        self, user: Instruction, here: dict[str, Instruction], called: str | None, index: int
    ) -> int:
        """Bytes that `user` reads of its operand: only a part, where it slices it first."""
        if called is not None:
            return self._read_of_parameter(called, index)
        if user.opcode in ("dynamic-slice", "slice", "gather") and index == 0:
            return user.size
        if user.opcode == "dynamic-update-slice" and index == 0:
            return 0
        return here[user.operands[index]].size

    def _read_of_parameter(self, computation: str, index: int) -> int:
        here = self.computations[computation]
        names = [
            i.name for i in here.values() if i.opcode == "parameter" and i.attributes == str(index)
        ]
        total, seen = 0, set()
        while names:
            name = names.pop()
            for user in here.values():
                if name not in user.operands or user.name in seen:
                    continue
                seen.add(user.name)
                if user.opcode == "bitcast":
                    names.append(user.name)
                    continue
                total += self._read(user, here, fused_into(user), user.operands.index(name))
        return total

    def _written(self, user: Instruction, here: dict[str, Instruction], called: str | None) -> int:
        """Bytes that `user` writes: only a part of an array that it updates in place."""
        if called is not None:
            inside = self.computations[called]
            return self._written_as(next(i for i in inside.values() if i.is_root), inside)
        if user.opcode == "dynamic-update-slice":
            return here[user.operands[1]].size
        return user.size

    def _written_as(self, root: Instruction, inside: dict[str, Instruction]) -> int:
        """Bytes of a fusion's results, of which there may be several."""
        if root.opcode == "tuple":
            return sum(self._written_as(inside[name], inside) for name in root.operands)
        if root.opcode == "bitcast":
            return self._written_as(inside[root.operands[0]], inside)
        return self._written(root, inside, fused_into(root))

    def product_flops(self, computation: str, instruction: Instruction) -> int:
        """Flops of the matrix products of one execution, those fused into others too."""
        if called := fused_into(instruction):
            return sum(self.product_flops(called, i) for i in self.computations[called].values())
        if instruction.opcode != "dot" and _LIBRARY_PRODUCT not in instruction.attributes:
            return 0
        summed = _SUMMED.search(instruction.attributes)
        left = self.computations[computation][instruction.operands[0]]
        sizes = dims(left.shape)
        axes = re.findall(r"\d+", summed[1]) if summed else ()
        return 2 * math.prod(dims(instruction.shape)) * math.prod(sizes[int(a)] for a in axes)


def fused_into(instruction: Instruction) -> str | None:
    """The computation that a fusion executes."""
    if not instruction.is_fusion:
        return None
    return dict(_CALLED.findall(instruction.attributes)).get("calls")


def moved(instruction: Instruction, here: dict[str, Instruction]) -> int:
    """Bytes that a device gives or gets (the larger) in a collective of the computation `here`."""
    given = sum(here[name].size for name in instruction.operands if name in here)
    # What starts one returns its operands as well.
    got = instruction.size - (given if instruction.opcode.endswith("-start") else 0)
    return max(given, got)
