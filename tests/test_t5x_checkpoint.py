"""T5X checkpoints of both kinds: their leaves, the latest one, what is wrong with damaged ones."""

import functools
import json
import shutil

import numpy as np
import pytest
import t5x_goldens
import tiny
from common import NEEDS_SHARED, shared_dir
from flax import serialization

from prompt_tuning_jax import load_prompt, save_prompt
from prompt_tuning_jax.checkpoints.t5x.checkpoint import (
    UnfinishedError,
    is_checkpoint,
    open_checkpoint,
    read_prompt,
)

KINDS = ("legacy", "orbax")
EMBEDDING = "target.token_embedder.embedding"


@pytest.fixture
def legacy(tmp_path):
    """A checkpoint to be damaged."""
    return t5x_goldens.unpack("legacy", tmp_path)


@pytest.fixture
def orbax(tmp_path):
    return t5x_goldens.unpack("orbax", tmp_path)


@pytest.fixture(scope="module", params=KINDS)
def written(request, tmp_path_factory):
    return t5x_goldens.unpack(request.param, tmp_path_factory.mktemp("written"))


class TestLeaves:
    def test_weights_are_those_that_t5x_wrote(self, written):
        leaves = open_checkpoint(written).leaves()
        t5x_goldens.assert_same(
            {name: leaf.read() for name, leaf in leaves.items()}, t5x_goldens.weights()
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_index_says_kind_step_and_names(self, tmp_path, kind):
        checkpoint = open_checkpoint(t5x_goldens.unpack(kind, tmp_path))
        assert (checkpoint.kind, checkpoint.step) == (kind, 3)
        assert "state/param_states/encoder/encoder_norm/scale/v" in checkpoint.sources

    def test_a_slice_is_read_alone(self, written):
        leaf = open_checkpoint(written).leaf("token_embedder/embedding")
        assert leaf.shape == (128, 16)
        expected = t5x_goldens.weights()["token_embedder/embedding"]
        np.testing.assert_array_equal(leaf.read((slice(5, 9), slice(0, 3))), expected[5:9, :3])

    def test_target_may_be_left_out(self, written):
        checkpoint = open_checkpoint(written)
        with_prefix = checkpoint.leaf("target/encoder/encoder_norm/scale").read()
        np.testing.assert_array_equal(checkpoint.leaf("encoder/encoder_norm/scale"), with_prefix)

    def test_an_unknown_leaf_suggests_another(self, written):
        with pytest.raises(ValueError, match=r"no leaf .*mlp/wi/kernel\. .*shows its leaves"):
            open_checkpoint(written).leaf("encoder/layers_0/mlp/wi/kernel")
        with pytest.raises(ValueError, match="Perhaps target/encoder/encoder_norm/scale"):
            open_checkpoint(written).leaf("encoder_norm/scale")


def goldens():
    """The large goldens' sums of every leaf, where they are present."""
    path = shared_dir() and shared_dir() / "goldens" / "t5x" / "checkpoints.json"
    return json.loads(path.read_text()) if path and path.is_file() else {}


class TestLargeGoldens:
    @pytest.fixture(params=goldens() or [pytest.param("", marks=pytest.mark.skip(NEEDS_SHARED))])
    def name(self, request):
        return request.param

    def test_every_leaf(self, name):
        expected = goldens()[name]
        checkpoint = open_checkpoint(shared_dir() / "goldens" / "t5x" / name)
        assert set(checkpoint.sources) == set(expected)
        leaves = checkpoint.leaves("")
        assert {n for n, facts in expected.items() if facts is not None} == set(leaves)
        for leaf_name, leaf in leaves.items():
            facts, values = expected[leaf_name], leaf.read()
            assert (list(values.shape), str(values.dtype)) == (facts["shape"], facts["dtype"])
            assert values.sum(dtype=values.dtype) == facts["sum"], leaf_name
            assert np.abs(values).sum(dtype=values.dtype) == facts["abs_sum"], leaf_name

    @pytest.mark.skipif(not goldens(), reason=NEEDS_SHARED)
    @pytest.mark.parametrize("form", ["orbax_t5x", "legacy_prompt"])
    def test_prompts(self, form):
        directory = shared_dir() / "goldens" / "t5x" / f"ckpt_{form}"
        expected = np.load(directory / "prompt_expected.npy")
        np.testing.assert_array_equal(read_prompt(directory / "checkpoint_12"), expected)
        np.testing.assert_array_equal(load_prompt(directory / "checkpoint_12"), expected)
        if form == "legacy_prompt":
            numpy_directory = directory / "numpy_checkpoint_12"
            np.testing.assert_array_equal(load_prompt(numpy_directory), expected)
            (only,) = numpy_directory.iterdir()
            np.testing.assert_array_equal(load_prompt(only), expected)


class TestRunDirectories:
    """A directory of checkpoints gives the latest that is complete."""

    @pytest.fixture
    def run(self, legacy):
        shutil.copytree(legacy, legacy.with_name("checkpoint_12"))
        return legacy.parent

    def opened(self, run):
        return open_checkpoint(run).path.rsplit("/", 1)[-1]

    def test_latest(self, run):
        assert self.opened(run) == "checkpoint_12"

    def test_numbers_count_not_letters(self, run):
        shutil.copytree(run / "checkpoint_12", run / "checkpoint_9")
        assert self.opened(run) == "checkpoint_12"

    @pytest.mark.parametrize(
        "name", ["checkpoint_20.tmp-1700000000", "checkpoint_20.orbax-checkpoint-tmp-1"]
    )
    def test_temporary_directories_do_not_count(self, run, name):
        shutil.copytree(run / "checkpoint_12", run / name)
        assert self.opened(run) == "checkpoint_12"
        with pytest.raises(UnfinishedError, match="never finished"):
            open_checkpoint(run / name)

    def test_unfinished_ones_do_not_count(self, run, tmp_path, caplog):
        unfinished = t5x_goldens.unpack("orbax", tmp_path / "other").rename(run / "checkpoint_20")
        uncommit(unfinished)
        (run / "checkpoint_21").mkdir()
        assert self.opened(run) == "checkpoint_12"
        assert "checkpoint_21 is no complete checkpoint" in caplog.text
        assert "checkpoint_20 was never finished" in caplog.text

    def test_only_unfinished_ones(self, legacy):
        legacy.rename(legacy.with_name("checkpoint_3.tmp-17"))
        with pytest.raises(ValueError, match=r"only unfinished ones: checkpoint_3\.tmp-17"):
            open_checkpoint(legacy.parent)


def uncommit(checkpoint):
    """As Orbax leaves a checkpoint whose writing was interrupted."""
    (checkpoint / "commit_success.txt").unlink()
    path = checkpoint / "_CHECKPOINT_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit_timestamp_nsecs": None}))


