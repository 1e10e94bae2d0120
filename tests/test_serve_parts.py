"""What the engine is made of: tables of any family's arrays, choices, the queue, the bank."""

import gc
import platform
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax import TunedPrompt
from prompt_tuning_jax.decoding import search
from prompt_tuning_jax.decoding.text import row_keys
from prompt_tuning_jax.serving import axes
from prompt_tuning_jax.serving import waiting as waiting_room
from prompt_tuning_jax.serving.bank import NOWHERE, Bank, Wanted, padded
from prompt_tuning_jax.serving.choosing import (
    MOST_TOLD,
    Wishes,
    choose,
    likeliest,
    mean_of_groups,
)
from prompt_tuning_jax.serving.requests import Classify, Generate, Overloaded, Sampling
from prompt_tuning_jax.serving.set_up import settle
from prompt_tuning_jax.serving.slots import Started, Text
from prompt_tuning_jax.serving.waiting import Job, Kind, Waiting

R, V = 6, 40
LOG_PROBS = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (R, V)))


def wishes(rows=R, **changes):
    return Wishes.of_nobody(rows)._replace(**changes)


# ---- choosing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, 1, 5, V, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.6, 1e-6])
def test_each_row_chooses_as_a_search_with_its_settings(top_k, top_p):
    """Beside rows with other wishes, of which one is greedy."""
    seed, index = 2**32 - 1, 3
    how = wishes(
        temperature=np.array([0.7, 0, 1.3, 0.7, 0.7, 2], np.float32),
        top_k=np.full(R, top_k, np.int32),
        top_p=np.full(R, top_p, np.float32),
        seed=np.full(R, seed, np.uint32),
        number=np.arange(R, dtype=np.int32),
    )
    found = jax.jit(choose)(LOG_PROBS, how, np.full(R, index, np.int32))
    keys = row_keys(seed, np.arange(R))
    for row, temperature in enumerate(how.temperature):
        chooser = search.greedy
        if temperature > 0 and top_k != 1:
            chooser = search.sampler(keys[row : row + 1], float(temperature), top_k, top_p)
        expected = chooser(LOG_PROBS[row : row + 1], jnp.int32(index))
        assert found[row] == expected[0]


def test_the_likeliest_are_found_where_any_row_wants_them():
    ids, values = jax.jit(likeliest)(LOG_PROBS, wishes(told=np.array([0, 0, 1, 0, 0, 0])))
    order = np.argsort(-np.asarray(LOG_PROBS), axis=1)[:, :MOST_TOLD]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(values, np.take_along_axis(np.asarray(LOG_PROBS), order, 1))
    _, values = jax.jit(likeliest)(LOG_PROBS, wishes())
    assert np.all(np.asarray(values) == -np.inf)


def test_a_group_has_its_mean_and_a_row_alone_itself():
    group = np.array([0, 1, 1, 3, 1, 5], np.int32)
    found = np.asarray(jax.jit(mean_of_groups)(LOG_PROBS, group))
    mean = np.asarray(LOG_PROBS)[[1, 2, 4]].mean(axis=0)
    np.testing.assert_allclose(found[[1, 2, 4]], np.stack([mean] * 3), rtol=1e-6)
    for row in (0, 3, 5):
        assert (found[row] == LOG_PROBS[row]).all()


# ---- tables --------------------------------------------------------------------------------------


def arrays(rows, length, value=0.0):
    """As a family may have them: rows first or after layers, positions anywhere, or neither."""
    return {
        "layers": jnp.full((2, rows, 3, length), value),
        "mask": jnp.full((rows, length), value != 0),
        "last": jnp.full((rows, 1), int(np.nan_to_num(value))),
    }


ROWS = axes.that_grow(arrays(2, 5), arrays(3, 5))
POSITIONS = axes.that_grow(arrays(2, 5), arrays(2, 6))


def test_the_axes_are_found():
    assert ROWS == {"layers": 1, "mask": 0, "last": 0}
    assert POSITIONS == {"layers": 3, "mask": 1, "last": axes.NONE}
    with pytest.raises(ValueError, match="several axes"):
        axes.that_grow(arrays(2, 5), arrays(3, 6))


