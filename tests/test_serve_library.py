"""The prompts of a server: names, memory, uploads, and what a folder of others' holds."""

import io
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from prompt_tuning_jax import load_prompt, save_prompt
from prompt_tuning_jax.checkpoints.prompt_file import read_header
from prompt_tuning_jax.serving.library import Conflict, PromptLibrary, UnknownPrompt, Unusable
from prompt_tuning_jax.serving.library.description import check_name

WIDTH = 16


def values(seed=0, length=3, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)


def tensors(array, **facts):
    text = {"prompt": json.dumps(facts)} if facts else None
    return save({"prompt": array}, text)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, model):
    """A run, a prompt beside it, an array, and a prompt of another model."""
    for step in ("best", "last", "prompts/0"):
        save_prompt(tmp_path / "run" / step, values(1), task="food", verbalizers=["yes", "no"])
    save_prompt(
        tmp_path / "deep" / "own",
        values(2, length=2),
        layout="suffix",
        input_template="food: {text}",
        missing="empty",
        **model.identity,
    )
    save_prompt(tmp_path / "bare.npy", values(3))
    save_prompt(tmp_path / "other", values(4), fingerprint="0" * 64)
    save_prompt(tmp_path / "long", values(5, length=9))
    return tmp_path


def open_library(folder, model, memory=2**20):
    return PromptLibrary(folder, model, max_prompt_length=8, memory=memory)


@pytest.fixture
def library(folder, model):
    return open_library(folder, model)


def test_what_fits_is_found_and_the_rest_is_told(library):
    assert library.names() == ("bare.npy", "deep/own", "run")
    other, long = sorted(library.notes, reverse=True)
    assert "other is left out" in other
    assert "not the model given" in other
    assert "9 rows" in long


def test_descriptions(library):
    run = library.describe("run")
    assert (run.length, run.width, run.layout, run.task) == (3, WIDTH, "prefix", "food")
    assert run.labels == ("yes", "no")
    assert run.source == "run/best"
    own = library.describe("deep/own")
    assert (own.layout, own.input_template, own.missing) == ("suffix", "food: {text}", "empty")
    assert library.describe("base").length == 0
    assert not run.uploaded


def test_prompts_of_another_model_where_they_are_allowed(folder, model):
    library = PromptLibrary(
        folder, model, max_prompt_length=8, memory=2**20, allow_prompt_mismatch=True
    )
    assert "other" in library.names()
    model.prompted(library.get("other"))  # which refuses another model's


def test_members(library):
    assert library.members("base") == ()
    assert library.members("run") == ("run",)
    with pytest.raises(UnknownPrompt, match=r"deep/ow'; did you mean deep/own\?"):
        library.members("deep/ow")


def test_values_are_read_when_they_are_wanted_and_then_kept(library, folder):
    first = library.get("run")
    np.testing.assert_array_equal(first.values, values(1))
    assert library.get("run") is first
    np.testing.assert_array_equal(library.get("deep/own").values, values(2, length=2))


def test_memory_is_bounded_by_the_last_used(folder, model):
    one = values().nbytes
    library = open_library(folder, model, memory=2 * one)
    run, _ = library.get("run"), library.get("bare.npy")
    assert library.get("run") is run
    library.get("deep/own")  # smaller than the room that bare.npy gives up
    assert library.get("run") is run
    assert library._bytes <= 2 * one
    small = open_library(folder, model, memory=1)
    np.testing.assert_array_equal(small.get("run").values, values(1))
    assert small._bytes == 0


def test_a_header_says_what_the_file_says(folder):
    for name in ("run/best", "deep/own", "bare.npy"):
        header, prompt = read_header(folder / name), load_prompt(folder / name)
        assert header.shape == prompt.shape
        assert (header.layout, header.visibility) == (prompt.layout, prompt.visibility)
        assert header.metadata == prompt.metadata


