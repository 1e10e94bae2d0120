"""Prompts of a bucket: a store in memory, and a folder's address."""

import os

import fsspec
import numpy as np
import pytest

from prompt_tuning_jax import TunedPrompt, save_prompt
from prompt_tuning_jax.serving.library import Conflict, PromptLibrary
from prompt_tuning_jax.serving.library.mirror import Mirror, is_remote


@pytest.fixture
def store():
    store = fsspec.filesystem("memory")
    yield store
    if store.exists("/bucket"):
        store.rm("/bucket", recursive=True)


@pytest.fixture
def put(store, model, tmp_path):
    """Writes a prompt of one value into the bucket."""

    def write(name: str, value: float, rows: int = 3) -> None:
        values = np.full((rows, model.config.emb_dim), value, np.float32)
        save_prompt(tmp_path / "made" / name, TunedPrompt(values))
        store.put(str(tmp_path / "made" / name) + "/", f"/bucket/{name}/", recursive=True)

    return write


def library(model, address="memory://bucket"):
    return PromptLibrary(Mirror(address), model, max_prompt_length=8, memory=2**20)


def test_what_is_remote():
    assert is_remote("gs://bucket/prompts")
    assert not is_remote("/runs/gs:/x")
    assert not is_remote("runs")


def test_the_library_shows_what_the_bucket_holds(model, put, store):
    put("one", 1.0)
    put("deep/two", 2.0)
    store.pipe("/bucket/pair.ensemble.json", b'{"members": ["one", "deep/two"]}')
    store.pipe("/bucket/notes.txt", b"x" * 100)
    found = library(model)
    assert found.names() == ("deep/two", "one", "pair")
    assert found.members("pair") == ("one", "deep/two")
    assert np.all(found.get("deep/two").values == 2.0)
    copies = {path.name for path in found.folder.rglob("*") if path.is_file()}
    assert "notes.txt" not in copies


def test_what_changes_there_is_seen_when_it_looks_again(model, put, store, monkeypatch):
    put("one", 1.0)
    put("two", 2.0)
    found = library(model)
    before, copied = found.version("one"), []
    assert np.all(found.get("one").values == 1.0)
    copy = Mirror._copy
    monkeypatch.setattr(
        Mirror, "_copy", lambda self, name, path: (copied.append(name), copy(self, name, path))
    )
    put("one", 5.0)
    put("three", 3.0)
    store.rm("/bucket/two", recursive=True)
    assert np.all(found.get("one").values == 1.0)  # until then
    found.reload()
    assert found.names() == ("one", "three")
    assert found.version("one") != before
    assert np.all(found.get("one").values == 5.0)
    assert {name.split("/")[0] for name in copied} == {"one", "three"}
    copied.clear()
    found.reload()
    assert copied == []  # nothing is copied twice


@pytest.mark.parametrize("mark", [None, "blob_id", "last_modified"])
def test_a_change_is_seen_by_whatever_a_store_tells(model, put, store, monkeypatch, mark):
    """Or by nothing: a file without any mark is copied every time."""
    put("one", 1.0)
    found, count = library(model), [0]
    find = found._mirror._store.find

    def marked(*given, **how):
        count[0] += 1
        return {
            path: {"name": path, "size": facts["size"]} | ({mark: count[0]} if mark else {})
            for path, facts in find(*given, **how).items()
        }

    monkeypatch.setattr(found._mirror._store, "find", marked)
    found.reload()
    put("one", 5.0)
    found.reload()
    assert np.all(found.get("one").values == 5.0)


def test_an_address_may_be_a_prompt_itself(model, put):
    put("one", 1.0)
    assert library(model, "memory://bucket/one").names() == ("one",)


def test_a_file_that_goes_while_others_are_copied_is_left_out(model, put, store, monkeypatch):
    put("one", 1.0)
    put("two", 2.0)
    get = type(store).get_file

    def gone(self, path, *rest, **how):
        if "/two/" in path:
            raise FileNotFoundError(path)
        return get(self, path, *rest, **how)

    monkeypatch.setattr(type(store), "get_file", gone)
    assert library(model).names() == ("one",)


def test_nothing_is_sent_to_a_bucket_nor_deleted_there(model, put):
    put("one", 1.0)
    found = library(model)
    with pytest.raises(Conflict, match="takes no prompts"):
        found.add_ensemble("pair", ["one", "one"])
    with pytest.raises(Conflict, match="deletes nothing of a bucket"):
        found.remove("one")
    assert found.names() == ("one",)


def test_a_bucket_that_is_not_there(model, store):
    with pytest.raises(FileNotFoundError, match="no folder memory://elsewhere"):
        library(model, "memory://elsewhere")
    with pytest.raises(ValueError, match="nonsense"):
        Mirror("nonsense://bucket")


def test_a_store_that_fails_says_so_and_what_was_there_stays(model, put, monkeypatch):
    put("one", 1.0)
    found = library(model)

    def fail(*_, **__):
        raise RuntimeError("no route")

    monkeypatch.setattr(found._mirror._store, "find", fail)
    with pytest.raises(OSError, match=r"memory://bucket cannot be read: no route"):
        found.reload()
    assert np.all(found.get("one").values == 1.0)


def test_a_folder_by_its_address(model, tmp_path):
    values = np.ones((2, model.config.emb_dim), np.float32)
    save_prompt(tmp_path / "one", TunedPrompt(values))
    found = library(model, f"file://{tmp_path}")
    assert found.names() == ("one",)
    save_prompt(tmp_path / "one", TunedPrompt(values * 2))
    later = os.stat(tmp_path / "one" / "prompt.safetensors").st_mtime + 5
    os.utime(tmp_path / "one" / "prompt.safetensors", (later, later))
    found.reload()
    assert np.all(found.get("one").values == 2.0)
