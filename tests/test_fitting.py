"""The form of a training step is chosen by what the compiler says that it takes."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tiny
from common import slow

from prompt_tuning_jax import FrozenModel, train, train_many
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training import fitting, trainers
from prompt_tuning_jax.training.compiled_step import needed_memory, step_and_shapes

CONFIG = TrainConfig(
    model_dir="unused", batch_size=8, prompt_length=6, feature_lengths={"inputs": 26, "targets": 4}
)


@pytest.fixture(scope="module")
def deep(vocabulary):
    network = tiny.make_config(vocabulary, num_encoder_layers=2)
    return FrozenModel(network, tiny.make_params(network))


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh("data:1", jax.devices()[:1])


@pytest.fixture(scope="module")
def needed(deep, mesh):
    """(policy, parts) -> bytes."""
    options = [("none", 1), ("minimal", 1), ("minimal", 2)]
    return {
        (policy, parts): fitting.needed_memory(
            dataclasses.replace(CONFIG, remat_policy=policy, microbatches=parts), deep, mesh
        )
        for policy, parts in options
    }


def chosen(deep, mesh, memory, **settings):
    config = dataclasses.replace(CONFIG, device_memory=memory / 2**30, **settings)
    return fitting.fit(config, deep, mesh)


@pytest.mark.slow
def test_each_form_takes_less_than_the_one_before(needed):
    assert needed["none", 1] > needed["minimal", 1] > needed["minimal", 2]


@pytest.mark.parametrize("form", [("none", 1), ("minimal", 1), ("minimal", 2)])
def test_the_first_that_fits_is_taken(deep, mesh, needed, form):
    found = chosen(deep, mesh, needed[form])
    assert (found.remat_policy, found.microbatches) == form
    assert found.needed == needed[form] == found.available
    assert chosen(deep, mesh, needed[form] - 1)[:2] != form


def test_where_none_fits_the_smallest_is_taken_and_said(deep, mesh):
    found = chosen(deep, mesh, 1100)
    assert found[:2] == ("full", 8)
    advice = "try a smaller batch_size, model_dtype=int8 or mesh=fsdp:-1"
    assert advice in fitting.told(CONFIG, deep, found)


def test_what_is_set_is_as_it_is_set(deep, mesh, needed):
    found = chosen(deep, mesh, needed["minimal", 2], remat_policy="minimal")
    assert found[:2] == ("minimal", 2)
    assert chosen(deep, mesh, 1100, remat_policy="minimal", microbatches=2)[:2] == ("minimal", 2)
    assert chosen(deep, mesh, 1100, microbatches=1)[:2] == ("full", 1)
    own = deep.replace(config=dataclasses.replace(deep.config, remat_policy="full"))
    assert chosen(own, mesh, 2**40)[:2] == ("full", 1)


def test_without_a_bound_nothing_is_compiled(deep, mesh, monkeypatch):
    monkeypatch.setattr(fitting, "needed_memory", None)
    assert fitting.fit(CONFIG, deep, mesh) == ("none", 1, None, None)


def test_devices_that_say_what_they_have_are_believed(deep, mesh, needed, monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": needed["minimal", 1] / fitting.USABLE + 10}

    told = type("Mesh", (), {"local_devices": [Device()]})
    assert needed["minimal", 1] <= fitting.available_memory(CONFIG, told) < needed["none", 1]


@pytest.mark.parametrize("kept", [None, "no JSON", "a file in the directory's place"])
def test_what_cannot_be_remembered_is_asked_anew(tmp_path, monkeypatch, kept):
    """A directory that is not there yet is made; one that cannot be made is done without."""
    file = tmp_path / "cache" / "step.json"
    if kept is not None:
        place = file if kept == "no JSON" else file.parent
        place.parent.mkdir(exist_ok=True)
        place.write_text(kept)
    step = types.SimpleNamespace(lower=lambda: None)
    monkeypatch.setattr(fitting, "step_and_shapes", lambda *_: (step, ()))
    monkeypatch.setattr(fitting, "_remembered", lambda *_: file)
    monkeypatch.setattr(fitting, "compile_if_it_fits", lambda _: ("compiled", 77))
    assert fitting.needed_memory(CONFIG, None, None) == 77
    assert file.is_file() == (kept in (None, "no JSON"))


@pytest.mark.slow
def test_what_the_compiler_said_is_remembered(deep, mesh, tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        first = chosen(deep, mesh, 2**30)
        monkeypatch.setattr(fitting, "compile_if_it_fits", None)
        assert chosen(deep, mesh, 2**30) == first
        with pytest.raises(TypeError):  # another step is asked for
            chosen(deep, mesh, 2**30, batch_size=16)
        with pytest.raises(TypeError):
            chosen(deep, mesh, 2**30, label_smoothing=0.1)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("copies", [None, slow(2)])
def test_the_shapes_are_those_that_the_step_is_called_with(model, tmp_path, monkeypatch, copies):
    settings = {
        "model": model,
        "feature_lengths": tiny.LENGTHS,
        "batch_size": 8,
        "prompt_length": 5,
        "train_steps": 1,
        "quiet": True,
        "task": tiny.make_task(),
        "model_dir": tmp_path / "run",
    }
    _, shapes = step_and_shapes(TrainConfig(**settings), model, sharding.make_mesh(), copies)
    called = []

    def kinds(arguments):
        """Without sizes: a batch is as long as its longest example."""
        leaves, structure = jax.tree.flatten(arguments)
        return structure, [(x.ndim, x.dtype) for x in leaves]

    def noting(make):
        def made(*arguments):
            step = make(*arguments)
            return lambda *given: (called.append(kinds(given)), step(*given))[1]

        return made

    for name in ("make_train_step", "make_stacked_step"):
        monkeypatch.setattr(trainers, name, noting(getattr(trainers, name)))
    if copies:
        train_many({"a": {}, "b": {"seed": 1}}, **settings)
    else:
        train(**settings)
    (structure, theirs), (expected, ours) = called[0], kinds(shapes)
    assert structure == expected
    assert theirs == ours


@pytest.mark.slow
def test_a_run_in_little_memory_is_the_same_run(model, tmp_path, capsys):
    settings = {
        "model": model,
        "feature_lengths": tiny.LENGTHS,
        "batch_size": 8,
        "prompt_length": 5,
        "train_steps": 2,
        "dropout_rate": 0.0,
        "task": tiny.make_task(),
    }
    plain = train(model_dir=tmp_path / "plain", **settings)
    assert "remat" not in capsys.readouterr().out
    small = train(model_dir=tmp_path / "small", device_memory=1e-5, **settings)
    assert "remat full, " in capsys.readouterr().out
    np.testing.assert_allclose(small.prompt.values, plain.prompt.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("Ran out of memory in memory space hbm. Used 215.17G of 31.25G hbm.", 215.17),
        ("the total memory required for HLO temporaries (400.00G) exceeds available HBM", 400),
        ("Used 512.00M of 15.75G hbm", 0.5),
        ("no numbers", 0),
    ],
)
def test_how_much_is_needed_is_read_from_the_refusal(message, gib):
    assert needed_memory(message) == pytest.approx(gib * 2**30, abs=1)
