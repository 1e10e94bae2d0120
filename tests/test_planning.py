"""What a plan's numbers are made of: compiled text, traced work, meshes, chips."""

import dataclasses
import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prompt_tuning_jax import optim
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES, t5_1_1
from prompt_tuning_jax.params import PROMPT_NAME
from prompt_tuning_jax.planning import arithmetic, hlo, step
from prompt_tuning_jax.planning import hardware as targets
from prompt_tuning_jax.planning import meshes as options
from prompt_tuning_jax.planning import plan as plans
from prompt_tuning_jax.planning.schedule import schedule

LENGTHS = step.Lengths(batch=4, inputs=12, targets=2, prompt=4)
CHIP = targets.CHIPS["v5e"]
# As a TPU's compiler writes it: a loop of 5 rounds, and in each a collective beside other work.
TPU_TEXT = """HloModule jit_step
%fused (p.0: bf16[4,8,16], p.1: s32[]) -> bf16[1,8,16] {
  %p.0 = bf16[4,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  ROOT %slice = bf16[1,8,16]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p.0, %p.1), dynamic_slice_sizes={1}
}

%goes_on (p: bf16[1,8,16]) -> bf16[2,8,16] {
  %p = bf16[1,8,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %again = bf16[2,8,16]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=4, dimensions={0}
}

%condition (c: (s32[], bf16[4,8,16])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %c = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %five), direction=LT
}

%body (b: (s32[], bf16[4,8,16])) -> (s32[], bf16[4,8,16]) {
  %b = (s32[]{:T(128)}, /*index=1*/bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %w = bf16[4,8,16]{2,1,0:T(8,128)(2,1)} get-tuple-element(%b), index=1
  %layer = bf16[1,8,16]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%fused, \
backend_config={"window_config":{"estimated_cycles":"70"}}
  %start = (bf16[1,8,16]{2,1,0}, bf16[2,8,16]{2,1,0}) all-gather-start(%layer), channel_id=4
  %beside = bf16[2,8,16]{2,1,0:T(8,128)(2,1)S(1)} fusion(%layer), kind=kCustom, calls=%goes_on
  %done = bf16[2,8,16]{2,1,0:T(8,128)(2,1)} all-gather-done(%start)
  ROOT %t = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) tuple(%i, %w)
}

ENTRY %main (a: (s32[], bf16[4,8,16])) -> (s32[], bf16[4,8,16]) {
  %a = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %n = f32[10]{0:T(256)} custom-call(), custom_call_target="AllocateBuffer"
  %r = f32[10]{0:T(256)} all-reduce(%n), to_apply=%sum, \
backend_config={"window_config":{"estimated_cycles":"3"}}
  ROOT %loop = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0:T(8,128)(2,1)}) while(%a), \
condition=%condition, body=%body
}
"""


def small(**changes) -> T5Config:
    shape = {
        "vocab_size": 64,
        "emb_dim": 16,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": 32,
        "num_encoder_layers": 3,
        "num_decoder_layers": 3,
        "scan_layers": True,
    }
    return T5Config(**(shape | changes))


def test_a_tpu_program_counts_loops_as_often_as_they_run():
    program = hlo.Program(TPU_TEXT)
    assert program.executions["body"] == 5
    assert program.cycles() == 5 * 70 + 3
    assert program.collectives() == {
        "all-reduce": hlo.Collective(1, 40),
        "all-gather": hlo.Collective(5, 5 * 512),
    }


def test_memory_traffic_counts_parts_and_main_memory_only():
    # A loop: 256 bytes of the slice and 4 of its index read, its result elsewhere; 512 bytes of
    # what was gathered. Outside: 40 bytes read and 40 written, none for the allocation.
    assert hlo.Program(TPU_TEXT).main_memory_traffic() == 5 * (256 + 4 + 512) + 80


