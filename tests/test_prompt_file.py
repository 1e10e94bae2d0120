"""Prompt files: exact round trips, refusal of another model's prompt, errors, atomic writes."""

import hashlib
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from common import NEEDS_SHARED, shared_dir
from safetensors.numpy import save_file

from prompt_tuning_jax.checkpoints import prompt_file
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.tuned_prompt import TunedPrompt, check_compatible

VALUES = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
FACTS = {
    "base_model": "bundled",
    "fingerprint": "a" * 64,
    "vocabulary_hash": "b" * 64,
    "task": "sentiment",
    "verbalizers": ["good", "bad"],
    "step": 300,
    "scores": {"accuracy": 0.91},
}


@pytest.fixture
def saved(tmp_path):
    return save_prompt(tmp_path / "prompt", VALUES, layout="suffix", **FACTS)


def rewrite(path, **changes):
    facts = json.loads((path / "prompt.json").read_text()) | changes
    (path / "prompt.json").write_text(json.dumps(facts))


def test_round_trip_is_exact(saved):
    for path in (saved, str(saved), saved / "prompt.safetensors"):
        prompt = load_prompt(path)
        assert prompt.values.tobytes() == VALUES.tobytes()
        assert prompt.layout == "suffix"
        assert prompt.metadata["scores"] == {"accuracy": 0.91}
        assert prompt.metadata["base_model_fingerprint"] == "a" * 64


def test_json_says_what_the_prompt_is(saved):
    facts = json.loads((saved / "prompt.json").read_text())
    assert (facts["prompt_length"], facts["emb_dim"], facts["layout"]) == (5, 16, "suffix")
    assert facts["task"] == "sentiment"
    assert facts["verbalizers"] == ["good", "bad"]
    assert facts["library_version"]


def test_saving_a_loaded_prompt_keeps_what_is_known(saved, tmp_path):
    save_prompt(tmp_path / "copy", load_prompt(saved), step=400)
    copy = load_prompt(tmp_path / "copy")
    assert copy.metadata == load_prompt(saved).metadata | {"step": 400}
    assert copy.layout == "suffix"


