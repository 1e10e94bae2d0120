"""Plans of other methods than a prompt: the step that `train` runs, what trains, useful flops."""

import dataclasses
import importlib.util
import json

import jax
import pytest
import tiny
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED_MODELS
from prompt_tuning_jax.commands import plan
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.params import PROMPT_FOLDER, PROMPT_NAME
from prompt_tuning_jax.planning import arithmetic, gpus, meshes, step, table
from prompt_tuning_jax.planning import plan as plans
from prompt_tuning_jax.planning.hardware import CHIPS, parse_slice
from prompt_tuning_jax.planning.models import model_config
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.parts.method import OF_LENGTH
from prompt_tuning_jax.training import trainers

# As --method is given -> the numbers that its README says train of the bundled model, P = 5.
BUNDLED = {
    "prompt": 5 * 192,
    "lora": 49_152,
    "ia3": 6_144,
    "prefix": 5 * 768,
    "bitfit": 13_440,
    "decoder_prompt": 5 * 192,
    "both_prompts": 10 * 192,
    "model": 4_574_400,
}
D, J, F, V, LAYERS, RANK = 16, 16, 32, 64, 3, 2
B, T, L, P = 4, 12, 6, 4
ENCODER, DECODER = LAYERS * (4 * D * J + 3 * D * F), LAYERS * (8 * D * J + 3 * D * F)
OUTPUT, OF_LORA = D * V, LAYERS * 6 * RANK * (D + J)


def small(**changes) -> T5Config:
    shape = {
        "vocab_size": V,
        "emb_dim": D,
        "num_heads": 2,
        "head_dim": 8,
        "mlp_dim": F,
        "num_encoder_layers": LAYERS,
        "num_decoder_layers": LAYERS,
    }
    return T5Config(**(shape | changes))


def lengths(method, **settings):
    """Those of a step of this method, and of other settings of `train`."""
    given = {"method": method, "dropout_rate": 0.0} | settings
    if method == "lora":
        given = {"lora_rank": RANK} | given
    prompt = P if method in OF_LENGTH else 100  # what is not said is as it is
    return step.Lengths(batch=B, inputs=T, targets=L, prompt=prompt, method=tuple(given.items()))


@pytest.mark.parametrize("method", BUNDLED)
def test_what_trains_of_the_bundled_model(method):
    config = dataclasses.replace(model_config(BUNDLED_MODELS["bundled"]), scan_layers=False)
    asked = lengths(method, **({"lora_rank": 8} if method == "lora" else {}))
    asked = dataclasses.replace(asked, prompt=5 if method in OF_LENGTH else 100)
    assert sum(step.trained_sizes(config, asked).values()) == BUNDLED[method]


@pytest.mark.parametrize(
    "method",
    ["lora", *(slow(method) for method in BUNDLED if method != "lora")],
)
@pytest.mark.usefixtures("one_device")
def test_the_planned_arguments_are_those_that_train_calls_its_step_with(
    method, model, tmp_path, monkeypatch
):
    called = []
    make = trainers.make_train_step

    def spied(*args):
        made = make(*args)

        def call(*arguments):
            called.append(jax.tree.map(lambda x: (x.shape, x.dtype), arguments[:3]))
            return made(*arguments)

        return call

    monkeypatch.setattr(trainers, "make_train_step", spied)
    run = tiny.short_run(model, tmp_path / "run", method=method, learning_rate=None, train_steps=1)
    if method not in OF_LENGTH:
        del run["prompt_length"]
    pt.train(**run)
    asked = dataclasses.replace(lengths(method), prompt=run.get("prompt_length", 100))
    if method == "lora":
        asked = dataclasses.replace(asked, method=(("method", method), ("dropout_rate", 0.0)))
    _, planned = step.abstract_step(model.config, asked)
    assert called[0] == jax.tree.map(lambda x: (x.shape, x.dtype), planned[:3])


EXPECTED = {
    "prompt": 4 * ((T + P) * ENCODER + L * (DECODER + OUTPUT)),
    # Its matrices [in, r] and [r, out], of queries and values in 3 attentions a layer, train.
    "lora": 4 * (T * ENCODER + L * (DECODER + OUTPUT))
    + 6 * LAYERS * 2 * RANK * (D + J) * (T + 2 * L),
    "ia3": 4 * (T * ENCODER + L * (DECODER + OUTPUT)),
    "bitfit": 4 * (T * ENCODER + L * (DECODER + OUTPUT)),
    # Nothing before the decoder trains, so nothing goes back through the encoder.
    "prefix": 2 * T * ENCODER + 4 * L * (DECODER + OUTPUT),
    "decoder_prompt": 2 * T * ENCODER + 4 * ((L + P) * DECODER + L * OUTPUT),
    "both_prompts": 4 * ((T + P) * ENCODER + (L + P) * DECODER + L * OUTPUT),
    "model": 6 * (T * ENCODER + L * (DECODER + OUTPUT)),
}


