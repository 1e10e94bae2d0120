"""How many tokens a second does the serving engine generate, with a different prompt in each row?

T5 1.1 XL in bfloat16, with random weights that are drawn on the device: texts of 260 to 440 tokens
behind prompts of 100 rows, 64 different ones in turn, and 128 tokens for each, greedily.
End-of-text is never the likeliest, so every answer has its full length. There are 32, 64 and 128
slots, one number after the other; three times as many requests are offered at once, so that the
queue holds work until the last of them have slots.

    PYTHONPATH=. python scripts/benchmark_engine.py --output scripts/results/engine.json
    PYTHONPATH=. python scripts/benchmark_engine.py --tiny       # on a CPU, to see that it all runs

The engine is that of `prompt-tuning serve`, in this process: no HTTP, and token ids for texts. It
compiles one size of everything where a server has a few of each; what runs is the same, since only
full batches are read here. Before the clock starts, each prompt answers the same text: so all of
them are on the device, all programs have run, and it shows whether prompts make a difference.
Setting up is compiling; later numbers of slots find compiled what they share with the first.

To compare with: TensorRT-LLM's documentation (docs/source/models/encoder-decoder.md, "Performance")
has Flan-T5-XL with its PyTorch backend, in bfloat16 on one H100 80 GB, greedily, for texts of these
lengths without prompts, and 128 tokens at the most. Batches of 32, 64 and 128 take it 706.1,
1,136.7 and 1,999.3 ms, and it makes 3,312, 4,184 and 4,768 output tokens a second. These are about
74 tokens for each text, which end where the model ends them, and here there are 128: the fairer
measure is requests a second, of which theirs are a batch over its time.

From a checkout it needs this library's dependencies and fsspec, and neither TensorFlow nor FastAPI.
The peak is that of the device since the process began; on a CPU, of the process.
"""

import argparse
import gc
import itertools
import json
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from benchmark import command_line, machine
from benchmark_gpu_rows import shape
from benchmark_jax import device_peak, random_model, random_prompt, without_eos
from rich.console import Console
from rich.table import Table

from prompt_tuning_jax import TunedPrompt
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.requests import Event, Finished, Generate, Sampling, Token
from prompt_tuning_jax.serving.shapes import Shapes
from prompt_tuning_jax.vocabularies import ByteVocabulary

CONSOLE = Console(width=110)
# By TensorRT-LLM, as above: batch -> output tokens a second, and the seconds that the batch takes.
PUBLISHED = {32: (3312, 0.7061), 64: (4184, 1.1367), 128: (4768, 1.9993)}
FIRST_TOKENS = 8  # of each answer before the clock starts
Result = dict[str, Any]


class Sizes(NamedTuple):
    """What is asked for.

    Attributes:
      slots: how many rows are decoded at once, one number after the other.
      inputs: the fewest and the most tokens of a text.
      tokens: of each answer.
      prompt: rows of each prompt.
      prompts: how many different ones.
      batch: how many texts are read at once.
      rounds: how many requests there are for each slot.
    """

    slots: tuple[int, ...] = (32, 64, 128)
    inputs: tuple[int, int] = (260, 440)
    tokens: int = 128
    prompt: int = 100
    prompts: int = 64
    batch: int = 32
    rounds: int = 3


TINY = Sizes(slots=(2, 4), inputs=(6, 12), tokens=10, prompt=4, prompts=5, batch=2)


class Shelf:
    """The prompts by name, which an engine asks its library for."""

    def __init__(self, prompts: Mapping[str, TunedPrompt]):
        self._prompts = prompts

    def version(self, name: str) -> int:
        return 0

    def get(self, name: str) -> TunedPrompt:
        return self._prompts[name]