def test_collectives_of_a_program_compiled_for_two_devices():
    mesh = sharding.make_mesh("data:2")
    split = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=split)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec("data"),
                       out_specs=PartitionSpec(), check_vma=False)  # fmt: skip
    def total(x):
        def once(x, _):
            return jax.lax.psum(jnp.sin(x), "data"), None

        x, _ = jax.lax.scan(once, x, None, length=7)
        return jax.lax.all_gather(x, "data")

    program = hlo.Program(jax.jit(total).lower(x).compile().as_text())
    assert program.collectives() == {
        "all-reduce": hlo.Collective(7, 7 * 4 * 16 * 4),
        "all-gather": hlo.Collective(1, 8 * 16 * 4),
    }
    times = schedule(program, CHIP)  # a sum goes round twice, and a CPU's waits for each
    assert times.links == pytest.approx((2 * 7 * 4 * 16 * 4 + 8 * 16 * 4) / CHIP.ring, rel=1e-12)
    assert times.hidden == 0


def test_compiled_loops_within_loops():
    def inner(x, _):
        return jnp.tanh(x @ x), None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=3)[0] + 1, None

    run = jax.jit(lambda x: jax.lax.scan(outer, x, None, length=4)[0])
    program = hlo.Program(run.lower(jnp.ones((16, 16))).compile().as_text())
    counts = [
        times
        for name, times in program.executions.items()
        if any(i.opcode == "dot" for i in program.computations[name].values())
    ]
    assert sum(counts) == 12


def test_work_is_that_of_the_matrix_products():
    def loss(w, x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ w), None), x, None, length=5)[0].sum()

    w, x = jnp.ones((8, 8)), jnp.ones((3, 8))
    forward = 5 * 2 * 3 * 8 * 8
    assert arithmetic.work_of(jax.make_jaxpr(loss)(w, x).jaxpr).flops == forward
    both = jax.make_jaxpr(jax.grad(loss, argnums=1))(w, x).jaxpr
    assert arithmetic.work_of(both).flops == 2 * forward
    assert arithmetic.work_of(both).traffic == 10 * (3 * 8 + 8 * 8 + 3 * 8) * 4


def test_peak_memory_of_a_chain_is_two_of_its_links():
    def chain(x):
        for _ in range(6):
            x = jnp.sin(x)
        return x

    jaxpr = jax.make_jaxpr(chain)(jnp.ones(100)).jaxpr
    assert arithmetic.peak_memory(jaxpr) == 2 * 400
    stored = jax.make_jaxpr(lambda x: jax.vjp(chain, x)[1](x))(jnp.ones(100)).jaxpr
    assert 6 * 400 <= arithmetic.peak_memory(stored) <= 9 * 400


@pytest.fixture(scope="module")
def traced():
    """The step's work and its peak memory for each remat policy."""
    configs = {policy: small(remat_policy=policy) for policy in REMAT_POLICIES}
    return {name: options.traced_work(config, LENGTHS) for name, config in configs.items()}


@pytest.mark.slow
def test_recomputing_costs_flops_and_saves_memory(traced):
    (none, minimal, full), alive = zip(*(traced[name] for name in REMAT_POLICIES), strict=True)
    assert none.flops < minimal.flops < full.flops < 1.6 * none.flops
    assert alive[0] > alive[1] > alive[2]


def test_frozen_weights_have_no_gradients(traced):
    """Without them a step is two thirds of model tuning's, but for attention's own products."""
    useful = arithmetic.useful_flops(sizes(small()), small(), LENGTHS)
    tuned = step.traced_step(small(), LENGTHS, rules=optim.model_rules())
    prompt, model = traced["none"][0].flops, arithmetic.work_of(tuned.jaxpr.jaxpr).flops
    assert useful < prompt < 1.35 * useful
    assert prompt + 0.45 * useful < model < prompt + 0.6 * useful


def sizes(config):
    return step.weight_sizes(config, LENGTHS)


def test_useful_flops_of_a_published_model():
    config = t5_1_1("xl", scan_layers=True)
    D, HK, F, V = 2048, 2048, 5120, 32128
    encoder = 24 * (4 * D * HK + 3 * D * F)
    decoder = 24 * (8 * D * HK + 3 * D * F) + D * V
    expected = 4 * 32 * (612 * encoder + 8 * decoder)
    assert arithmetic.useful_flops(sizes(config), config, step.Lengths()) == expected


