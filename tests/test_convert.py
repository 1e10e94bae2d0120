"""`prompt-tuning checkpoint`: T5X and Hugging Face, there and back, and what differs."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import t5x_goldens
import tiny
from common import GOLDENS, slow
from flax.traverse_util import flatten_dict

from prompt_tuning_jax import load_model, load_prompt, save_prompt
from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.checkpoints.compare import compare_models
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint
from prompt_tuning_jax.commands import checkpoint as checkpoint_command
from prompt_tuning_jax.commands import command

PROMPT = np.arange(48, dtype=np.float32).reshape(3, 16)


def run(*arguments) -> int:
    """The exit status."""
    try:
        command.run(lambda: checkpoint_command.main([str(argument) for argument in arguments]))
    except SystemExit as exit_:
        return exit_.code
    return 0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return t5x_goldens.unpack("orbax", tmp_path_factory.mktemp("orbax"))


class TestConvert:
    @pytest.mark.parametrize("name", [*t5x_goldens.FLOAT32, *t5x_goldens.BFLOAT16])
    def test_to_hugging_face(self, tmp_path, name, capsys):
        source = t5x_goldens.unpack(name, tmp_path)
        assert run("convert", source, tmp_path / "hf", "--to", "huggingface") == 0
        output = capsys.readouterr().out
        assert "52 matched, 0 missing" in output
        assert output.splitlines()[-1] == str(tmp_path / "hf")
        dtype = ml_dtypes.bfloat16 if name in t5x_goldens.BFLOAT16 else np.float32
        _, params, _ = huggingface.load(tmp_path / "hf", dtype)
        t5x_goldens.assert_same(params, t5x_goldens.weights(name))
        assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == str(
            np.dtype(dtype)
        )

    @pytest.mark.parametrize("form", t5x.FORMS)
    @pytest.mark.parametrize("name", [slow("t5_v1_0"), "t5_v1_1"])
    def test_there_and_back(self, tmp_path, name, form):
        source = GOLDENS / "huggingface" / name
        there, back = tmp_path / "t5x", tmp_path / "hf"
        assert run("convert", source, there, "--to", "t5x", "--form", form, "--step", 7) == 0
        assert open_checkpoint(there).path.endswith("checkpoint_7")
        assert run("convert", there, back, "--to", "huggingface") == 0
        models = [load_model(path) for path in (source, there, back)]
        tokens = np.array([[5, 9, 1, 0], [7, 1, 0, 0]], np.int32)
        logits = [model.logits(tokens, np.array([[0, 4], [0, 6]], np.int32)) for model in models]
        np.testing.assert_array_equal(logits[0], logits[1])
        np.testing.assert_array_equal(logits[0], logits[2])
        assert len({model.fingerprint for model in models}) == 1

    def test_the_bundled_model(self, tmp_path, capsys):
        assert run("convert", "bundled", tmp_path, "--to", "t5x") == 0
        assert run("diff", "bundled", tmp_path) == 0
        assert "70 leaves compared, 0 differ" in capsys.readouterr().out

    def test_a_hugging_face_model_in_another_dtype(self, tmp_path, model_dir, vocabulary):
        arguments = ("--to", "huggingface", "--model_dtype", "bfloat16")
        assert run("convert", model_dir, tmp_path / "hf", *arguments) == 0
        assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
        source, made = load_model(model_dir, ml_dtypes.bfloat16), load_model(tmp_path / "hf")
        assert made.vocabulary.fingerprint == vocabulary.fingerprint
        assert made.fingerprint == source.fingerprint

    def test_the_bundled_model_as_a_directory(self, tmp_path, capsys):
        assert run("convert", "bundled", tmp_path / "hf", "--to", "huggingface") == 0
        assert run("diff", "bundled", tmp_path / "hf") == 0
        assert "70 leaves compared, 0 differ" in capsys.readouterr().out

    def test_the_other_form_of_t5x(self, tmp_path, checkpoint):
        assert run("convert", checkpoint, tmp_path, "--to", "t5x", "--form", "legacy") == 0
        assert open_checkpoint(tmp_path).kind == "legacy"
        assert run("diff", checkpoint, tmp_path) == 0

    def test_dtype(self, tmp_path, checkpoint):
        arguments = ("--to", "huggingface", "--model_dtype", "bfloat16")
        assert run("convert", checkpoint, tmp_path / "hf", *arguments) == 0
        _, params, _ = huggingface.load(tmp_path / "hf", ml_dtypes.bfloat16)
        t5x_goldens.assert_same(params, t5x_goldens.weights("orbax_bfloat16"))

    def test_vocabulary(self, tmp_path, vocabulary):
        model_dir = tiny.save_model(tmp_path / "model", vocabulary)
        run("convert", model_dir, tmp_path / "t5x", "--to", "t5x")
        arguments = ("--to", "huggingface", "--vocabulary", model_dir / "spiece.model")
        assert run("convert", tmp_path / "t5x", tmp_path / "hf", *arguments) == 0
        assert load_model(tmp_path / "hf").vocabulary.fingerprint == vocabulary.fingerprint

    def test_activations(self, tmp_path, checkpoint, capsys):
        arguments = ("--to", "huggingface", "--activations")
        assert run("convert", checkpoint, tmp_path / "hf", *arguments, "silu", "linear") == 0
        assert load_model(tmp_path / "hf").config.mlp_activations == ("silu", "linear")
        assert run("convert", checkpoint, tmp_path / "relu", *arguments, "relu") == 1
        assert "MLP has 2 activation(s), not relu" in capsys.readouterr().err

    def test_a_model_that_t5x_does_not_have(self, tmp_path, model_dir, capsys):
        config, params, _ = huggingface.load(model_dir)
        huggingface.save(tmp_path / "hf", config, params)
        path = tmp_path / "hf" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"scale_decoder_outputs": True}))
        assert run("convert", tmp_path / "hf", tmp_path / "t5x", "--to", "t5x") == 1
        assert "T5X has no such T5" in capsys.readouterr().err
        assert not (tmp_path / "t5x").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--to", "t5x", "--vocabulary", "spiece.model"), "is for --to huggingface"),
            (("--to", "huggingface", "--step", "2"), "is for --to t5x"),
        ],
    )
    def test_options_that_would_do_nothing(self, tmp_path, checkpoint, arguments, message, capsys):
        assert run("convert", checkpoint, tmp_path / "out", *arguments) == 2
        assert message in capsys.readouterr().err

    def test_nothing_to_convert(self, tmp_path, capsys):
        for form in ("t5x", "huggingface"):
            assert run("convert", tmp_path / "none", tmp_path / "out", "--to", form) == 1
            assert f"There is no directory {tmp_path / 'none'}" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


class TestList:
    def test_parameters(self, checkpoint, capsys):
        assert run("list", checkpoint) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith("orbax T5X checkpoint, step 3, 52 leaves")
        assert lines[-1].split() == ["token_embedder/embedding", "[128,", "16]", "float32"]

    def test_everything(self, checkpoint, capsys):
        run("list", checkpoint, "--everything")
        output = capsys.readouterr().out
        assert "state/param_states/token_embedder/embedding/v " in output
        assert "target/token_embedder/embedding " in output


class TestExtract:
    def test_a_leaf(self, checkpoint, tmp_path):
        name = "encoder/layers_1/mlp/wo/kernel"
        assert run("extract", checkpoint, name, tmp_path / "new" / "x.npy") == 0
        np.testing.assert_array_equal(
            np.load(tmp_path / "new" / "x.npy"), t5x_goldens.weights()[name]
        )

    def test_a_bfloat16_leaf(self, tmp_path):
        source, name = t5x_goldens.unpack("legacy_bfloat16", tmp_path), "token_embedder/embedding"
        assert run("extract", source, f"target/{name}", tmp_path / "x.npy") == 0
        values = np.load(tmp_path / "x.npy")
        np.testing.assert_array_equal(values, t5x_goldens.weights("legacy_bfloat16")[name])

    def test_mistakes(self, checkpoint, tmp_path, capsys):
        assert run("extract", checkpoint, "encoder/none", tmp_path / "x.npy") == 1
        assert "no leaf target/encoder/none" in capsys.readouterr().err
        assert run("extract", checkpoint, "encoder/norm", tmp_path / "x") == 1
        assert "name it so" in capsys.readouterr().err
        assert not any(tmp_path.iterdir())

    def test_all_of_it_or_nothing(self, checkpoint, tmp_path, monkeypatch):
        def fail(file, values, allow_pickle):
            file.write(b"half")
            raise OSError("disk full")

        (tmp_path / "x.npy").write_bytes(b"before")
        monkeypatch.setattr(np, "save", fail)
        assert run("extract", checkpoint, "decoder/decoder_norm/scale", tmp_path / "x.npy") == 1
        assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [
            ("x.npy", b"before")
        ]


class TestDiff:
    def save(self, directory, **changes):
        weights = t5x_goldens.weights()
        for name, change in changes.items():
            weights[name] = change(weights[name])
        return t5x.save(directory, weights)

    @pytest.mark.parametrize("name", ["legacy", "scanned_legacy", "scanned_orbax"])
    def test_equal(self, tmp_path, checkpoint, name, capsys):
        assert run("diff", checkpoint, t5x_goldens.unpack(name, tmp_path)) == 0
        assert capsys.readouterr().out == "52 leaves compared, 0 differ\n"

    def test_between_formats(self, tmp_path, checkpoint):
        run("convert", checkpoint, tmp_path / "hf", "--to", "huggingface")
        assert run("diff", checkpoint, tmp_path / "hf") == 0
        assert run("diff", tmp_path / "hf", checkpoint) == 0

    def test_by_how_much(self, tmp_path, checkpoint, capsys):
        def nudge(x):
            x[0, 0] += 0.25
            return x

        other = self.save(tmp_path, **{"encoder/layers_1/mlp/wo/kernel": nudge})
        assert run("diff", checkpoint, other) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "52 leaves compared, 1 differ"
        assert lines[1].split() == [
            "encoder/layers_1/mlp/wo/kernel", "differs", "largest", "0.25", "mean", "0.000488",
        ]  # fmt: skip
        assert run("diff", checkpoint, other, "--tolerance", "0.3") == 0

    def test_leaves_and_shapes(self, tmp_path, checkpoint):
        weights = t5x_goldens.weights()
        del weights["encoder/encoder_norm/scale"]
        weights["decoder/decoder_norm/scale"] = np.ones(3, np.float32)
        weights["encoder/prompt/prompt"] = PROMPT
        found, compared = compare_models(str(checkpoint), str(t5x.save(tmp_path, weights)))
        assert compared == 53
        assert [(each.name, each.state) for each in found] == [
            ("decoder/decoder_norm/scale", "shape [16] | [3]"),
            ("encoder/encoder_norm/scale", "only in A"),
            ("encoder/prompt/prompt", "only in B"),
        ]

    def test_values_that_are_not_numbers(self, tmp_path):
        values = np.array([np.nan, np.inf, 1], np.float32)
        same = [t5x.save(tmp_path / name, {"a": values}) for name in "ab"]
        assert run("diff", *same) == 0
        other = t5x.save(tmp_path / "c", {"a": np.array([1, np.inf, 1], np.float32)})
        assert run("diff", same[0], other) == 1

    def test_everything(self, tmp_path, checkpoint, capsys):
        legacy = t5x_goldens.unpack("legacy", tmp_path)
        assert run("diff", checkpoint, legacy, "--everything") == 0
        bare = self.save(tmp_path / "bare")
        assert run("diff", checkpoint, bare) == 0
        assert run("diff", checkpoint, bare, "--everything") == 1
        assert "state/param_states/encoder/encoder_norm/scale/v" in capsys.readouterr().out

    def test_mistakes_are_no_difference(self, tmp_path, checkpoint, model_dir, capsys):
        for arguments in ((tmp_path / "nowhere",), (model_dir, "--everything")):
            assert run("diff", checkpoint, *arguments) == 1
            captured = capsys.readouterr()
            assert captured.out == ""
            assert captured.err.startswith("error: ")


def test_recreates_the_checkpoint_of_a_prompt(tmp_path, checkpoint):
    """Base and prompt file together are the checkpoint that training wrote."""
    trained = t5x.save(tmp_path, t5x_goldens.weights() | {"encoder/prompt/prompt": PROMPT}, 12)
    save_prompt(tmp_path / "prompt", load_prompt(trained))
    run("add-prompt", checkpoint, tmp_path / "prompt", tmp_path / "again", "--step", 12)
    assert run("diff", trained, tmp_path / "again" / "checkpoint_12") == 0


@pytest.mark.slow
def test_the_command():
    """As a process: usage, and a mistake in one line."""
    command = [sys.executable, "-m", "prompt_tuning_jax", "checkpoint"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0
    for name in ("convert", "list", "extract", "diff", "add-prompt"):
        assert name in helped.stdout
    failed = subprocess.run([*command, "list", "nowhere"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: There is nothing at ")
    assert failed.stderr.count("\n") == 1


def test_a_file_is_told_from_a_checkpoint(tmp_path, capsys):
    file = tmp_path / "spiece.model"
    file.touch()
    for arguments in (("list", file), ("diff", "bundled", file)):
        assert run(*arguments) == 1
        assert f"{file} is a file" in capsys.readouterr().err


def test_conversion_reads_one_weight_at_a_time(tmp_path, checkpoint):
    _, weights = t5x.load_lazily(checkpoint)
    flat = flatten_dict(weights, sep="/")
    assert not any(isinstance(weight, np.ndarray) for weight in flat.values())
    np.testing.assert_array_equal(
        np.asarray(flat["token_embedder/embedding"]),
        t5x_goldens.weights()["token_embedder/embedding"],
    )