class Answer:
    """What the engine tells of one request; `ended` is called at the end.

    Attributes:
      tokens, log_probs: what it is told of each token.
      end, ended_at: the last event, and when it came.
    """

    def __init__(self, ended: Callable[["Answer"], None]):
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.end: Event | None = None
        self.ended_at = 0.0
        self._ended = ended

    def tell(self, event: Event) -> None:
        if isinstance(event, Token):
            self.tokens.append(event.id)
            self.log_probs.append(event.log_prob)
        else:
            self.end, self.ended_at = event, time.perf_counter()
            self._ended(self)


# ---- what is asked -------------------------------------------------------------------------------


def model_and_prompts(settings: Mapping[str, Any], count: int) -> tuple[FrozenModel, Shelf]:
    """The model, which never ends a text, with a vocabulary that is not used; and the prompts."""
    model = random_model(settings)
    params = without_eos(model.params, model.config.eos_id)
    prompts = {f"p{i}": TunedPrompt(random_prompt(settings, i)) for i in range(count)}
    return model.replace(params=params, vocabulary=ByteVocabulary()), Shelf(prompts)


def texts(sizes: Sizes, vocab_size: int) -> Iterator[list[int]]:
    """Random token ids, as many as there are ever needed."""
    rng, (fewest, most) = np.random.default_rng(0), sizes.inputs
    while True:
        yield rng.integers(2, vocab_size, rng.integers(fewest, most + 1)).tolist()


def shapes_of(sizes: Sizes, slots: int) -> Shapes:
    return Shapes(
        texts=(sizes.batch,),
        lengths=(sizes.inputs[1] + sizes.prompt,),
        slots=(slots,),
        max_tokens=sizes.tokens,
        labels=2,
        label_lengths=(4,),
        prompts=max(sizes.prompts, sizes.batch),
        prompt_length=sizes.prompt,
    )


# ---- the work ------------------------------------------------------------------------------------


def answers(
    engine: Engine, wanted: Sequence[tuple[list[int], str]], tokens: int, seconds: float
) -> tuple[list[Answer], float]:
    """Offers texts, each with the name of a prompt, and waits for all answers.

    The engine's own thread offers them, as it ends a text of one token: they are all there when it
    looks for work next, so that every batch is full.

    Returns:
      The answers in order, and the seconds from the first request to the last token.

    Raises:
      ValueError: an answer has not as many tokens as were asked for.
      queue.Empty: none came within so many seconds.
    """
    done: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    found = [Answer(done.put) for _ in wanted]
    begun = []

    def offer(_: Answer) -> None:
        begun.append(time.perf_counter())
        for (text, name), answer in zip(wanted, found, strict=True):
            engine.submit(request(text, name, answer, tokens))

    engine.submit(request(*wanted[0], Answer(offer), 1))
    for _ in wanted:
        done.get(timeout=seconds)
    if any(one.end != Finished("length") or len(one.tokens) != tokens for one in found):
        raise ValueError("An answer is not as long as it should be: the work is not what it was.")
    return found, max(one.ended_at for one in found) - begun[0]


def request(text: list[int], name: str, answer: Answer, tokens: int) -> Generate:
    how = Sampling(max_tokens=tokens)
    return Generate(tokens=text, prompts=(name,), tell=answer.tell, sampling=how)


def measure(model: FrozenModel, shelf: Shelf, sizes: Sizes, slots: int, limit: float) -> Result:
    """The figures of one number of slots."""
    count = sizes.rounds * slots
    names = [f"p{i}" for i in range(sizes.prompts)]
    engine = Engine(
        model, shelf, shapes_of(sizes, slots), max_labels=2, max_waiting=max(count, len(names)) + 1
    )
    set_up = engine.start()
    try:
        source = texts(sizes, model.config.vocab_size)
        same = next(source)
        first, _ = answers(
            engine, [(same, name) for name in names], min(FIRST_TOKENS, sizes.tokens), limit
        )
        wanted = list(zip(itertools.islice(source, count), itertools.cycle(names), strict=False))
        before = engine.statistics()
        found, seconds = answers(engine, wanted, sizes.tokens, limit)
        after = engine.statistics()
    finally:
        engine.stop(limit)
    tokens = sum(len(one.tokens) for one in found)
    return {
        "requests": count,
        "input_tokens": sum(len(text) for text, _ in wanted),
        "output_tokens": tokens,
        "seconds": seconds,
        "output_tokens_a_second": tokens / seconds,
        "requests_a_second": count / seconds,
        **published(slots),
        "set_up_seconds": set_up,
        "programs": after["programs"],
        # With the text of one token that the offer begins with.
        **{name: after[name] - before[name] for name in ("steps", "reads")},
        "different_answers_to_one_text": len(set(map(likeness, first))),
        "peak_bytes": device_peak(),
    }