def edit_index(checkpoint, change):
    path = checkpoint / "checkpoint"
    tree = serialization.msgpack_restore(path.read_bytes())
    change(tree)
    path.write_bytes(serialization.msgpack_serialize(tree))


def truncate(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def read_all(checkpoint):
    return {name: leaf.read() for name, leaf in open_checkpoint(checkpoint).leaves().items()}


def move_array(to):
    def change(tree):
        tree["optimizer"]["target"]["token_embedder"]["embedding"]["kvstore"]["path"] = to

    return change


LEGACY_DAMAGE = {
    "cut short, or no msgpack": lambda c: truncate(c / "checkpoint"),
    r"msgpack, but no T5X checkpoint: it holds \['params'\]": lambda c: (
        c / "checkpoint"
    ).write_bytes(serialization.msgpack_serialize({"params": {}})),
    "holds a list": lambda c: (c / "checkpoint").write_bytes(b"\x90"),
    "version 4, newer than": lambda c: edit_index(c, lambda tree: tree.update(version=4)),
    "version 1, older than": lambda c: edit_index(c, lambda tree: tree.update(version=1)),
    "TensorFlow checkpoint": lambda c: (c / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-3"'
    ),
    "without its checkpoint file": lambda c: (c / "checkpoint").unlink(),
    "token_embedder/embedding although its index": lambda c: shutil.rmtree(c / EMBEDDING),
    "damaged or cut short at token_embedder/embedding .*missing": lambda c: (
        c / EMBEDDING / "0.0"
    ).unlink(),
    "damaged or cut short at token_embedder/embedding": lambda c: truncate(c / EMBEDDING / "0.0"),
    "names an array outside itself: '../x'": lambda c: edit_index(c, move_array("../x")),
    "names an array outside itself: '/etc'": lambda c: edit_index(c, move_array("/etc")),
}


@pytest.mark.parametrize("message", LEGACY_DAMAGE)
def test_damaged_legacy_checkpoints(legacy, message):
    LEGACY_DAMAGE[message](legacy)
    with pytest.raises(ValueError, match=message):
        read_all(legacy)


def edit_metadata(change, checkpoint):
    path = checkpoint / "state" / "_METADATA"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def rename_kinds(metadata):
    for entry in metadata["tree_metadata"].values():
        entry["value_metadata"] = {"type": "array"}


def largest_data_file(checkpoint):
    return max((checkpoint / "state").rglob("d/*"), key=lambda file: file.stat().st_size)


ORBAX_DAMAGE = {
    "never finished: it has no commit_success.txt": uncommit,
    "no manifest.ocdbt: it is cut short": lambda c: (c / "state" / "manifest.ocdbt").unlink(),
    "_METADATA is not there": lambda c: (c / "state" / "_METADATA").unlink(),
    "_METADATA is not valid JSON": lambda c: truncate(c / "state" / "_METADATA"),
    "holds a list, not a JSON object": lambda c: (c / "state" / "_METADATA").write_text("[]"),
    "no tree_metadata.*newer Orbax": functools.partial(
        edit_metadata, lambda metadata: metadata.pop("tree_metadata")
    ),
    "way not known here.*newer Orbax": functools.partial(edit_metadata, rename_kinds),
    "cut short": lambda c: largest_data_file(c).unlink(),
    "cut short.*Copy it again": lambda c: truncate(largest_data_file(c), 0.1),
}


@pytest.mark.parametrize("message", ORBAX_DAMAGE)
def test_damaged_orbax_checkpoints(orbax, message):
    ORBAX_DAMAGE[message](orbax)
    with pytest.raises(ValueError, match=message):
        read_all(orbax)


class TestOtherDirectories:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing at .*/nowhere"):
            open_checkpoint(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="or it is empty"):
            open_checkpoint(tmp_path)

    def test_a_hugging_face_model(self, model_dir):
        with pytest.raises(ValueError, match=r"config\.json.*looks like a Hugging Face model"):
            open_checkpoint(model_dir)
        assert not is_checkpoint(model_dir)

    def test_a_prompt(self, tmp_path):
        save_prompt(tmp_path / "prompt", np.ones((2, 4), np.float32))
        with pytest.raises(ValueError, match="looks like a prompt of this library"):
            open_checkpoint(tmp_path / "prompt")
        assert not is_checkpoint(tmp_path / "prompt")

    def test_a_tensorflow_checkpoint(self, tmp_path):
        (tmp_path / "model.ckpt-3.index").write_bytes(b"")
        with pytest.raises(ValueError, match="convert_tf_checkpoint"):
            open_checkpoint(tmp_path)

    def test_some_directory(self, tmp_path):
        tiny.save_files(tmp_path / "data")
        with pytest.raises(ValueError, match=r"but train\.jsonl, validation\.jsonl\.$"):
            open_checkpoint(tmp_path / "data")
        assert not is_checkpoint(tmp_path / "data")

    def test_a_bad_url(self):
        with pytest.raises(ValueError, match="is no address that is read"):
            open_checkpoint("nonsense://bucket/path")

    @pytest.mark.parametrize("name", [*t5x_goldens.FLOAT32, *t5x_goldens.BFLOAT16])
    def test_checkpoints_look_like_checkpoints(self, tmp_path, name):
        checkpoint = t5x_goldens.unpack(name, tmp_path)
        assert is_checkpoint(checkpoint)
        assert is_checkpoint(checkpoint.parent)
        assert is_checkpoint("gs://bucket/anything")