def test_rows_are_put_at_their_places_and_nowhere_else():
    padding = arrays(1, 5)
    table = axes.table_of(padding, ROWS, 4)
    table = axes.put(table, arrays(2, 5, 7.0), ROWS, np.array([3, 1]))
    short = axes.extended(arrays(2, 2, 9.0), padding, ROWS, POSITIONS)
    table = axes.put(table, short, ROWS, np.array([1, 4]))
    assert table["mask"].tolist() == [
        [False] * 5,
        [True] * 2 + [False] * 3,
        [False] * 5,
        [True] * 5,
    ]
    assert table["last"][:, 0].tolist() == [0, 9, 0, 7]
    assert (table["layers"][:, 1, :, :2] == 9).all()
    assert (table["layers"][:, 1, :, 2:] == 0).all()  # nothing of what stood there
    assert (table["layers"][:, 3] == 7).all()
    assert (table["layers"][:, [0, 2]] == 0).all()


def test_what_is_extended_has_zeros_behind_it_or_what_padding_says():
    padding = arrays(1, 5, jnp.nan) | {"mask": jnp.ones((1, 5), bool)}
    longer = axes.extended(
        arrays(2, 3, 9.0) | {"mask": jnp.zeros((2, 3), bool)}, padding, ROWS, POSITIONS
    )
    assert jax.tree.map(jnp.shape, longer) == jax.tree.map(jnp.shape, arrays(2, 5))
    assert (longer["layers"][..., :3] == 9).all()
    assert (longer["layers"][..., 3:] == 0).all()
    assert longer["mask"].tolist() == [[0, 0, 0, 1, 1]] * 2
    assert longer["last"].tolist() == [[9], [9]]


def test_nothing_stays_of_what_stood_there():
    cache = axes.table_of(arrays(1, 5, jnp.nan), ROWS, 3)
    cache = axes.put(cache, arrays(2, 5), ROWS, np.array([2, 0]))
    assert (cache["layers"][:, [0, 2]] == 0).all()
    assert jnp.isnan(cache["layers"][:, 1]).all()


def test_a_part_of_a_table_is_taken_and_put_back():
    table = axes.table_of(arrays(1, 5, 1.0), ROWS, 4)
    part = axes.cut(axes.first(table, ROWS, 2), POSITIONS, 3)
    assert jax.tree.map(jnp.shape, part) == {"layers": (2, 2, 3, 3), "mask": (2, 3), "last": (2, 1)}
    changed = axes.put_first(table, jax.tree.map(jnp.zeros_like, axes.first(table, ROWS, 2)), ROWS)
    assert changed["last"][:, 0].tolist() == [0, 0, 1, 1]


# ---- the bank ------------------------------------------------------------------------------------


def prompt(value):
    return TunedPrompt(np.full((2, 3), float(value)))


def test_the_least_recently_used_prompt_leaves():
    array = np.zeros((2, 2, 3))
    written = []

    def write(prompts, places):
        array[places] = [one.values for one in prompts]
        written.extend(places.tolist())

    def held(*names):
        wanted = [Wanted(name, 0, prompt(ord(name))) for name in names]
        return [array[place, 0, 0] for place in bank.places_of(wanted, write)]

    bank = Bank(2)
    assert held("a", "b", "a") == [97, 98, 97]
    assert len(written) == 2
    assert held("a") == [97]
    assert len(written) == 2  # it was there
    assert held("c") == [99]  # in the place of b
    assert held("a") == [97]
    assert len(written) == 3
    assert held("b", "a") == [98, 97]
    with pytest.raises(ValueError, match="3 prompts at once"):
        held("a", "b", "c")
    other = bank.places_of([Wanted("a", 1, prompt(5))], write)
    assert array[other[0], 0, 0] == 5  # another version is another prompt
    bank.clear()
    assert len(bank) == 0


def test_prompts_are_written_a_few_at_once():
    """What is shorter is padded, and what is missing has no place."""
    prompts = [TunedPrompt(np.full((n, 3), float(n))) for n in (2, 1, 4)]
    (first, lengths, places), (last, *rest) = padded(prompts, np.array([5, 0, 7]), (1, 2), 4)
    assert (first.shape, last.shape) == ((2, 4, 3), (1, 4, 3))  # no more than are needed
    assert (lengths.tolist(), places.tolist()) == ([2, 1], [5, 0])
    assert first[0, :, 0].tolist() == [2, 2, 0, 0]
    assert last[0, :, 0].tolist() == [4] * 4
    assert [x.tolist() for x in rest] == [[4], [7]]
    ((_, lengths, places),) = padded(prompts[:1], np.array([3]), (2,), 4)
    assert (lengths.tolist(), places.tolist()) == ([2, 0], [3, NOWHERE])


