"""`prompt-tuning export` and `import`: what is written, what is recorded, what is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import t5x_goldens
import tiny
from common import GOLDENS

from prompt_tuning_jax import load_model, load_prompt, save_prompt
from prompt_tuning_jax.checkpoints import t5x
from prompt_tuning_jax.commands import export_prompt, import_prompt

VALUES = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
ADAPTER = GOLDENS / "huggingface" / "peft_t5_v1_1_sub2"


@pytest.fixture
def prompt(tmp_path, model):
    """A prompt file for the tiny model."""
    vocabulary_hash = model.vocabulary.fingerprint
    facts = {"fingerprint": model.fingerprint, "vocabulary_hash": vocabulary_hash}
    return save_prompt(tmp_path / "prompt", VALUES, base_model="tiny", task="food", **facts)


@pytest.fixture
def printed(capsys):
    """Runs a command; the one line that it prints."""

    def run(main, *arguments):
        main([str(argument) for argument in arguments])
        (line,) = capsys.readouterr().out.splitlines()
        return line

    return run


class TestExport:
    def test_an_adapter(self, prompt, model, model_dir, tmp_path, printed):
        place = tmp_path / "adapter"
        line = printed(export_prompt.main, prompt, place, "--model", model_dir)
        assert line == f"{place}: a PEFT adapter, [5, 16], prefix, for {model_dir}"
        config = json.loads((place / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(model_dir)
        assert (config["num_layers"], config["num_attention_heads"]) == (1, 2)
        np.testing.assert_array_equal(load_prompt(place), VALUES)

    def test_the_models_name_for_peft(self, prompt, model_dir, tmp_path, printed):
        options = ("--model", model_dir, "--base_model", "google/t5-small", "--to", "peft")
        printed(export_prompt.main, prompt, tmp_path / "new", *options)
        assert load_prompt(tmp_path / "new").metadata["base_model"] == "google/t5-small"

    @pytest.mark.parametrize("options", [(), ("--to", "npy")])
    def test_an_array_needs_no_model(self, prompt, tmp_path, printed, options):
        line = printed(export_prompt.main, prompt, tmp_path / "new" / "p.npy", *options)
        assert line.endswith("p.npy: an array, [5, 16], prefix, for tiny")
        values = np.load(tmp_path / "new" / "p.npy")
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, VALUES)

    def test_an_array_is_fed_as_the_help_says(self, model, capsys):
        """Embeddings of the prompt, then of the input; here from a table that has these rows."""
        with pytest.raises(SystemExit):
            export_prompt.main(["--help"])
        assert "putting the array's rows before them" in capsys.readouterr().out
        table = np.array(model.embeddings)
        table[-5:] = VALUES
        tokens = np.array([[7, 9, 5, 1]], np.int32)
        rows = np.arange(len(table) - 5, len(table), dtype=np.int32)
        params = {**model.params, "token_embedder": {"embedding": table}}
        fed = model.replace(params=params).logits(
            np.concatenate([rows[None], tokens], axis=1), np.array([[0, 8]], np.int32)
        )
        expected = model.logits(tokens, np.array([[0, 8]], np.int32), VALUES)
        np.testing.assert_allclose(fed, expected, atol=1e-5)

    def test_names_contradict_the_form(self, prompt, tmp_path):
        with pytest.raises(ValueError, match=r"ends in \.npy; name it so"):
            export_prompt.main([str(prompt), str(tmp_path / "p"), "--to", "npy"])
        with pytest.raises(ValueError, match="a PEFT adapter is a directory"):
            export_prompt.main([str(prompt), str(tmp_path / "p.npy"), "--to", "peft"])

    def test_a_prompt_of_another_model(self, prompt, model_dir, tmp_path):
        other = tiny.save_model(tmp_path / "other", emb_dim=16, mlp_dim=24)
        command = [str(prompt), str(tmp_path / "new"), "--model", str(other)]
        with pytest.raises(ValueError, match="tuned for tiny"):
            export_prompt.main(command)
        with pytest.raises(ValueError, match="16 wide, the model 192"):
            export_prompt.main(command[:2])
        assert not (tmp_path / "new").exists()
        export_prompt.main([*command, "--allow_prompt_mismatch"])
        assert load_prompt(tmp_path / "new").metadata["base_model"] == str(other)

    def test_a_suffix_is_no_adapter(self, model_dir, tmp_path, printed):
        path = save_prompt(tmp_path / "p", VALUES, layout="suffix")
        with pytest.raises(ValueError, match="stands as 'suffix'"):
            export_prompt.main([str(path), str(tmp_path / "new"), "--model", str(model_dir)])
        assert ", suffix, " in printed(export_prompt.main, path, tmp_path / "p.npy")


class TestImport:
    def test_an_adapter(self, tmp_path, printed):
        base = GOLDENS / "huggingface" / "t5_v1_1"
        options = ("--model", base, "--task", "food", "--verbalizers", "very good", "bad")
        line = printed(import_prompt.main, ADAPTER, tmp_path / "new", *options)
        assert line == (
            f"{tmp_path / 'new'}: a prompt file, [5, 16], prefix, for {base}; 5 more rows, which "
            "PEFT never uses, are left out"
        )
        prompt, model = load_prompt(tmp_path / "new"), load_model(base)
        np.testing.assert_array_equal(prompt, load_prompt(ADAPTER))
        facts = prompt.metadata
        assert facts["base_model_fingerprint"] == model.fingerprint
        assert facts["base_model"] == str(base)
        assert facts["task"] == "food"
        assert facts["verbalizers"] == ["very good", "bad"]
        assert facts["peft_version"] == "0.21.2"
        assert "vocabulary_hash" not in facts  # this model has no vocabulary

    def test_another_model_than_its_file_names_is_said(self, tmp_path, printed):
        shutil.copytree(GOLDENS / "huggingface" / "t5_v1_1", tmp_path / "mine")
        line = printed(import_prompt.main, ADAPTER, tmp_path / "new", "--model", tmp_path / "mine")
        assert line.endswith("; its own file says for t5_v1_1")

    def test_a_bundled_models_directory_is_no_other_model(self, tmp_path, printed):
        printed(export_prompt.main, "bundled_topic", tmp_path / "peft", "--model", "bundled")
        line = printed(import_prompt.main, tmp_path / "peft", tmp_path / "p", "--model", "bundled")
        assert line == f"{tmp_path / 'p'}: a prompt file, [20, 192], prefix, for bundled"

    def test_a_bare_array(self, tmp_path, printed, model, model_dir):
        np.save(tmp_path / "p.npy", VALUES)
        options = ("--model", model_dir, "--prompt_layout", "suffix")
        printed(import_prompt.main, tmp_path / "p.npy", tmp_path / "new", *options)
        prompt = load_prompt(tmp_path / "new")
        assert prompt.layout == "suffix"
        assert prompt.metadata["vocabulary_hash"] == model.vocabulary.fingerprint

    def test_without_a_model(self, tmp_path, printed):
        np.save(tmp_path / "p.npy", VALUES)
        line = printed(import_prompt.main, tmp_path / "p.npy", tmp_path / "new")
        assert "for a model it does not name; give model" in line
        assert "base_model" not in load_prompt(tmp_path / "new").metadata

    def test_a_t5x_checkpoint(self, tmp_path, printed):
        weights = t5x_goldens.weights() | {"encoder/prompt/prompt": VALUES}
        source = t5x.save(tmp_path, weights, 9)
        printed(import_prompt.main, source, tmp_path / "new", "--model", source)
        prompt = load_prompt(tmp_path / "new")
        np.testing.assert_array_equal(prompt, VALUES)
        facts = prompt.metadata
        assert (facts["step"], facts["base_model"]) == (9, str(source))
        assert facts["base_model_fingerprint"] == load_model(source).fingerprint

    def test_there_and_back(self, prompt, model_dir, tmp_path, printed):
        printed(export_prompt.main, prompt, tmp_path / "there", "--model", model_dir)
        printed(import_prompt.main, tmp_path / "there", tmp_path / "back", "--model", model_dir)
        ours, back = load_prompt(prompt), load_prompt(tmp_path / "back")
        assert back.values.tobytes() == ours.values.tobytes()
        for fact in ("base_model_fingerprint", "vocabulary_hash", "values_sha256"):
            assert back.metadata[fact] == ours.metadata[fact]

    def test_visibility_is_told_and_not_lost(self, prompt, tmp_path, printed):
        save_prompt(tmp_path / "own", load_prompt(prompt), visibility="isolated")
        line = printed(export_prompt.main, tmp_path / "own", tmp_path / "p.npy")
        assert "prefix, isolated" in line
        options = ("--prompt_visibility", "isolated")
        printed(import_prompt.main, tmp_path / "p.npy", tmp_path / "back", *options)
        assert load_prompt(tmp_path / "back").visibility == "isolated"

    @pytest.mark.parametrize("options", [("--vocabulary", "x"), ("--allow_prompt_mismatch",)])
    def test_options_for_a_model_need_one(self, prompt, tmp_path, options):
        with pytest.raises(ValueError, match="go with a model"):
            import_prompt.main([str(prompt), str(tmp_path / "new"), *options])

    def test_what_the_source_says_of_its_use_counts(self, prompt, tmp_path):
        with pytest.raises(ValueError, match="tuned as 'prefix': leave out prompt_layout=suffix"):
            import_prompt.main([str(prompt), str(tmp_path / "new"), "--prompt_layout", "suffix"])

    def test_mistakes(self, prompt, tmp_path):
        with pytest.raises(FileNotFoundError, match="no prompt at"):
            import_prompt.main([str(tmp_path / "nowhere"), str(tmp_path / "new")])
        with pytest.raises(ValueError, match="a prompt file is a directory"):
            import_prompt.main([str(prompt), str(tmp_path / "new.npy")])
        other = GOLDENS / "huggingface" / "t5_v1_1"
        with pytest.raises(ValueError, match="tuned for tiny"):
            import_prompt.main([str(prompt), str(tmp_path / "new"), "--model", str(other)])
        assert not (tmp_path / "new").exists()

    def test_a_file_in_the_way(self, prompt, model_dir, tmp_path):
        (tmp_path / "file").touch()
        for main in (import_prompt.main, export_prompt.main):
            with pytest.raises(ValueError, match="is a directory: choose another name"):
                main([str(prompt), str(tmp_path / "file"), "--model", str(model_dir)])


@pytest.mark.slow
def test_the_command(tmp_path):
    """As a process: usage, and a mistake in one line."""
    command = [sys.executable, "-m", "prompt_tuning_jax", "export"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0
    assert "usage: prompt-tuning export" in helped.stdout
    failed = subprocess.run(
        [*command, "nowhere/p", str(tmp_path / "p.npy")], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert failed.stderr == "error: There is no prompt at nowhere/p.\n"