def test_the_same_prompt_is_the_same_file(saved, tmp_path):
    save_prompt(tmp_path / "again", VALUES, layout="suffix", **FACTS)
    for name in ("prompt.safetensors", "prompt.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_numpy_array_file(tmp_path):
    path = save_prompt(tmp_path / "prompt.npy", VALUES)
    np.testing.assert_array_equal(np.load(path), VALUES)
    np.testing.assert_array_equal(load_prompt(path).values, VALUES)


def test_numpy_array_file_without_a_suffix(tmp_path):
    # As the reference writes them: named after the parameter.
    path = tmp_path / "encoder.prompt.prompt.prompt"
    with open(path, "wb") as file:
        np.save(file, VALUES)
    prompt = load_prompt(path)
    np.testing.assert_array_equal(prompt.values, VALUES)
    assert (prompt.layout, prompt.metadata) == ("prefix", {})


@pytest.fixture
def prebuilt(tmp_path, monkeypatch):
    """Two pre-built prompts, and a working directory without any."""
    monkeypatch.setattr(prompt_file, "PREBUILT", tmp_path / "bundled")
    for name in ("bundled_topic", "bundled_place"):
        save_prompt(tmp_path / "bundled" / name, VALUES, task=name)
    (tmp_path / "bundled" / "README.md").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


class TestPrebuilt:
    def test_by_name(self, prebuilt):
        assert load_prompt("bundled_topic").metadata["task"] == "bundled_topic"
        assert prompt_file.prebuilt_names() == ["bundled_place", "bundled_topic"]

    def test_what_is_there_goes_first(self, prebuilt):
        save_prompt("bundled_topic", VALUES, task="mine")
        assert load_prompt("bundled_topic").metadata["task"] == "mine"

    @pytest.mark.parametrize("name", ["bundled_topi", "topic"])
    def test_a_name_that_is_near(self, prebuilt, name):
        with pytest.raises(FileNotFoundError, match=rf"at {name}; did you mean bundled_topic\?"):
            load_prompt(name)

    def test_an_unknown_name(self, prebuilt):
        with pytest.raises(FileNotFoundError, match=r"mine\. .*bundled_place, bundled_topic\."):
            load_prompt("mine")

    @pytest.mark.parametrize("path", ["runs/bundled_topic", "./bundled_topic/best", "topic.npy"])
    def test_a_path_is_no_name(self, prebuilt, path):
        with pytest.raises(FileNotFoundError, match=r"There is no prompt at [\w/.]+\.$"):
            load_prompt(path)


def test_released_prompts():
    folder = shared_dir() and shared_dir() / "data/t5/released_prompts_lm100k_base"
    if not folder or not folder.is_dir():
        pytest.skip(NEEDS_SHARED)
    for path in folder.glob("*.npy"):
        assert load_prompt(path).shape == (100, 768)


def test_a_prompt_is_an_array(saved):
    prompt = load_prompt(saved)
    np.testing.assert_array_equal(np.asarray(prompt), VALUES)
    np.testing.assert_array_equal(jnp.asarray(np.asarray(prompt)), VALUES)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_any_float_becomes_float32(dtype):
    prompt = TunedPrompt(VALUES.astype(dtype))
    assert prompt.values.dtype == np.float32


def test_scores_may_be_numpy_or_nan(tmp_path):
    scores = {"accuracy": np.float32(0.5), "f1": float("nan"), "per_label": np.ones(2)}
    save_prompt(tmp_path / "p", VALUES, scores=scores, step=np.int64(3))
    found = load_prompt(tmp_path / "p").metadata
    assert found["scores"] == {"accuracy": 0.5, "f1": None, "per_label": [1.0, 1.0]}
    assert found["step"] == 3


class TestCompatible:
    def test_the_model_it_was_tuned_for(self, saved):
        check_compatible(
            load_prompt(saved), fingerprint="a" * 64, vocabulary_hash="b" * 64, emb_dim=16
        )

    @pytest.mark.parametrize(
        ("given", "reason"), [("fingerprint", "weights cccc"), ("vocabulary_hash", "vocabulary cc")]
    )
    def test_another_is_refused_unless_overridden(self, saved, given, reason):
        prompt = load_prompt(saved)
        with pytest.raises(ValueError, match=reason) as error:
            check_compatible(prompt, **{given: "c" * 64})
        assert "tuned for bundled" in str(error.value)
        assert "allow_prompt_mismatch=True" in str(error.value)
        check_compatible(prompt, **{given: "c" * 64}, allow_prompt_mismatch=True)

    def test_another_width_is_refused_always(self, saved):
        with pytest.raises(ValueError, match="16 wide, the model 8"):
            check_compatible(load_prompt(saved), emb_dim=8, allow_prompt_mismatch=True)

    def test_a_bare_array_says_nothing(self):
        check_compatible(TunedPrompt(VALUES), fingerprint="c" * 64, vocabulary_hash="d" * 64)


class TestWrongValues:
    @pytest.mark.parametrize("shape", [(16,), (2, 5, 16), (0, 16), (5, 0)])
    def test_shape(self, tmp_path, shape, wrong_arrays):
        with pytest.raises(ValueError, match=r"\[length, width\]"):
            save_prompt(tmp_path / "p", np.zeros(shape, np.float32))
        np.save(tmp_path / "p.npy", np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match=r"p\.npy"):
            load_prompt(tmp_path / "p.npy")

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_not_finite(self, tmp_path, bad):
        values = VALUES.copy()
        values[3, 3] = bad
        with pytest.raises(ValueError, match="NaN"):
            save_prompt(tmp_path / "p", values)
        assert not (tmp_path / "p").exists()
        np.save(tmp_path / "p.npy", values)
        with pytest.raises(ValueError, match=r"p\.npy holds NaN"):
            load_prompt(tmp_path / "p.npy")

    def test_integers(self, wrong_arrays):
        with pytest.raises(ValueError, match="floating-point"):
            TunedPrompt(np.zeros((5, 16), np.int32))

    def test_layout(self):
        with pytest.raises(ValueError, match="layout 'infix'"):
            TunedPrompt(VALUES, "infix")

    def test_an_unknown_layout_leaves_the_old_prompt(self, saved):
        with pytest.raises(ValueError, match="layout 'after-bos'"):
            save_prompt(saved, VALUES, layout="after-bos")
        np.testing.assert_array_equal(load_prompt(saved), VALUES)

    def test_facts_that_the_file_states_itself(self, saved):
        with pytest.raises(ValueError, match="states emb_dim itself"):
            save_prompt(saved, VALUES, emb_dim=3)

    def test_metadata_that_is_not_json(self, tmp_path):
        with pytest.raises(ValueError, match="JSON"):
            save_prompt(tmp_path / "p", VALUES, task=object())


class TestBrokenFiles:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load_prompt(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=r"prompt\.safetensors: pass a prompt's"):
            load_prompt(tmp_path)

    def test_the_directory_of_a_run(self, tmp_path):
        save_prompt(tmp_path / "run" / "best", VALUES)
        with pytest.raises(FileNotFoundError, match=r"run has no .*did you mean .*/run/best\?$"):
            load_prompt(tmp_path / "run")

    @pytest.mark.parametrize("keep", [0, 4, 100, -1])
    @pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.npy"])
    def test_cut_short(self, saved, name, keep):
        save_prompt(saved / "prompt.npy", VALUES)
        path = saved / name
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match=name):
            load_prompt(path)

    def test_one_bit_changed(self, saved):
        path = saved / "prompt.safetensors"
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="checksum"):
            load_prompt(saved)

    def test_a_pickle_is_never_read(self, tmp_path):
        np.save(tmp_path / "p.npy", np.array([{}]), allow_pickle=True)
        with pytest.raises(ValueError, match="unsafe"):
            load_prompt(tmp_path / "p.npy")

    def test_another_tensor_file(self, tmp_path):
        save_file({"weight": VALUES}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=r"other\.safetensors holds \['weight'\]"):
            load_prompt(tmp_path / "other.safetensors")

    def test_json_that_is_not(self, saved):
        for text in ("{", "[]"):
            (saved / "prompt.json").write_text(text)
            with pytest.raises(ValueError, match=r"prompt\.json"):
                load_prompt(saved)


