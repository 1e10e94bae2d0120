"""Texts that are read together: laid out with their prompts, then ranked or given slots."""

from collections.abc import Iterator, Sequence

import numpy as np

from prompt_tuning_jax.evaluation.answers import ranked_answer
from prompt_tuning_jax.layout import place_prompts
from prompt_tuning_jax.serving.bank import Bank
from prompt_tuning_jax.serving.programs import Programs
from prompt_tuning_jax.serving.requests import Event, Failed, NotFinite, Ranked, Request
from prompt_tuning_jax.serving.shapes import IN_FRONT, fitting
from prompt_tuning_jax.serving.slots import Slots
from prompt_tuning_jax.serving.steps import Behind, Inputs, Rows
from prompt_tuning_jax.serving.waiting import Job


class Reader:
    """Reads batches of jobs of one kind."""

    def __init__(self, programs: Programs, slots: Slots):
        self._programs, self._slots = programs, slots
        self._bank, self._kept = (Bank(programs.shapes.prompts) for _ in range(2))

    @property
    def prompts(self) -> int:
        """How many prompts are on the devices, in rows of texts or in front of them."""
        return len(self._bank) + len(self._kept)

    def forget(self) -> None:
        """Nothing is on the devices any more."""
        self._bank.clear()
        self._kept.clear()

    def read(self, batch: Sequence[Job]) -> tuple[int, Iterator[tuple[Request, Event]]]:
        """How many rows there was room for, and the answers of those whose labels are ranked."""
        kind, rows = batch[0].kind, sum(job.rows for job in batch)
        size = fitting(self._programs.shapes.texts, rows)
        inputs = self._programs.read(self._laid_out(batch, size), kind.way)
        if kind.label_length is not None:
            return size, self._ranked(batch, inputs, size)
        self._place(batch, inputs, size)
        return size, iter(())

    def _laid_out(self, batch: Sequence[Job], size: int) -> Rows | Behind:
        """The texts of a batch, each once for each of its prompts, with room for these."""
        kind, shapes = batch[0].kind, self._programs.shapes
        is_behind = kind.way == IN_FRONT
        config, length = self._programs.model.config, kind.length
        length -= shapes.prompt_length if is_behind else 0
        wanted = [one for job in batch for one in job.prompts]
        bank, write = self._bank, self._programs.write
        if is_behind:
            bank, write = self._kept, self._programs.keep
        places = iter(bank.places_of(wanted, write) if wanted else ())
        tokens = np.full((size, length), config.pad_id, np.int32)
        nobody = shapes.prompts if is_behind else 0
        lengths, ids = np.zeros(size, np.int32), np.full(size, nobody, np.int32)
        layouts, row = ["prefix"] * size, 0
        for job in batch:
            for one in job.prompts or (None,):
                tokens[row, : len(job.request.tokens)] = job.request.tokens
                if one is not None:
                    lengths[row], layouts[row] = len(one.prompt.values), one.prompt.layout
                    ids[row] = next(places)
                row += 1
        if is_behind:
            return Behind(tokens, lengths, ids)
        # The rows are long enough already: no room is to be added.
        tokens, positions = place_prompts(tokens, lengths, layouts, 0, config.eos_id, config.pad_id)
        return Rows(tokens.astype(np.int32), positions.astype(np.int32), ids)

    def _place(self, batch: Sequence[Job], inputs: Inputs, size: int) -> None:
        nowhere = self._programs.shapes.slots[-1]
        slots: list[int] = []
        for job in batch:
            slots += self._slots.take(job.request, job.kind.length, job.rows).slots
        self._programs.place(
            inputs, np.pad(slots, (0, size - len(slots)), constant_values=nowhere).astype(np.int32)
        )

    def _ranked(
        self, batch: Sequence[Job], inputs: Inputs, size: int
    ) -> Iterator[tuple[Request, Event]]:
        """Scores labels, a few of each text at a time."""
        at_once, length = self._programs.shapes.labels, batch[0].kind.label_length
        most = max(len(job.labels) for job in batch)
        count = -(-most // at_once) * at_once
        labels = np.full((size, count, length), self._programs.model.config.pad_id, np.int32)
        firsts = np.cumsum([0, *(job.rows for job in batch)])
        for job, row in zip(batch, firsts, strict=False):
            own = np.asarray(job.labels)
            labels[row : row + job.rows, : len(own), : own.shape[1]] = own
        parts = np.split(labels, count // at_once, axis=1)
        scores = np.concatenate([self._programs.score(inputs, part) for part in parts], axis=1)
        for job, row in zip(batch, firsts, strict=False):
            own = scores[row : row + job.rows, : len(job.labels)]
            if np.isfinite(own).all():
                yield job.request, Ranked(ranked_answer(own, list(job.request.labels)))
            else:
                yield job.request, Failed(NotFinite())