def test_a_header_is_not_that_of_an_earlier_prompt(tmp_path):
    """A kill between the two files leaves the old JSON beside new values."""
    save_prompt(tmp_path / "p", values(1), task="old")
    old = (tmp_path / "p" / "prompt.json").read_bytes()
    save_prompt(tmp_path / "p", values(2), task="new")
    (tmp_path / "p" / "prompt.json").write_bytes(old)
    assert read_header(tmp_path / "p").metadata["task"] == "new"
    # One that a person edited is for these values.
    save_prompt(tmp_path / "p", values(2), task="new")
    text = (tmp_path / "p" / "prompt.json").read_text()
    (tmp_path / "p" / "prompt.json").write_text(text.replace('"new"', '"edited"'))
    assert read_header(tmp_path / "p").metadata["task"] == "edited"
    assert load_prompt(tmp_path / "p").metadata["task"] == "edited"


def test_uploads(library, folder, model):
    facts = {"task": "sent", "verbalizers": ["yes", "no"], "layout": "suffix"}
    made = library.add("sent", tensors(values(6), **facts), "safetensors")
    assert made == library.describe("sent")
    assert (made.task, made.layout, made.uploaded) == ("sent", "suffix", True)
    np.testing.assert_array_equal(library.get("sent").values, values(6))
    version = library.version("sent")
    library.add("sent", npy(values(7)), "npy")
    assert library.version("sent") != version
    np.testing.assert_array_equal(library.get("sent").values, values(7))
    # Another server, or this one started again, finds the same.
    again = open_library(folder, model)
    assert again.describe("sent") == library.describe("sent")
    again.remove("sent")
    assert not (folder / "sent").exists()
    assert "sent" in library.names()
    library.reload()
    assert "sent" not in library.names()
    with pytest.raises(UnknownPrompt):
        library.version("sent")


@pytest.mark.parametrize(
    ("content", "form", "says"),
    [
        (tensors(values(width=8)), "safetensors", "8 wide"),
        (tensors(values(length=9)), "safetensors", "9 rows"),
        (tensors(values() * np.nan), "safetensors", "finite"),
        (tensors(values(), base_model_fingerprint="0" * 64), "safetensors", "not the model given"),
        (tensors(values(), layout="sideways"), "safetensors", "layout"),
        (tensors(values(), verbalizers=[" "]), "safetensors", "verbalizer"),
        (tensors(values(), input_template="{a.b[0]!r}"), "safetensors", "emplate"),
        (tensors(values(), input_template=3), "safetensors", "must be text"),
        (tensors(values(), scores={"\ud800": [1]}), "safetensors", "half a character"),
        (save({"weights": values()}), "safetensors", "not a tensor named"),
        (tensors(values())[:-8], "safetensors", "cut short"),
        (b"\xff" * 64, "safetensors", "What was sent is neither"),
        (b"", "safetensors", "What was sent"),
        (npy(values()), "safetensors", "no safetensors file"),
        (tensors(values()), "npy", "no npy file"),
        (npy(np.array([[{}]], object)), "npy", "unsafe"),
        (npy(values())[:-4], "npy", "corrupt"),
        (npy(np.ones((2, WIDTH), int)), "npy", "floating"),
    ],
)
def test_what_is_no_prompt_of_this_model_is_not_placed(library, folder, content, form, says):
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=says) as caught:
        library.add("sent", content, form)
    assert "/tmp" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    (
        "../out|..|.||/etc/x|a/b|a\0b|a\\b|.hidden|base|nearest|reload|a b|é|a\n|-rf|~root|a?b|%2e|"
        + "x" * 201
    ).split("|"),
)
def test_names_that_leave_the_folder_or_a_url(library, name):
    with pytest.raises(ValueError, match="cannot be a prompt's name"):
        library.add(name, tensors(values()), "safetensors")
    with pytest.raises(ValueError, match="cannot be a prompt's name"):
        library.add_ensemble(name, ["run", "deep/own"])


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_legal_name_stays_below_its_folder(name):
    try:
        check_name(name)
    except ValueError:
        return
    assert (Path("/folder") / name).resolve().is_relative_to("/folder")
    assert quote(name, safe="/+") == name