def test_a_tied_output_layer_is_useful_too():
    tied = small(logits_via_embedding=True)
    useful = arithmetic.useful_flops(sizes(tied), tied, LENGTHS)
    assert useful == arithmetic.useful_flops(sizes(small()), small(), LENGTHS)


@pytest.fixture(scope="module")
def compiled():
    """The real step, compiled for two devices that share the weights."""
    mesh = sharding.make_mesh("fsdp:2")
    config = small()
    return config, mesh, step.traced_step(config, LENGTHS, mesh).lower().compile()


def test_the_compiled_step_holds_only_its_part_of_the_weights(compiled):
    config, mesh, made = compiled
    whole = step.held(config, LENGTHS).weights
    part = step.held(config, LENGTHS, mesh).weights
    assert whole / 2 <= part < 0.6 * whole  # the position biases stay whole
    memory = step._memory(made.memory_analysis(), config, LENGTHS, mesh)
    assert memory.total == sum(dataclasses.astuple(memory))
    assert 0 < memory.arguments < 20_000  # the prompt, its state and the batch


def test_the_step_updates_in_place_and_returns_nothing_as_large_as_a_weight(compiled):
    config, _, made = compiled
    state = LENGTHS.prompt * config.emb_dim * 4
    stats = made.memory_analysis()
    assert stats.alias_size_in_bytes >= 2 * state  # the prompt and its second moment
    assert stats.output_size_in_bytes - stats.alias_size_in_bytes < 200
    donated = made.args_info[0]
    assert all(leaf.donated for leaf in jax.tree.leaves(donated[:2]))
    assert not any(leaf.donated for leaf in jax.tree.leaves(donated[2:]))


def test_a_plan_says_what_the_program_does(compiled):
    config, mesh, made = compiled
    estimate = 'backend_config={"estimated_cycles":"10"}, metadata='
    text = made.as_text().replace("metadata=", estimate)
    memory = step.Memory(10, 20, 30, 40, 50)
    option = options.Option(fsdp=2)
    plan = plans.from_compiled(
        config,
        LENGTHS,
        CHIP,
        option,
        step.Compiled(text, memory, memory.total, 3.0),
        step.held(config, LENGTHS, mesh),
    )
    gathered = plan.collectives["all-gather"]
    weights = step.held(config, LENGTHS).weights
    assert 0.9 * weights < gathered.size < 3 * weights  # forward, and again backward
    assert plan.fits
    assert (plan.needed, plan.weights, plan.compile_seconds) == (150, 10, 3.0)
    assert plan.work_seconds == pytest.approx(plan.cycles / CHIP.clock, rel=1e-12)
    assert plan.cycles > 0
    reduced = plan.collectives["all-reduce"].size
    assert plan.link_seconds == pytest.approx((gathered.size + 2 * reduced) / CHIP.ring)
    at_peak = plan.useful_flops / (2 * CHIP.flops)
    assert plan.useful_share == pytest.approx(at_peak / plan.seconds)


def plan(needed, seconds, **changes):
    values = {
        "mesh": "data:1", "remat": "none", "devices": 1, "available": 100, "needed": needed,
        "weights": 1, "arguments": 1, "temporaries": 1, "flops": 10, "useful_flops": 5,
        "peak_flops": 10.0, "bandwidth": 10.0, "work_seconds": seconds, "compile_seconds": 1.0,
    }  # fmt: skip
    return plans.Plan(**values | changes)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"traffic": 9, "link_seconds": 0.9}, "products"),
        ({"traffic": 11, "link_seconds": 0.9}, "memory"),
        ({"traffic": 11, "link_seconds": 1.2}, "links"),
        ({"traffic": 9, "link_seconds": 0.9, "devices": 2}, "memory"),
    ],
)
def test_what_bounds_a_step_is_what_takes_longest_at_its_peak(changes, bound):
    assert plan(1, 5.0, **changes).bound == bound


