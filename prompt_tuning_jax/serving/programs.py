"""What the server runs on its devices: some programs, compiled at the start for all their shapes.

    write   prompts into the bank                                       whenever one is asked for
    keep    what texts see of prompts that see nothing of them          the same
    read    texts with their prompts, through the encoder (or the prefill)
    extend  what was read to a length that is kept
    place   what was read into slots of the table that decodes
    step    the next token of every slot
    score   labels after what was read

Nothing is compiled later: another shape is an error. Prompts, their lengths and layouts, and how
tokens are chosen are data.

R slots   B texts   S prompt and text   N prompts in the bank   C labels   L tokens
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.decoding.options import GenerationSettings
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import front_family_of
from prompt_tuning_jax.serving import axes, steps
from prompt_tuning_jax.serving.bank import padded
from prompt_tuning_jax.serving.choosing import Wishes
from prompt_tuning_jax.serving.shapes import IN_FRONT, Shapes, fitting
from prompt_tuning_jax.serving.steps import Behind, Inputs, Next, Rows, Standing, TableAxes
from prompt_tuning_jax.tuned_prompt import TunedPrompt


class Programs:
    """The programs of one model, and the state that they work on: the bank and the table of slots.

    Attributes:
      compiled: how many programs there are.
      keeps_fronts: whether texts are read behind prompts in front, which went through the layers
        as they came to the devices.
      plain: how texts without a prompt are read.
    """

    def __init__(self, model: FrozenModel, shapes: Shapes, how: GenerationSettings):
        self.model, self.shapes = model, shapes
        self.how = how._replace(max_length=shapes.max_tokens).of_model(model.config)
        self._found: dict[tuple, Callable] = {}
        self._shapes_read: dict[tuple[int, int], Any] = {}
        shapes.check(sharding.batch_parts_of(model.mesh))
        self.keeps_fronts = bool(shapes.front_lengths) and front_family_of(model.config) is not None
        is_causal = model.config.continues_inputs
        self.plain = IN_FRONT if self.keeps_fronts and is_causal else "full"
        self._axes = self._find_axes()
        self._homes = None if model.mesh is None else self._axes.homes(model.mesh)
        self.reset()

    @property
    def compiled(self) -> int:
        return len(self._found)

    def reset(self) -> None:
        """Empties the bank and the slots, whatever an error has left of them."""
        self._bank = self._fronts = self._table = self._cache = self._standing = None
        shapes, self._is_spoilt = self.shapes, False
        size = shapes.prompts, shapes.prompt_length, self.model.config.emb_dim
        self._bank = self._at_home("write", jnp.zeros(size, jnp.float32))
        if self.keeps_fronts:  # and one that nobody writes, for texts without a prompt
            room = self._fronts_of(shapes.prompts + 1)
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), room)
            self._fronts = self._at_home("keep", nothing)
        if self._found:
            self._make_table()

    @property
    def is_whole(self) -> bool:
        """Whether the state is there: a program that fails may have taken it with it."""
        state = self._bank, self._fronts, self._table, self._cache, self._standing
        is_gone = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        return not (self._is_spoilt or is_gone)

    # ---- running -------------------------------------------------------------------------------

    def write(self, prompts: Sequence[TunedPrompt], places: Int[np.ndarray, " n"]) -> None:
        """Puts prompts into places of the bank."""
        for values, _, some in padded(prompts, places, *self._prompts_at_once):
            self._bank = self._found["write", len(some)](self._bank, values, some)

    def keep(self, prompts: Sequence[TunedPrompt], places: Int[np.ndarray, " n"]) -> None:
        """Puts prompts through the layers, for texts behind them."""
        for given in padded(prompts, places, *self._prompts_at_once):
            program = self._found["keep", len(given[-1])]
            self._fronts = program(self.model.params, self._fronts, *given)

    @property
    def _prompts_at_once(self) -> tuple[Sequence[int], int]:
        """n, and P, of what is written."""
        return self.shapes.texts, self.shapes.prompt_length

    def read(self, rows: Rows | Behind, way: str) -> Inputs:
        """Reads texts: `Behind` prompts `IN_FRONT`, or rows whose prompts have a visibility.

        Returns:
          What is kept of them, as long as one of `shapes.kept_lengths`.
        """
        texts, length = rows.tokens.shape
        if isinstance(rows, Behind):
            length += self.shapes.prompt_length
        prompts = self._fronts if isinstance(rows, Behind) else self._bank
        inputs = self._found["read", texts, length, way](self.model.params, prompts, rows)
        if length in self.shapes.kept_lengths:
            return inputs
        return self._found["extend", texts, length](inputs, self._padding)

    def place(self, inputs: Inputs, slots: Int[np.ndarray, " B"]) -> None:
        """Puts texts that were read into slots; one that there is not is for no text."""
        program = self._found["place", *inputs.own[0].shape]
        state = self._table, self._cache, self._standing, self._padding
        self._table, self._cache, self._standing = program(self.model.params, *state, inputs, slots)

    def put(self, wishes: Wishes) -> Wishes:
        """Wishes on the devices."""
        return jax.device_put(wishes, self._homes and self._homes["put"])

    def step(self, length: int, wishes: Wishes) -> Next:
        """Starts to make the next token of each of the first R slots, and returns at once.

        Args:
          length: S, of which no text in these slots is longer.
          wishes: of these R, on the devices.

        Returns:
          Arrays on the devices, for `fetched`.
        """
        program = self._found["step", len(wishes.seed), length]
        state = self._table, self._cache, self._standing
        self._cache, self._standing, found = program(self.model.params, *state, wishes)
        for array in found:
            array.copy_to_host_async()
        return found

    def fetched(self, found: Any) -> Any:
        """What a program has made, as soon as it has.

        Raises:
          jax.errors.JaxRuntimeError: it failed, and so did all that was started after it.
        """
        try:
            return jax.tree.map(np.asarray, found)
        except Exception:
            self._is_spoilt = True
            raise

    def score(self, inputs: Inputs, labels: Int[np.ndarray, "B C L"]) -> Float[np.ndarray, "B C"]:
        """Log-probabilities of labels, each text's own, after texts that were read."""
        program = self._found["score", *inputs.own[0].shape, labels.shape[-1]]
        return self.fetched(program(self.model.params, inputs, labels))

    # ---- compiling -----------------------------------------------------------------------------

    def compile(self, ways: Iterable[str]) -> None:
        """All programs, and slots; prompts to be read in other ways need `compile_read` first."""
        fronts = [IN_FRONT] if self.keeps_fronts else []
        self.compile_read(self.plain, *fronts, *ways)
        self._make_table()
        self._compile(self._sizes())

    def compile_read(self, *ways: str) -> None:
        """What reads texts in these ways. Others may read meanwhile."""
        texts_and_ways = itertools.product(self.shapes.texts, ways)
        self._compile(
            ("read", (texts, length, way))
            for texts, way in texts_and_ways
            for length in self.shapes.lengths_of(way)
        )

    def reads(self, way: str) -> bool:
        """Whether there is a program for it."""
        return ("read", self.shapes.texts[-1], self.shapes.lengths[-1], way) in self._found

    def _sizes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        shapes = self.shapes
        for texts in shapes.texts:
            yield "write", (texts,)
            if self.keeps_fronts:
                yield "keep", (texts,)
        read = {*shapes.lengths, *(shapes.front_lengths if self.keeps_fronts else ())}
        for size in itertools.product(shapes.texts, sorted(read.difference(shapes.kept_lengths))):
            yield "extend", size
        for texts, length in itertools.product(shapes.texts, shapes.kept_lengths):
            yield "place", (texts, length)
            yield from (("score", (texts, length, each)) for each in shapes.label_lengths)
        yield from (("step", size) for size in itertools.product(shapes.slots, shapes.kept_lengths))

    def _compile(self, wanted: Iterable[tuple[str, tuple]]) -> None:
        """The programs that are not there yet, several at a time."""
        keys = dict.fromkeys((name, *sizes) for name, sizes in wanted)
        new = [key for key in keys if key not in self._found]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # beside which Python traces the next one
            compiling = {key: pool.submit(self._lowered(*key).compile) for key in new}
        self._found |= {key: done.result() for key, done in compiling.items()}

    def _lowered(self, name: str, *sizes: Any) -> jax.stages.Lowered:
        function, examples, donated = getattr(self, f"_{name}")(*sizes)
        home = {} if self._homes is None else {"out_shardings": self._homes[name]}
        # A step is mapped over its slots: within it there is one row.
        with sharding.active(self.model.mesh, split_rows=name != "step"):
            return jax.jit(function, donate_argnums=donated, **home).lower(*examples)

    def _write(self, count: int):
        values = np.zeros((count, *self._bank.shape[1:]), np.float32)

        def write(bank, values, places):
            return bank.at[places].set(values, mode="drop")

        return write, (self._bank, values, np.zeros(count, np.int32)), (0,)

    def _keep(self, count: int):
        of_fronts = axes.that_grow(self._fronts_of(2), self._fronts_of(3))
        keep = functools.partial(steps.keep, self.model.config, of_fronts)
        values = np.zeros((count, *self._bank.shape[1:]), np.float32)
        whole = np.zeros(count, np.int32)
        return keep, (self.model.params, self._fronts, values, whole, whole), (1,)

    def _read(self, texts: int, length: int, way: str):
        rows = self._blank(texts, length, way)
        if way == IN_FRONT:
            config = self.model.config
            read = functools.partial(steps.read_behind, config, self.shapes.prompt_length)
            return read, (self.model.params, self._fronts, rows), ()
        config = dataclasses.replace(self.model.config, prompt_visibility=way)
        return functools.partial(steps.read, config), (self.model.params, self._bank, rows), ()

    def _blank(self, texts: int, length: int, way: str) -> Rows | Behind:
        if way == IN_FRONT:
            length -= self.shapes.prompt_length
            return steps.blank_behind(self.model.config, texts, length)
        return steps.blank(self.model.config, texts, length)

    def _extend(self, texts: int, length: int):
        kept = fitting(self.shapes.kept_lengths, length)
        extend = functools.partial(steps.extend, self._axes, kept)
        return extend, (self._inputs_of(texts, length), self._padding), ()

    def _place(self, texts: int, length: int):
        place = functools.partial(steps.place, self.model.config, self.how, self._axes)
        state = self._table, self._cache, self._standing, self._padding
        inputs, slots = self._inputs_of(texts, length), np.zeros(texts, np.int32)
        return place, (self.model.params, *state, inputs, slots), (1, 2)

    def _step(self, slots: int, length: int):
        step = functools.partial(steps.step, self.model.config, self.how, self._axes, length)
        wishes = self.put(Wishes.of_nobody(slots))
        state = self._table, self._cache, self._standing
        return step, (self.model.params, *state, wishes), (2,)

    def _score(self, texts: int, length: int, label_length: int):
        score = functools.partial(steps.score, self.model.config)
        labels = np.zeros((texts, self.shapes.labels, label_length), np.int32)
        return score, (self.model.params, self._inputs_of(texts, length), labels), ()

    # ---- state ---------------------------------------------------------------------------------

    def _make_table(self) -> None:
        """Empty slots: each holds a text of padding alone."""
        longest, count = self.shapes.lengths[-1], self.shapes.slots[-1]
        rows = self._blank(self.shapes.texts[0], longest, self.plain)
        self._padding = axes.first(self.read(rows, self.plain), self._axes.inputs, 1)
        fresh = steps.fresh_cache(self.model.config, self.how, self.model.params, self._padding)
        table = axes.table_of(self._padding, self._axes.inputs, count)
        cache = axes.table_of(fresh, self._axes.cache, count)
        standing = Standing(*[jnp.zeros(count, jnp.int32)] * 2)
        state = table, cache, standing
        self._table, self._cache, self._standing = self._at_home("place", state)

    def _fronts_of(self, prompts: int) -> Any:
        of_model = self.model.config, self.model.params
        return steps.fronts_of(*of_model, prompts, self.shapes.prompt_length)

    def _at_home(self, name: str, tree: Any) -> Any:
        """What a program makes, where it would be."""
        return tree if self._homes is None else jax.device_put(tree, self._homes[name])

    def _inputs_of(self, texts: int, length: int) -> Any:
        """The shapes of what `read` gives, and where it is."""
        if (texts, length) not in self._shapes_read:
            shapes = self._trace_read(texts, length)
            if self._homes is not None:
                shapes = jax.tree.map(
                    lambda x, at: x.update(sharding=at), shapes, self._homes["read"]
                )
            self._shapes_read[texts, length] = shapes
        return self._shapes_read[texts, length]

    def _trace_read(self, texts: int, length: int) -> Any:
        config = self.model.config
        bank = jax.ShapeDtypeStruct((1, 1, config.emb_dim), jnp.float32)
        read = functools.partial(steps.read, config)
        return jax.eval_shape(read, self.model.params, bank, steps.blank(config, texts, length))

    def _find_axes(self) -> TableAxes:
        config = self.model.config
        two, three, longer = (self._trace_read(*size) for size in ((2, 6), (3, 6), (2, 7)))
        fresh = functools.partial(steps.fresh_cache, config, self.how)
        of_two, of_three = (jax.eval_shape(fresh, self.model.params, each) for each in (two, three))
        return TableAxes(
            axes.that_grow(two, three),
            axes.that_grow(two, longer),
            axes.that_grow(of_two, of_three),
        )