def test_what_others_made_is_not_replaced_and_not_deleted(library, folder, tmp_path_factory):
    content = tensors(values(6))
    before = sorted(folder.rglob("*"))
    for name, says in (("run", "replaces nothing"), ("other", "something else")):
        with pytest.raises(Conflict, match=says):
            library.add(name, content, "safetensors")
    with pytest.raises(Conflict, match="deletes nothing"):
        library.remove("run")
    with pytest.raises(Conflict, match="model itself"):
        library.remove("base")
    assert sorted(folder.rglob("*")) == before
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "link").symlink_to(elsewhere)
    (folder / "two.ensemble.json").symlink_to(elsewhere / "file")
    with pytest.raises(Conflict, match="is a link"):
        library.add("link", content, "safetensors")
    with pytest.raises(Conflict, match="is a link"):
        library.add_ensemble("two", ["run", "bare.npy"])
    assert list(elsewhere.iterdir()) == []


def test_what_another_server_was_sent_may_be_sent_again(folder, model):
    """Two servers share a folder; what neither was sent stays as it is."""
    one, other = open_library(folder, model), open_library(folder, model)
    one.add("sent", tensors(values(7)), "safetensors")
    other.add("sent", tensors(values(8)), "safetensors")
    np.testing.assert_array_equal(other.get("sent").values, values(8))
    save_prompt(folder / "mine", values(9))
    with pytest.raises(Conflict, match="something else called mine"):
        other.add("mine", tensors(values(8)), "safetensors")


def test_an_upload_that_was_cut_short_is_begun_again(library, folder):
    (folder / "sent").mkdir()
    (folder / "sent" / ".prompt.safetensors.partial-1").write_bytes(b"half")
    library.add("sent", tensors(values(6)), "safetensors")
    np.testing.assert_array_equal(library.get("sent").values, values(6))


class Killed(BaseException):
    """Nothing runs after it, as after SIGKILL."""


def test_a_kill_at_any_moment_leaves_the_old_prompt_or_the_new_one(folder, model, monkeypatch):
    old, new = tensors(values(1), task="old"), tensors(values(2), task="new")
    seen = set()
    for moment in itertools.count():
        library = open_library(folder, model)
        library.add("sent", old, "safetensors")
        left = moment

        def dying(work):
            def step(*args, **options):
                nonlocal left
                if left <= 0:
                    raise Killed
                left -= 1
                return work(*args, **options)

            return step

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name)))
            patch.setattr(Path, "unlink", dying(Path.unlink))
            try:
                library.add("sent", new, "safetensors")
                is_killed = False
            except Killed:
                is_killed = True
        again = open_library(folder, model)
        assert not [note for note in again.notes if "sent" in note]
        task = again.describe("sent").task
        expected = values(1) if task == "old" else values(2)
        np.testing.assert_array_equal(again.get("sent").values, expected)
        assert again.get("sent").metadata["task"] == task
        seen.add((task, is_killed))
        if not is_killed:
            break
    assert seen == {("old", True), ("new", True), ("new", False)}


KILLING = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import save
import prompt_tuning_jax as pt
from prompt_tuning_jax.serving.library import PromptLibrary

folder, model = Path(sys.argv[1]), pt.load_model(sys.argv[2])
sent = [np.full((3, 16), i, np.float32) for i in range(9)]
seen, begun = set(), time.monotonic()
PromptLibrary(folder, model, max_prompt_length=8, memory=2**20).add(
    "p0", save({"prompt": sent[0]}), "safetensors"
)
long = 0.05 + 2 * (time.monotonic() - begun)  # on this machine enough for some uploads
for kill in range(50):
    library = PromptLibrary(folder, model, max_prompt_length=8, memory=2**20)
    assert not library.notes, library.notes
    for name in library.names():
        values = library.get(name).values
        assert (values == values[0, 0]).all()
        seen.add(values[0, 0])
    child = os.fork()
    if child == 0:
        while True:
            for one in sent:
                library.add(f"p{random.randrange(3)}", save({"prompt": one}), "safetensors")
    time.sleep(random.uniform(0.001, long))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(len(seen))