def test_who_has_left_loses_nothing_with_a_step():
    def text():
        request = Generate(tokens=[1], prompts=(), tell=print, sampling=Sampling(max_tokens=1))
        return Text(request, 1, [0])

    gone, there = text(), text()
    gone.has_left = True
    assert Started([gone, there], None).requests() == [there.request]


def test_what_is_there_at_the_start_is_not_looked_through_again():
    settle()
    try:
        kept = gc.get_freeze_count()
        assert kept > len(gc.get_objects())
    finally:
        gc.unfreeze()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_the_start_freed_is_given_back():
    """A block that stays above it keeps freed memory with the process, unless glibc is told."""
    some = [bytes(1000) for _ in range(200_000)]
    held, kept = megabytes(), some[-1]
    del some
    try:
        settle()
        assert held - megabytes() > 100
    finally:
        gc.unfreeze()
    assert len(kept) == 1000


def megabytes():
    """Of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * 4096 / 2**20


# ---- the queue -----------------------------------------------------------------------------------


def job(length=16, members=1, label_length=None, name=""):
    given = {"tokens": [1], "prompts": (name,), "tell": print}
    if label_length is None:
        request = Generate(**given, sampling=Sampling(4))
    else:
        request = Classify(**given, labels=["a"])
    wanted = tuple(Wanted(str(i), 0, prompt(i)) for i in range(members))
    return Job(request, Kind(length, "full", label_length), wanted)


def test_the_oldest_goes_first_with_others_of_its_kind():
    waiting, jobs = Waiting(10), [job(16), job(32), job(16), job(32), job(16)]
    for each in jobs:
        waiting.add(each)
    assert waiting.next_batch((2,), slots=9) == [jobs[0], jobs[2]]
    assert waiting.next_batch((2,), slots=9) == [jobs[1], jobs[3]]
    assert waiting.next_batch((9,), slots=9) == [jobs[4]]
    assert waiting.next_batch((9,), slots=9) == []


def test_what_needs_no_slot_does_not_wait_for_one():
    waiting, generated, ranked = Waiting(10), job(), job(label_length=4)
    waiting.add(generated)
    waiting.add(ranked)
    assert waiting.next_batch((4,), slots=0) == [ranked]
    assert waiting.next_batch((4,), slots=0) == []
    assert waiting.next_batch((4,), slots=1) == [generated]


def test_an_ensemble_goes_whole():
    waiting, jobs = Waiting(10), [job(members=3), job(members=3), job()]
    for each in jobs:
        waiting.add(each)
    assert waiting.next_batch((5,), slots=9) == [jobs[0], jobs[2]]
    assert waiting.next_batch((5,), slots=2) == []
    assert waiting.next_batch((5,), slots=3) == [jobs[1]]


def test_shorter_texts_take_rows_that_would_be_padding():
    waiting, jobs = Waiting(10), [job(32), job(48), job(16), job(32), job(16, label_length=4)]
    for each in [*jobs, job(16), job(16)]:
        waiting.add(each)
    assert waiting.next_batch((4,), slots=9)[:3] == [jobs[0], jobs[3], jobs[2]]
    assert waiting.next_batch((4,), slots=1) == [jobs[1]]  # the one slot is the oldest's
    assert waiting.next_batch((2,), slots=9) == [jobs[4]]
    assert len(waiting.next_batch((4,), slots=9)) == len(waiting) + 1


def test_an_ensemble_waits_for_its_slots_while_shorter_texts_pass_others():
    waiting, jobs = Waiting(10), [job(32), job(16, members=3), job(16), job(16, label_length=4)]
    for each in jobs:
        waiting.add(each)
    assert waiting.next_batch((4,), slots=3) == [jobs[0]]
    assert waiting.next_batch((4,), slots=3) == [jobs[1]]
    assert waiting.next_batch((4,), slots=3) == [jobs[2]]
    assert waiting.next_batch((4,), slots=3) == [jobs[3]]
    jobs = [job(32, members=3), job(16)]  # the first has its slots: it keeps none from others
    for each in jobs:
        waiting.add(each)
    assert waiting.next_batch((4,), slots=4) == jobs


def test_fewer_go_where_most_would_be_padding():
    waiting, jobs = Waiting(30), [job() for _ in range(15)]
    for each in jobs:
        waiting.add(each)
    assert waiting.next_batch((1, 8, 32), slots=99) == jobs[:8]
    assert waiting.next_batch((1, 8, 32), slots=99) == jobs[8:]
    for each in jobs[:3]:
        waiting.add(each)
    assert waiting.next_batch((1, 8, 32), slots=99) == jobs[:1]
    assert waiting.next_batch((8, 32), slots=99) == jobs[1:3]
    waiting.add(ensemble := job(members=3))
    assert waiting.next_batch((1, 8, 32), slots=99) == [ensemble]


def test_an_ensemble_gets_its_slots_before_those_who_came_later():
    waiting, ensemble, single, ranked = Waiting(10), job(members=3), job(), job(label_length=4)
    for each in (ensemble, single, ranked):
        waiting.add(each)
    assert waiting.next_batch((8,), slots=2) == [ranked]
    assert waiting.next_batch((8,), slots=2) == []
    assert waiting.next_batch((8,), slots=4) == [ensemble, single]


def test_what_needs_no_slot_goes_when_others_have_left():
    waiting, generated, ranked = Waiting(10), job(), job(label_length=4)
    for each in (generated, ranked):
        waiting.add(each)
    assert waiting.remove(lambda request: request is generated.request) == [generated]
    assert waiting.next_batch((8,), slots=0) == [ranked]


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(waiting_room, "time", types.SimpleNamespace(monotonic=self.tell))

    def tell(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def paced(clock, **sort):
    """A queue whose jobs leave every two seconds; six still wait."""
    waiting = Waiting(100, longest=20)
    for _ in range(10):
        waiting.add(job(**sort))
    for _ in range(4):
        clock.passes(2)
        assert len(waiting.next_batch((1,), slots=1)) == 1
    return waiting


@pytest.mark.parametrize("sort", [{}, {"label_length": 4}])
def test_no_more_are_taken_than_go_in_time(clock, sort):
    waiting = paced(clock, **sort)
    for _ in range(5):  # behind ten it is twenty seconds
        waiting.add(job(**sort))
    with pytest.raises(Overloaded) as refused:
        waiting.add(job(**sort))
    assert refused.value.retry_after == 22
    other = {"label_length": None if sort else 4}
    waiting.add(job(**other))  # which pass the others, or are passed, and wait for nobody
    clock.passes(2)
    waiting.next_batch((1,), slots=1)
    waiting.add(job(**sort))


def test_a_request_may_have_more_texts_than_go_in_time(clock):
    waiting = paced(clock)
    for number in range(30):
        one = job()
        one.request.own = number
        waiting.add(one)
    with pytest.raises(Overloaded):
        waiting.add(job())


def test_nobody_is_taken_who_would_wait_in_vain(clock):
    waiting, late = paced(clock), job()
    late.request.deadline = clock.now + 11
    with pytest.raises(Overloaded):
        waiting.add(late)
    late.request.deadline = clock.now + 13
    waiting.add(late)


def test_a_pace_is_that_of_jobs_that_waited(clock):
    waiting = paced(clock)
    while waiting.next_batch((9,), slots=9):
        clock.passes(2)
    clock.passes(40)  # nobody waits: that nobody leaves says nothing
    for _ in range(14):
        waiting.add(job())
    waiting.next_batch((2,), slots=9)
    clock.passes(1)
    waiting.next_batch((2,), slots=9)
    for _ in range(4):
        waiting.add(job())
    assert len(waiting) == 14


def test_a_pace_is_forgotten(clock):
    waiting = paced(clock)
    clock.passes(61)
    for _ in range(50):
        waiting.add(job())


def test_a_full_queue_says_when_to_come_again():
    waiting = Waiting(2)
    waiting.add(job())
    waiting.add(job())
    with pytest.raises(Overloaded) as refused:
        waiting.add(job())
    assert 1 <= refused.value.retry_after <= 60
    assert len(waiting.remove(lambda request: True)) == 2
    assert len(waiting) == 0