def useful(config, asked):
    sizes, trained = step.weight_sizes(config, asked), step.trained_sizes(config, asked)
    return arithmetic.useful_flops(sizes, config, asked, trained)


@pytest.mark.parametrize(
    "method", [x if x in ("prompt", "lora", "prefix") else slow(x) for x in EXPECTED]
)
def test_useful_flops_are_what_a_methods_gradients_need(method):
    """The step has these and, for attention and what only reads inputs, up to 0.4 more."""
    config, asked = small(), lengths(method)
    assert useful(config, asked) == B * EXPECTED[method]
    traced = meshes.traced_work(config, asked)[0].flops
    assert B * EXPECTED[method] < traced < 1.4 * B * EXPECTED[method]


def test_a_prefix_of_the_encoder_goes_back_through_it():
    both = lengths("prefix", prefix_stack="both")
    assert useful(small(), both) == B * EXPECTED["ia3"]


def test_a_tied_table_trains_where_the_model_does():
    tied = small(logits_via_embedding=True)
    assert useful(tied, lengths("model")) == B * EXPECTED["model"]


def test_what_a_device_keeps_is_counted_with_the_optimizers_state():
    whole = sum(step.weight_sizes(small(), lengths("model")).values())
    tuned = {
        name: step.held(small(), lengths("model", optimizer=name))
        for name in ("adafactor", "adamw")
    }
    assert {kept.weights for kept in tuned.values()} == {0}
    assert {kept.masters for kept in tuned.values()} == {4 * whole}
    assert tuned["adamw"].state == 2 * 4 * whole + 4  # two moments, and the step
    assert tuned["adafactor"].state < 2 * 4 * whole
    lora = step.held(small(dtype="bfloat16"), lengths("lora"))
    assert (lora.masters, lora.state) == (4 * OF_LORA, 2 * 4 * OF_LORA + 4)
    scales = 4 * LAYERS * 6  # alpha / r beside every product, which do not train
    assert lora.weights == 2 * whole + scales


def test_weights_that_train_are_split_over_devices_with_their_state():
    asked = lengths("model", optimizer="adamw")
    mesh = sharding.make_mesh("fsdp:2", jax.devices()[:2])
    one, two = step.held(small(), asked), step.held(small(), asked, mesh)
    assert one.masters / 2 <= two.masters < 0.6 * one.masters
    assert one.state / 2 <= two.state < 0.6 * one.state


def test_guesses_know_what_model_tuning_keeps_and_sends():
    def guess(method, **changes):
        return meshes.guess(small(), lengths(method), CHIPS["v5e"], meshes.Option(**changes))

    whole = 4 * sum(step.weight_sizes(small(), lengths("model")).values())
    more = guess("model", data=2).memory - guess("bitfit", data=2).memory
    assert more > 1.9 * whole  # the optimizer's state, and whole gradients on each device
    assert guess("model", fsdp=2).memory < guess("model", data=2).memory
    # Only where rows are split are gradients summed, and a prompt's are small.
    sent = {
        method: guess(method, data=2).seconds - guess(method).seconds / 2
        for method in ("model", "prompt")
    }
    assert sent["model"] == pytest.approx(2 * whole / CHIPS["v5e"].ring)
    assert sent["prompt"] < sent["model"] / 100


@pytest.fixture
def cpu_for_gpus(monkeypatch):
    """The CPU's compiler stands in for the GPUs'."""
    monkeypatch.setattr(gpus.Node, "devices", lambda node: jax.devices()[: node.count])
    monkeypatch.delenv(gpus.FRACTION_VARIABLE, raising=False)


SIZES = ["--batch_size=2", "--feature_lengths", "inputs=8", "targets=2", "--remat_policy=none"]


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_for_gpus")
@pytest.mark.parametrize(
    ("method", "mesh"),
    [
        ("--method lora --lora_rank 2", "data:1"),
        ("--prompt_length 0 --optimizer adamw", "fsdp:2"),
    ],
)
def test_a_plan_of_a_method_from_end_to_end(method, mesh, capsys, tmp_path, model_dir):
    file, count = tmp_path / "plan.json", mesh[-1]
    asked = ["--model", str(model_dir), "--gpu", f"h100:{count}", "--mesh", mesh, *SIZES]
    plan.main([*asked, *method.split(), "--output", str(file)])
    (made,) = json.loads(file.read_text())["plans"]
    assert made["fits"]
    assert made["useful_flops"] < made["flops"]
    # In place: what comes back is only the metrics, and what trains is among the arguments.
    assert made["outputs"] < 10_000
    batch = made["arguments"] - made["masters"] - made["state"]
    assert 0 < batch < 1_000
    name = "model" if "0" in method else "lora"
    assert made["method"] == name
    told = f"{name} trains {made['trained']:,} numbers; the model has {made['parameters']:,}."
    assert told in " ".join(capsys.readouterr().out.split())
    if name == "model":
        assert made["weights"] == 0
        assert made["trained"] == made["parameters"]
        gathered = made["collectives"]["all-gather"]["size"]
        assert gathered > 0.9 * 4 * made["parameters"]  # each lacks the half, at least twice