class TestAtomic:
    def test_json_may_be_edited(self, saved):
        rewrite(saved, task="renamed")
        assert load_prompt(saved).metadata["task"] == "renamed"

    def test_json_may_be_missing(self, saved):
        (saved / "prompt.json").unlink()
        assert load_prompt(saved).metadata["task"] == "sentiment"

    def test_killed_between_the_two_files(self, saved, tmp_path):
        # New values beside the old JSON: the facts in the tensor file are the right ones.
        newer = save_prompt(tmp_path / "newer", VALUES + 1, step=600)
        os.replace(newer / "prompt.safetensors", saved / "prompt.safetensors")
        prompt = load_prompt(saved)
        np.testing.assert_array_equal(prompt.values, VALUES + 1)
        assert prompt.metadata["step"] == 600

    @pytest.mark.parametrize("writer", ["save_tensors", "_as_json"])
    def test_a_failed_write_leaves_the_old_prompt_and_no_litter(self, saved, writer, monkeypatch):
        before = {path.name: path.read_bytes() for path in saved.iterdir()}

        def fail(*args, **kwargs):
            raise OSError("disk full")

        monkeypatch.setattr(prompt_file, writer, fail)
        with pytest.raises(OSError, match="disk full"):
            save_prompt(saved, VALUES + 1)
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before

    def test_checksum_is_of_the_values(self, saved):
        facts = json.loads((saved / "prompt.json").read_text())
        assert facts["values_sha256"] == hashlib.sha256(VALUES.tobytes()).hexdigest()


def test_others_may_read_what_the_umask_allows(tmp_path):
    umask = os.umask(0o022)
    try:
        save_prompt(tmp_path / "prompt", np.zeros((2, 3), np.float32))
    finally:
        os.umask(umask)
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "prompt").iterdir()}
    assert modes == {0o644}


def test_what_a_killed_process_left_is_removed(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead, alive = (f".prompt.safetensors.partial-{pid}" for pid in (done.pid, os.getppid()))
    for name in (dead, alive):
        (tmp_path / name).touch()
    save_prompt(tmp_path, VALUES)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"prompt.safetensors", "prompt.json", alive}