"""


@pytest.mark.slow
def test_fifty_kills_during_uploads(tmp_path, model_dir):
    (tmp_path / "prompts").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", KILLING, str(tmp_path / "prompts")]
    done = subprocess.run([*command, str(model_dir)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2


def test_ensembles(library, folder, model):
    made = library.add_ensemble("both", ["run", "bare.npy"])
    assert made.members == library.members("both") == ("run", "bare.npy")
    assert (made.length, made.labels, made.visibility) == (3, None, "full")
    assert open_library(folder, model).describe("both") == made
    with pytest.raises(UnknownPrompt):
        library.get("both")
    library.add("sent", tensors(values(6), verbalizers=["no", "yes"]), "safetensors")
    assert library.add_ensemble("both", ["run", "sent"]).labels == ("yes", "no")
    with pytest.raises(Conflict, match="member of both"):
        library.remove("sent")
    library.remove("both")
    library.remove("sent")
    assert not (folder / "both.ensemble.json").exists()
    for members in ([], ["run"], ["run", "run"], ["run", "nobody"]):
        with pytest.raises(ValueError, match=r"ensemble has two|no prompt 'nobody'"):
            library.add_ensemble("both", members)
    with pytest.raises(Conflict, match="is a prompt"):
        library.add_ensemble("run", ["run", "bare.npy"])
    (folder / "bad.ensemble.json").write_text('{"members": [1]}')
    assert any("names no members" in note for note in library.reload())


def test_an_ensemble_is_described_by_the_members_that_it_has_now(library, folder, model):
    def send(name, words, **facts):
        content = tensors(values(6), verbalizers=words, task=words[0], **facts)
        return library.add(name, content, "safetensors")

    send("one", ["no", "yes"])
    send("two", ["no", "yes"])
    library.add_ensemble("both", ["one", "two"])
    library.add_ensemble("others", ["run", "bare.npy"])
    others = library.describe("others")
    assert library.describe("both").labels == ("no", "yes")
    send("one", ["up", "down"])
    assert library.describe("both").labels is None
    send("two", ["up", "down"])
    assert (library.describe("both").labels, library.describe("both").task) == (
        ("up", "down"),
        "up",
    )
    assert library.describe("both") == open_library(folder, model).describe("both")
    assert library.describe("others") == others
    with pytest.raises(Conflict, match=r"two is a member of both.*see alike"):
        send("two", ["left", "right"], visibility="isolated")
    assert library.describe("two").labels == ("up", "down")
    assert open_library(folder, model).describe("two").labels == ("up", "down")


def test_what_others_change_is_seen_at_a_reload(library, folder):
    kept, version = library.get("bare.npy"), library.version("run")
    library.get("run")
    save_prompt(folder / "run" / "best", values(8))
    save_prompt(folder / "new", values(9))
    (folder / "deep" / "own" / "prompt.safetensors").unlink()
    library.reload()
    assert library._bytes == kept.values.nbytes
    assert library.names() == ("bare.npy", "new", "run")
    assert library.version("run") != version
    np.testing.assert_array_equal(library.get("run").values, values(8))
    assert library.get("bare.npy") is kept
    (folder / "new" / "prompt.safetensors").write_bytes(b"no prompt")
    with pytest.raises(Unusable, match="new cannot be used"):
        library.get("new")


def test_folders_that_take_nothing(model):
    for library in (open_library(None, model), open_library("bundled", model)):
        assert library.names() == ()  # those that come with the bundled model are not this one's
        with pytest.raises(Conflict, match="takes no prompts"):
            library.add("sent", tensors(values()), "safetensors")
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_library("nowhere", model)


def test_threads_that_read_while_others_write(library):
    """Whatever is read is one of the prompts that were whole."""
    library.add("sent", tensors(values(0)), "safetensors")
    legal = {values(seed).tobytes() for seed in range(8)}
    faults, done = [], threading.Event()

    def read():
        while not done.is_set():
            version = library.version("sent")
            found = library.get("sent").values.tobytes()
            if found not in legal or library.version("sent") < version:
                faults.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for seed in range(8):
        library.add("sent", tensors(values(seed)), "safetensors")
    done.set()
    for reader in readers:
        reader.join()
    assert not faults
    np.testing.assert_array_equal(library.get("sent").values, values(7))