def likeness(answer: Answer) -> tuple:
    """What two answers have in common that are alike; random weights often choose one token."""
    return tuple(zip(answer.tokens, np.round(answer.log_probs, 2).tolist(), strict=True))


def published(slots: int) -> Result:
    """What to compare with, where there is any."""
    tokens, seconds = PUBLISHED.get(slots, (None, None))
    return {
        "published_output_tokens_a_second": tokens,
        "published_requests_a_second": seconds and slots / seconds,
    }


# ---- the program ---------------------------------------------------------------------------------


def show(results: Result) -> None:
    """The table."""
    CONSOLE.print(f"{results['device']}, JAX {results['versions']['jax']}", highlight=False)
    table = Table("slots", "tokens/s", "requests/s", "seconds", "set-up s", "peak GiB")
    for slots, found in results["slots"].items():
        table.add_row(
            slots,
            *(cell(found, f"{each}_a_second") for each in ("output_tokens", "requests")),
            f"{found['seconds']:.2f}",
            f"{found['set_up_seconds']:.1f}",
            f"{found['peak_bytes'] / 2**30:.2f}",
        )
    CONSOLE.print(table)


def cell(found: Result, rate: str) -> str:
    """A rate, and the published one."""
    theirs = found[f"published_{rate}"]
    return f"{found[rate]:,.1f}" + (f" ({theirs:,.1f} published)" if theirs else "")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--slots", nargs="+", type=int, help="rows that are decoded at once")
    parser.add_argument("--prompts", type=int, help="different prompts; 64, or 5 of tiny ones")
    parser.add_argument("--batch", type=int, help="texts that are read at once; 32, or 2 tiny ones")
    parser.add_argument("--rounds", type=int, default=3, help="requests for each slot")
    parser.add_argument(
        "--limit_seconds", type=float, default=300, help="that an answer may take at the most"
    )
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    return parser.parse_args(argv)


def sizes_of(args: argparse.Namespace) -> Sizes:
    sizes = TINY if args.tiny else Sizes()
    return sizes._replace(
        slots=tuple(args.slots or sizes.slots),
        prompts=args.prompts or sizes.prompts,
        batch=args.batch or sizes.batch,
        rounds=args.rounds,
    )


def save(results: Result, output: Path | None) -> None:
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=1) + "\n")


def run(args: argparse.Namespace) -> Result:
    """All figures, written to a file as they come."""
    sizes = sizes_of(args)
    settings = {"config": shape("xl", args.tiny), "prompt": sizes.prompt}
    results: Result = {
        "command": command_line("benchmark_engine.py"),
        "machine": machine(),
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
        "device": jax.local_devices()[0].device_kind,
        "model": "tiny" if args.tiny else "T5 1.1 XL",
        "dtype": settings["config"]["dtype"],
        "sizes": sizes._asdict(),
        "slots": {},
    }
    model, shelf = model_and_prompts(settings, sizes.prompts)
    for slots in sizes.slots:
        found = measure(model, shelf, sizes, slots, args.limit_seconds)
        results["slots"][str(slots)] = found
        CONSOLE.print(f"{slots} slots: {found['output_tokens_a_second']:,.0f} tokens a second")
        save(results, args.output)
        gc.collect()  # the engine and its tables, which refer to each other
    return results


def main() -> None:
    args = parse_arguments()
    if args.tiny:
        jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as cache:
        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        results = run(args)
    show(results)


if __name__ == "__main__":
    main()