def test_the_fastest_that_fits_is_recommended():
    one, two, three = plan(90, 2.0), plan(100, 1.0), plan(101, 0.5)
    assert plans.recommended([one, two, three]) is two
    assert plans.recommended([three]) is None
    assert plan(50, 1.0, link_seconds=3.0).useful_share == 5 / (10 * 4.0)
    assert plan(50, 1.0, link_seconds=3.0, hidden_seconds=2.0).useful_share == 5 / (10 * 2.0)
    assert not plan(0, 0.0).fits  # it did not, and did not say by how much


def test_meshes_are_all_even_splits():
    found = {one.mesh for one in options.meshes(8, batch=4, heads=6)}
    assert found == {"data:4,model:2", "fsdp:4,model:2", "data:2,fsdp:2,model:2"}
    assert [one.mesh for one in options.meshes(1, batch=3, heads=6)] == ["data:1"]
    with pytest.raises(ValueError, match="batch_size 5 divides over no mesh of 4"):
        options.meshes(4, batch=5, heads=3)


def test_a_mesh_that_splits_rows_unevenly_is_refused():
    mesh = sharding.make_mesh("data:2")
    assert options.only_mesh(mesh, 6) == options.Option(data=2)
    with pytest.raises(ValueError, match="batch_size 5 does not divide over the 2 devices"):
        options.only_mesh(mesh, 5)


@pytest.mark.slow
def test_what_is_too_large_to_copy_is_split():
    config, splits = small(), options.meshes(4, 4, 2)
    weights = step.held(config, LENGTHS).weights
    roomy = dataclasses.replace(CHIP, memory=100 * weights)
    first = options.likeliest(config, LENGTHS, roomy, splits)[0]
    assert first == options.Option(data=4)
    tight = dataclasses.replace(CHIP, memory=weights)
    guesses = options.likeliest(config, LENGTHS, tight, splits)
    assert guesses[0].fsdp * guesses[0].model > 1
    assert options.guess(config, LENGTHS, tight, options.Option(data=4)).memory > weights
    only = options.likeliest(config, LENGTHS, roomy, splits, ["full"])
    assert {option.remat for option in only} == {"full"}


def test_guesses_obey_the_obvious():
    def guess(**changes):
        return options.guess(small(), LENGTHS, CHIP, options.Option(**changes))

    assert guess(data=4).memory < guess(data=2).memory
    assert guess(fsdp=2).memory < guess(data=2).memory
    assert guess(fsdp=2).seconds > guess(data=2).seconds
    assert guess(data=2, remat="full").seconds > guess(data=2).seconds


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("v9:2x2", "there is v4, v5e, v5p, v6e, not 'v9'"),
        ("v5e", "2 sides, such as v5e:4x4"),
        ("v5e:4", "2 sides"),
        ("v4:2x2", "3 sides, such as v4:2x2x4"),
        ("v5e:0x4", "2 sides"),
    ],
)
def test_an_unknown_topology_is_refused(topology, words):
    with pytest.raises(ValueError, match=words):
        targets.parse_slice(topology)


def test_slices():
    one = targets.parse_slice("v4:2x2x4")
    assert (one.name, one.sides, one.chip) == ("v4:2x2x4", (2, 2, 4), targets.CHIPS["v4"])


def test_without_libtpu_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'prompt-tuning-jax\[plan\]'"):
        targets.parse_slice("v5e:2x2").devices()


def test_shapes_are_those_of_the_model():
    params = step.abstract_params(small(dtype=jnp.bfloat16), LENGTHS)
    assert {x.dtype for x in params.values()} == {jnp.dtype(jnp.bfloat16)}
    trainable, *_ = step.abstract_step(small(), LENGTHS)[1]
    assert [(name, x.shape, x.dtype) for name, x in trainable.items()] == [
        (PROMPT_NAME, (4, 16), np.float32)
    ]
    assert math.prod(params["encoder/encoder/mlp/wo/kernel"].shape) == 3 * 32 * 16
