"""A program's time by its order: what runs beside work costs no more than it outlasts it."""

import gc
import weakref

import pytest

from prompt_tuning_jax.planning import hardware, hlo
from prompt_tuning_jax.planning.schedule import schedule

# A second is a cycle, and a byte on the links.
CHIP = hardware.Chip("test", memory=1, flops=1.0, bandwidth=1.0, ring=1.0, clock=1.0)

START = "%start.{1} = (s8[0], s8[{1}]) all-gather-start(%p), channel_id={1}"
DONE = "%done.{1} = s8[{1}] all-gather-done(%start.{1})"
ALL_AT_ONCE = "%all.{0} = s8[{1}] all-gather(%p), channel_id={1}"
SUM = "%sum.{0} = s8[{1}] all-reduce(%p), channel_id={1}"
WORK = '%work.{0} = s8[1] custom-call(%p), backend_config={{"estimated_cycles":"{1}"}}'
# As a TPU's compiler writes it: fusions start and end a collective, and it goes on within others.
FUSED_START = "%starts.{1} = s8[1] fusion(%p), calls=%starts_{1}"
FUSED_DONE = "%waits.{1} = s8[1] fusion(%p), calls=%waits_{1}"
GOES_ON = '%on = s8[1] fusion(%p), calls=%goes_on, backend_config={{"estimated_cycles":"{1}"}}'
FUSED = """
%starts_8 (p: s8[1]) -> s8[8] {
  %p = s8[1] parameter(0)
  %g = s8[8] all-gather(%p), channel_id=8
  ROOT %c = s8[8] custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%goes_on (p: s8[1]) -> s8[8] {
  %p = s8[1] parameter(0)
  ROOT %g = s8[8] all-gather(%p), channel_id=8
}

%waits_8 (p: s8[1]) -> s8[8] {
  %p = s8[1] parameter(0)
  %g = s8[8] all-gather(%p), channel_id=8
  ROOT %c = s8[8] custom-call(%g), custom_call_target="AsyncCollectiveDone"
}
"""


def program(*steps: str) -> hlo.Program:
    """Of lines in this order."""
    lines = [f"  {step}" for step in ("%p = s8[0] parameter(0)", *steps)]
    return hlo.Program("\n".join([FUSED, "ENTRY %main (p: s8[0]) -> s8[1] {", *lines, "}"]))


def line(form: str, seconds: int, name: str = "") -> str:
    return form.format(name, seconds)


@pytest.mark.parametrize(
    ("steps", "work", "links", "elapsed"),
    [
        ([(WORK, 3), (ALL_AT_ONCE, 5), (WORK, 2)], 5, 5, 10),
        ([(SUM, 5), (WORK, 2)], 2, 10, 12),  # twice around a ring
        ([(START, 5), (WORK, 3), (DONE, 5)], 3, 5, 5),
        ([(START, 5), (WORK, 8), (DONE, 5)], 8, 5, 8),
        ([(START, 5), (DONE, 5), (WORK, 8)], 8, 5, 13),
        ([(WORK, 8), (START, 5), (DONE, 5)], 8, 5, 13),
        ([(START, 5), (WORK, 2), (ALL_AT_ONCE, 4), (WORK, 1), (DONE, 5)], 3, 9, 10),
        ([(START, 5), (WORK, 2)], 2, 5, 5),  # nothing waits, but it is not over before
        ([(FUSED_START, 8), (GOES_ON, 6), (FUSED_DONE, 8), (WORK, 1)], 7, 8, 9),
        ([(FUSED_START, 8), (FUSED_DONE, 8), (GOES_ON, 6)], 6, 8, 14),
        ([(WORK, 2)], 2, 0, 2),
    ],
)
def test_collectives_beside_work(steps, work, links, elapsed):
    made = program(*(line(*step, str(i)) for i, step in enumerate(steps)))
    found = schedule(made, CHIP)
    assert (found.work, found.links, found.elapsed) == (work, links, elapsed)
    assert found.hidden == work + links - elapsed
    assert found.work == CHIP.seconds(made.kernels())


def test_the_links_carry_one_at_a_time():
    started = [line(START, 5), line(START, 4), line(WORK, 7)]
    ended = [line(DONE, 4), line(DONE, 5)]
    found = schedule(program(*started, *ended), CHIP)
    assert (found.links, found.elapsed, found.hidden) == (9, 9, 7)


def test_each_round_of_a_loop_waits_for_its_own():
    body = [line(START, 5), line(WORK, 3), line(DONE, 5)]
    text = f"""
%body (p: s8[0]) -> s8[0] {{
  %p = s8[0] parameter(0)
  {body[0]}
  {body[1]}
  ROOT {body[2]}
}}

ENTRY %main (p: s8[0]) -> s8[0] {{
  %p = s8[0] parameter(0)
  {line(WORK, 1)}
  ROOT %loop = s8[0] while(%p), body=%body, backend_config={{"known_trip_count":{{"n":"4"}}}}
}}
"""
    found = schedule(hlo.Program(text), CHIP)
    assert (found.work, found.links, found.elapsed) == (13, 20, 21)


def test_what_is_called_takes_its_time():
    text = f"""
%part (p: s8[0]) -> s8[0] {{
  %p = s8[0] parameter(0)
  ROOT {line(WORK, 4)}
}}

%gathers (p: s8[0]) -> s8[8] {{
  %p = s8[0] parameter(0)
  ROOT %g = s8[8] all-gather(%p), channel_id=1
}}

ENTRY %main (p: s8[0]) -> s8[0] {{
  %p = s8[0] parameter(0)
  %start = ((s8[0]), s8[8], u32[]) async-start(%p), calls=%gathers
  %one = s8[0] call(%p), to_apply=%part
  %two = s8[0] conditional(%p, %p, %p), true_computation=%part, false_computation=%gathers
  %done = s8[8] async-done(%start)
  ROOT {line(WORK, 1)}
}}
"""
    found = schedule(hlo.Program(text), CHIP)
    assert (found.work, found.links, found.elapsed) == (9, 8, 9)


@pytest.mark.slow
def test_nothing_is_kept_of_a_program_that_was_looked_at():
    made = program(line(WORK, 3))
    schedule(made, CHIP)
    kept = weakref.ref(made)
    del made
    gc.collect()
    assert kept() is None