@pytest.mark.usefixtures("cpu_for_gpus")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("--method lora --scan_layers", "method=lora changes each layer by itself"),
        ("--prompt_length 0 --scan_layers", "With scan_layers only the prompt can train"),
        ("--method model --model_dtype int8", "With model_dtype=int8 only the prompt can train"),
        ("--lora_rank 4", "lora_rank is for method=lora"),
        ("--method ia3 --prompt_length 7", "method=ia3 has no prompt"),
        ("--method prefix --prompt_length 0", "method=prefix trains prompt_length vectors"),
        ("--method lora --lora_targets keys", "no layer of this network has a product 'keys'"),
        ("--model smollm2-135m --method decoder_prompt", "only a T5 takes a prompt before its"),
    ],
)
def test_what_train_would_refuse_is_refused_before_a_compilation(settings, words, monkeypatch):
    monkeypatch.setattr(plans, "compile_step", lambda *asked: pytest.fail("it compiles"))
    model = [] if "--model " in settings else ["--model", "small"]
    asked = parse(plan.CONFIG, [*model, "--gpu", "h100", *settings.split()], "", "")
    with pytest.raises(ValueError, match=words):
        next(plan.plans_of(asked))


@pytest.mark.parametrize("form", ["low_rank", "residual", "superposition"])
def test_another_form_of_the_prompt_is_planned_with_what_it_trains(form):
    """A prompt's own rows are as many; what makes them is of no layer, and no useful flops."""
    config, asked = small(), lengths("prompt", prompt_parameterization=form)
    step.check_step(config, asked)
    trained = step.trained_sizes(config, asked)
    assert PROMPT_NAME not in trained
    assert all(name.startswith(PROMPT_FOLDER) for name in trained)
    assert useful(config, asked) == B * EXPECTED["prompt"]


def test_by_default_the_planned_recipe_is_that_of_train():
    def of(*settings):
        asked = plan.lengths_for(parse(plan.CONFIG, ["--model", "small", *settings], "", ""))
        return asked.settings.dropout, asked.settings.averaging

    assert of() == (pt.TrainConfig().dropout, pt.TrainConfig().averaging) == (0.0, 0.95)
    assert of("--method", "lora") == of("--prompt_length", "0") == (0.1, 0.0)
    assert of("--dropout_rate", "0.1", "--average_decay", "0") == (0.1, 0.0)


def test_the_table_shows_what_trains_where_it_takes_memory():
    values = {
        "mesh": "data:1", "remat": "none", "devices": 1, "available": 2**34, "needed": 2**33,
        "weights": 1, "arguments": 1, "temporaries": 1, "flops": 10, "useful_flops": 5,
        "peak_flops": 1.0, "bandwidth": 1.0, "masters": 2**30, "state": 2**31,
    }  # fmt: skip
    column = table.COLUMNS.index("trained")
    large, small = plans.Plan(**values), plans.Plan(**values | {"masters": 400, "state": 400})
    assert table.cells(large)[column] == "3.00"
    assert column in table.told_columns([table.cells(large), table.cells(small)])
    assert column not in table.told_columns([table.cells(small)])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="need libtpu: pip install '.[plan]'"
)
def test_steps_compiled_for_tpus_keep_what_is_said(tmp_path):
    """The compiler's own sizes of the arguments; tiles pad what is small."""
    target = parse_slice("v5e:2x2")
    config = small(
        vocab_size=8192, emb_dim=512, head_dim=64, num_heads=8, mlp_dim=2048, dtype="bfloat16"
    )
    made = {}
    for method in ("lora", "model"):
        asked = dataclasses.replace(lengths(method), prompt=100)
        (made[method],) = plans.plan_target(config, asked, target, mesh="fsdp:4", remat="none")
    lora, model = made["lora"], made["model"]
    assert lora.fits
    assert model.fits
    assert lora.trained == LAYERS * 6 * RANK * 2 * 512
    assert lora.temporaries < lora.weights * 4  # of one device's part: no gradient of them
    assert (model.weights, model.trained) == (0, model.parameters)
    kept = model.masters + model.state
    assert kept < model.arguments < 1.1 * kept
    # Each device has a part of the masters: 4 bytes where a frozen weight takes 2.
    assert 1.8 * lora.weights < model.masters < 2.2 * lora.weights
    assert model.collectives["all-gather"].count > 0
    assert {"all-reduce", "reduce-scatter"} & model.collectives.keys()
    assert 1.3 * lora.useful_flops < model.useful_flops < 1.5 * lora.useful_flops
