"""Frozen models in T5X's format: the same numbers from every layout, whole or in shards."""

import dataclasses
import functools
import re
import shutil
import socket
import sys

import fake_storage
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import t5x_goldens
import tensorstore as ts
import tiny
from common import GOLDENS, slow
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from prompt_tuning_jax import T5Config, TunedPrompt, load_model, load_prompt, train
from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.checkpoints.fingerprint import fingerprint
from prompt_tuning_jax.checkpoints.stored_array import StoredArray
from prompt_tuning_jax.checkpoints.t5x import legacy as t5x_legacy
from prompt_tuning_jax.checkpoints.t5x import orbax as t5x_orbax
from prompt_tuning_jax.checkpoints.t5x import storage as t5x_storage
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint
from prompt_tuning_jax.checkpoints.t5x.storage import CONTEXT
from prompt_tuning_jax.commands import cli
from prompt_tuning_jax.commands.inference.infer import infer
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5.apply import apply
from prompt_tuning_jax.models.t5.config import mt5, t5_1_0, t5_1_1
from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.params import REFERENCE_PROMPT
from prompt_tuning_jax.training import prompt_start

EVERY = (*t5x_goldens.FLOAT32, *t5x_goldens.BFLOAT16)
PROMPT = np.arange(48, dtype=np.float32).reshape(3, 16)


@pytest.fixture(scope="module", params=EVERY)
def named(request, tmp_path_factory):
    """(name, checkpoint) of each that T5X wrote."""
    return request.param, t5x_goldens.unpack(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A legacy checkpoint with Adafactor's state."""
    return t5x_goldens.unpack("legacy", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    return t5x_goldens.unpack("scanned_orbax", tmp_path_factory.mktemp("scanned"))


@pytest.fixture
def reads(monkeypatch):
    """(leaf, number of values) of every read."""
    seen = []

    def recorded(name, place, shape, dtype, read_part):
        def read(part):
            values = read_part(part)
            seen.append((name, values.size))
            return values

        return StoredArray(name, place, shape, dtype, read)

    monkeypatch.setattr(t5x_storage, "StoredArray", recorded)
    return seen


class TestLoad:
    def test_weights_are_those_that_t5x_wrote(self, named):
        name, checkpoint = named
        dtype = jnp.bfloat16 if name in t5x_goldens.BFLOAT16 else jnp.float32
        config, params = t5x.load(checkpoint, dtype)
        t5x_goldens.assert_same(params, t5x_goldens.weights(name))
        assert config == T5Config(128, 16, 2, 8, 32, 2, 2, dtype=dtype)

    def test_dtype(self, base):
        _, params = t5x.load(base, jnp.bfloat16)
        t5x_goldens.assert_same(params, t5x_goldens.weights("legacy_bfloat16"))
        with pytest.raises(ValueError, match="float32 or bfloat16, not float16"):
            t5x.load(base, jnp.float16)

    def test_logits_are_t5xs(self, base):
        golden = dict(np.load(GOLDENS / "t5x" / "t5_network_io.npz"))
        config, params = t5x.load(base)
        batch = {n.removeprefix("in/"): x for n, x in golden.items() if n.startswith("in/")}
        logits = jax.jit(functools.partial(apply, config))(params, batch)
        valid = golden["in/decoder_loss_weights"] > 0
        np.testing.assert_allclose(logits[valid], golden["logits"][valid], atol=1e-5, rtol=0)

    def test_no_optimizer_state_is_read(self, base, reads):
        t5x.load(base)
        assert len(reads) == 52
        assert not [name for name, _ in reads if "param_states" in name]

    def test_the_config_is_checked_field_by_field(self, base):
        config, _ = t5x.load(base)
        asked = dataclasses.replace(config, num_heads=4, num_encoder_layers=3)
        with pytest.raises(ValueError, match="num_heads is 2, not 4; num_encoder_layers is 2, not"):
            t5x.load(base, config=asked)
        with pytest.raises(ValueError, match="mlp_activations are 2, not 1"):
            t5x.load(base, config=dataclasses.replace(config, mlp_activations=("relu",)))

    def test_layers_are_loaded_apart(self, scanned):
        asked = dataclasses.replace(t5x.load(scanned)[0], scan_layers=True)
        with pytest.raises(ValueError, match="ask for scan_layers=False"):
            t5x.load(scanned, config=asked)

    def test_what_shapes_do_not_tell_is_taken_from_the_config(self, base):
        config, _ = t5x.load(base)
        asked = dataclasses.replace(config, mlp_activations=("silu", "linear"), dropout_rate=0.1)
        assert t5x.load(base, config=asked)[0] == asked
        half = t5x.load(base, jnp.bfloat16, config=asked)[0]
        assert half == dataclasses.replace(asked, dtype=jnp.bfloat16)

    @pytest.mark.parametrize(
        "published",
        [
            slow(t5_1_0("small"), id="t5_1_0"),
            pytest.param(t5_1_1("small"), id="t5_1_1"),
            slow(mt5("small"), id="mt5"),
        ],
    )
    def test_published_shapes_are_recognised(self, tmp_path, published):
        """All but the vocabulary and the depth, which are cut to keep the test small."""
        published = dataclasses.replace(
            published, vocab_size=16, num_encoder_layers=1, num_decoder_layers=2
        )
        path = t5x.save(tmp_path, tiny.make_params(published), form="legacy")
        assert t5x.load(path)[0] == published

    def test_report(self, base):
        shown = []
        t5x.load(base, report=shown.append)
        assert len(shown[0].matched) == 52
        assert "encoder/layers_*/mlp/wo/kernel" in str(shown[0])


class TestScanned:
    def test_each_stack_is_read_once(self, scanned, reads):
        t5x.load(scanned)
        assert len(reads) == len({name for name, _ in reads}) + 2  # biases: compared, then read

    def test_differing_biases_are_kept(self, tmp_path, scanned):
        leaves = {n: leaf.read() for n, leaf in open_checkpoint(scanned).leaves().items()}
        name = "decoder/decoder/relpos_bias/rel_embedding"
        leaves[name] = leaves[name] + np.float32([[[0.0], [1e-3]]])
        config, params = t5x.load(t5x.save(tmp_path, leaves))
        assert config.layer_relpos_bias
        stacked = flatten_dict(stack_layers(params), sep="/")
        assert stacked.keys() == leaves.keys()
        for leaf, value in leaves.items():
            np.testing.assert_array_equal(stacked[leaf], value, leaf)

    def test_layers_apart_with_biases_of_their_own(self, tmp_path):
        """T5X's scalable T5 with `scan_layers=False`: heads apart, a bias in every layer."""
        leaves = {}
        for name, value in t5x_goldens.weights().items():
            stack, _, rest = name.partition("/")
            if rest == "relpos_bias/rel_embedding":
                leaves |= {f"{stack}/layers_{i}/{rest}": value for i in range(2)}
            elif "attention/" in name and name.endswith("kernel"):
                leaves[name] = value.reshape((2, 8, 16) if "/out/" in name else (16, 2, 8))
            else:
                leaves[name] = value
        _, params = t5x.load(t5x.save(tmp_path, leaves))
        t5x_goldens.assert_same(params, t5x_goldens.weights())


def split_over(axis):
    """Splits one dimension of every weight that it divides."""
    mesh = sharding.make_mesh("model:2")

    def shardings(config, shapes):
        del config
        specs = {n: [None] * len(x.shape) for n, x in shapes.items()}
        for name, x in shapes.items():
            if len(x.shape) > axis and x.shape[axis] % 2 == 0:
                specs[name][axis] = "model"
        return {n: NamedSharding(mesh, PartitionSpec(*spec)) for n, spec in specs.items()}

    return shardings


class TestShards:
    @pytest.fixture
    def shardings(self):
        return functools.partial(sharding.param_shardings, sharding.make_mesh("model:2"))

    def test_arrays_lie_where_the_table_says(self, named, shardings):
        name, checkpoint = named
        dtype = jnp.bfloat16 if name in t5x_goldens.BFLOAT16 else jnp.float32
        config, params = t5x.load(checkpoint, dtype, shardings)
        t5x_goldens.assert_same(params, t5x_goldens.weights(name))
        flat = flatten_dict(params, sep="/")
        for weight, expected in shardings(config, flat).items():
            assert flat[weight].sharding == expected, weight

    @pytest.mark.parametrize("axis", [0, 1])
    def test_any_dimension_may_be_split(self, named, axis):
        name, checkpoint = named
        dtype = jnp.bfloat16 if name in t5x_goldens.BFLOAT16 else jnp.float32
        _, params = t5x.load(checkpoint, dtype, split_over(axis))
        t5x_goldens.assert_same(params, t5x_goldens.weights(name))

    @pytest.mark.parametrize("layout", ["base", "scanned"])
    def test_only_the_parts_needed_are_read(self, layout, request, shardings, reads):
        checkpoint = request.getfixturevalue(layout)
        t5x.load(checkpoint, shardings=shardings)
        sizes = {n: np.prod(leaf.shape) for n, leaf in open_checkpoint(checkpoint).leaves().items()}
        parts = [(name, size) for name, size in reads if name.endswith("mlp/wo/kernel")]
        assert parts
        for name, size in parts:
            assert size == sizes[name] / 2
        whole = [name for name, _ in reads if name.endswith("encoder_norm/scale")]
        assert len(whole) == 1  # read once for both devices

    def test_one_head_over_two_devices(self, tmp_path):
        """Heads that do not divide over the devices are cut where they lie."""
        config = T5Config(16, 4, 3, 2, 4, 1, 1)
        params = tiny.make_params(config)
        flat = flatten_dict(params, sep="/")
        apart = {
            n: x.reshape((3, 2, 4) if "/out/" in n else (4, 3, 2))
            if "attention/" in n and n.endswith("kernel")
            else x
            for n, x in flat.items()
        }
        _, loaded = t5x.load(t5x.save(tmp_path, apart), shardings=split_over(1))
        t5x_goldens.assert_same(loaded, flat)


class TestRefusals:
    def save(self, directory, change):
        weights = t5x_goldens.weights()
        change(weights)
        return t5x.save(directory, weights)

    def test_missing_weights(self, tmp_path):
        path = self.save(tmp_path, lambda w: w.pop("decoder/layers_1/mlp/wo/kernel"))
        with pytest.raises(ValueError, match=r"missing decoder/layers_1/mlp/wo/kernel .*random"):
            t5x.load(path)

    def test_misshapen_weights(self, tmp_path):
        wrong = {"decoder/layers_1/mlp/wo/kernel": np.ones((16, 16), np.float32)}
        path = self.save(tmp_path, lambda w: w.update(wrong))
        with pytest.raises(ValueError, match=r"has shape \(16, 16\), the config needs \(32, 16\)"):
            t5x.load(path)

    def test_not_finite(self, tmp_path):
        broken = {"encoder/encoder_norm/scale": np.full(16, np.nan, np.float32)}
        path = self.save(tmp_path, lambda w: w.update(broken))
        with pytest.raises(ValueError, match="encoder_norm/scale holds NaN"):
            t5x.load(path)

    def test_weights_of_another_model(self, tmp_path):
        more = {"encoder/layers_0/mlp/router/kernel": np.ones((16, 4), np.float32)}
        path = self.save(tmp_path, lambda w: w.update(more))
        with pytest.raises(ValueError, match=r"weight\(s\) in its layers .*another model's"):
            t5x.load(path)

    def test_a_decoder_only_model(self, tmp_path):
        weights = {n: w for n, w in t5x_goldens.weights().items() if not n.startswith("encoder")}
        with pytest.raises(ValueError, match="not of an encoder-decoder T5: it has no encoder/rel"):
            t5x.load(t5x.save(tmp_path, weights))

    def test_whole_numbers(self, tmp_path):
        counts = {"encoder/encoder_norm/scale": np.ones(16, np.int16)}
        path = self.save(tmp_path, lambda w: w.update(counts))
        with pytest.raises(ValueError, match="int16, but weights must be floating-point"):
            t5x.load(path)


class TestSave:
    @pytest.mark.parametrize("form", t5x.FORMS)
    @pytest.mark.parametrize("name", ["legacy", "legacy_bfloat16"])
    def test_round_trip(self, tmp_path, form, name):
        weights = t5x_goldens.weights(name)
        path = t5x.save(tmp_path, unflatten_dict(weights, sep="/"), 17, form)
        assert path == tmp_path / "checkpoint_17"
        checkpoint = open_checkpoint(path)
        assert (checkpoint.kind, checkpoint.step) == (form, 17)
        leaves = {n: leaf.read() for n, leaf in checkpoint.leaves().items()}
        t5x_goldens.assert_same(leaves, weights)

    def test_arrays_of_several_chunks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(t5x_legacy, "_CHUNK_BYTES", 1000)
        path = t5x.save(tmp_path, t5x_goldens.weights(), form="legacy")
        assert (path / "target.token_embedder.embedding" / "1.0").is_file()
        t5x_goldens.assert_same(t5x.load(path)[1], t5x_goldens.weights())

    def test_sharded_arrays(self, tmp_path, base):
        _, params = t5x.load(base, shardings=split_over(1))
        path = t5x.save(tmp_path, params)
        t5x_goldens.assert_same(t5x.load(path)[1], t5x_goldens.weights())

    @pytest.mark.parametrize("form", t5x.FORMS)
    def test_zeros_are_written_too(self, tmp_path, form):
        """A chunk of zeros must be told from a chunk that is missing."""
        zeros = {"encoder/prompt/prompt": np.zeros((3, 4), np.float32)}
        path = t5x.save(tmp_path, zeros, form=form)
        np.testing.assert_array_equal(load_prompt(path), zeros["encoder/prompt/prompt"])

    def test_nothing_is_replaced(self, tmp_path):
        t5x.save(tmp_path, {"a": np.ones(2)})
        with pytest.raises(FileExistsError, match="checkpoint_0 is there already"):
            t5x.save(tmp_path, {"a": np.zeros(2)})

    def test_a_kill_leaves_no_checkpoint(self, tmp_path):
        class Interrupting:
            ndim = 1

            def __array__(self, dtype=None, copy=None):
                raise KeyboardInterrupt

        for form in t5x.FORMS:
            with pytest.raises(KeyboardInterrupt):
                t5x.save(tmp_path, {"a": np.ones(2), "b": Interrupting()}, form=form)
        assert not list(tmp_path.iterdir())

    def test_refusals(self, tmp_path):
        with pytest.raises(ValueError, match=re.escape("one of ('orbax', 'legacy'), not 'npz'")):
            t5x.save(tmp_path, {}, form="npz")
        with pytest.raises(ValueError, match="write the checkpoint locally, then copy"):
            t5x.save("gs://bucket/there", {})


class TestAddPrompt:
    @pytest.mark.parametrize("name", ["legacy", "orbax", "scanned_orbax"])
    def test_everything_else_is_kept(self, tmp_path, name):
        source = t5x_goldens.unpack(name, tmp_path / "base")
        path = t5x.add_prompt(source, TunedPrompt(PROMPT), tmp_path / "out", step=12)
        before, after = open_checkpoint(source), open_checkpoint(path)
        assert (after.kind, after.step) == (before.kind, 12)
        old, new = before.leaves(""), after.leaves("")
        assert set(new) - set(old) == {"target/encoder/prompt/prompt"}
        for leaf in set(old) - {"state/step"}:
            np.testing.assert_array_equal(new[leaf].read(), old[leaf].read(), leaf)
        np.testing.assert_array_equal(load_prompt(path), PROMPT)

    def test_the_step_is_the_bases(self, tmp_path, base):
        path = t5x.add_prompt(base, TunedPrompt(PROMPT), tmp_path, form="orbax")
        assert path.name == "checkpoint_3"
        assert open_checkpoint(path).kind == "orbax"

    def test_a_prompt_is_replaced_under_its_own_name(self, tmp_path, base):
        first = t5x.add_prompt(base, TunedPrompt(PROMPT), tmp_path / "a", name=REFERENCE_PROMPT)
        second = t5x.add_prompt(first, TunedPrompt(PROMPT + 1), tmp_path / "b")
        names = [n for n in open_checkpoint(second).sources if "prompt" in n]
        assert names == ["target/encoder/prompt/prompt/prompt"]
        np.testing.assert_array_equal(load_prompt(second), PROMPT + 1)

    def test_leaves_that_are_none_stay_none(self, tmp_path):
        leaves = {"state/step": np.int32(1), "state/param_states/a": None, "target/a": PROMPT}
        leaves["target/token_embedder/embedding"] = PROMPT
        for writer in (t5x_legacy, t5x_orbax):
            base = tmp_path / writer.__name__
            base.mkdir()
            writer.write(base / "checkpoint_1", leaves)
            sources = open_checkpoint(
                t5x.add_prompt(base, TunedPrompt(PROMPT), base, step=2)
            ).sources
            assert "state/param_states/a" in sources
            assert sources["state/param_states/a"] is None

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"name": "encoder/encoder_norm/scale"}, "A prompt's leaf is called"),
            ({"name": "foo/bar"}, "A prompt's leaf is called"),
            ({"step": -5}, "step is 0 or more"),
        ],
    )
    def test_other_leaves_and_steps_are_refused(self, tmp_path, base, options, words):
        with pytest.raises(ValueError, match=words):
            t5x.add_prompt(base, TunedPrompt(PROMPT), tmp_path, **options)

    def test_a_prompt_of_another_width(self, tmp_path, base):
        with pytest.raises(ValueError, match="3 wide, the model 16"):
            t5x.add_prompt(base, TunedPrompt(np.ones((5, 3), np.float32)), tmp_path)

    @pytest.mark.parametrize("layout", ["base", "scanned"])
    def test_a_prompt_of_another_model(self, tmp_path, layout, request):
        source = request.getfixturevalue(layout)
        own = fingerprint(unflatten_dict(t5x_goldens.weights(), sep="/"))
        facts = {"base_model_fingerprint": own}
        t5x.add_prompt(source, TunedPrompt(PROMPT, metadata=facts), tmp_path / "own")
        stranger = TunedPrompt(PROMPT, metadata={"base_model_fingerprint": "0" * 64})
        with pytest.raises(ValueError, match="not the model given"):
            t5x.add_prompt(source, stranger, tmp_path / "other")
        t5x.add_prompt(source, stranger, tmp_path / "other", allow_prompt_mismatch=True)

    def test_no_t5(self, tmp_path):
        path = t5x.save(tmp_path, {"a": np.ones(2, np.float32)})
        with pytest.raises(ValueError, match="no T5 to add a prompt to"):
            t5x.add_prompt(path, TunedPrompt(PROMPT), tmp_path / "out")


class TestPrompts:
    @pytest.fixture(scope="class")
    def prompted(self, tmp_path_factory, base):
        directory = tmp_path_factory.mktemp("prompted")
        return t5x.add_prompt(base, TunedPrompt(PROMPT), directory, form="orbax")

    def test_a_prompt_is_not_part_of_the_model(self, prompted, base, caplog):
        model = load_model(prompted)
        assert "not part of the frozen model: encoder/prompt/prompt" in caplog.text
        assert model.fingerprint == load_model(base).fingerprint
        t5x_goldens.assert_same(model.params, t5x_goldens.weights())

    def test_a_run_can_start_from_it(self, prompted):
        initializer = prompt_start.resolve(str(prompted), np.zeros((2, 16)), None, None)
        np.testing.assert_array_equal(initializer(jax.random.key(0), (3, 16)), PROMPT)

    def test_no_prompt(self, base):
        with pytest.raises(ValueError, match="holds no prompt"):
            load_prompt(base)

    def test_several_prompts_and_how_to_name_one(self, tmp_path, monkeypatch):
        leaves = {f"encoder/{name}/prompt": PROMPT for name in "ab"}
        checkpoint = t5x.save(tmp_path / "two", leaves)
        with pytest.raises(ValueError, match=r"encoder/a/prompt, encoder/b/prompt\)") as refused:
            load_prompt(checkpoint)
        command = re.search("`prompt-tuning (.*)`", str(refused.value))[1]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["prompt-tuning"])
        cli.main(command.split())
        np.testing.assert_array_equal(load_prompt("prompt.npy").values, PROMPT)


class TestLoadModel:
    @pytest.fixture(scope="class")
    def both(self, tmp_path_factory, vocabulary):
        """The same weights as a Hugging Face directory and as a T5X checkpoint."""
        directory = tmp_path_factory.mktemp("both")
        hugging_face = tiny.save_model(directory / "hf", vocabulary)
        _, params, _ = huggingface.load(hugging_face)
        return hugging_face, t5x.save(directory / "t5x", params)

    def test_the_same_model(self, both):
        models = [load_model(path) for path in both]
        tokens = np.array([[5, 9, 1, 0], [7, 1, 0, 0]], np.int32)
        logits = [model.logits(tokens, np.array([[0, 4], [0, 6]], np.int32)) for model in models]
        np.testing.assert_array_equal(*logits)
        assert models[0].fingerprint == models[1].fingerprint

    def test_the_vocabulary_is_named(self, both):
        hugging_face, checkpoint = both
        silent = load_model(checkpoint)
        with pytest.raises(ValueError, match=r"name its tokenizer"):
            silent.generate(["the soup was good"])
        expected = load_model(hugging_face).generate(["the soup was good"], max_length=4)
        for place in (hugging_face / "spiece.model", hugging_face):
            speaking = load_model(checkpoint, vocabulary=place)
            assert speaking.generate(["the soup was good"], max_length=4).texts == expected.texts

    def test_a_vocabulary_that_is_too_large(self, both, tmp_path):
        shutil.copy(both[0] / "spiece.model", tmp_path)  # without the number of its extra ids
        with pytest.raises(ValueError, match="do not belong together"):
            load_model(both[1], vocabulary=tmp_path / "spiece.model")

    @pytest.mark.slow
    def test_train_from_it(self, both, tmp_path, one_device):
        hugging_face, checkpoint = both
        runs = {
            "t5x": {"model": str(checkpoint), "vocabulary": str(hugging_face)},
            "hf": {"model": str(hugging_face)},
        }
        options = {"train_steps": 2, "prompt_length": 2, "batch_size": 4, "quiet": True}
        options |= {"feature_lengths": tiny.LENGTHS, "eval_limit": 4, "task": tiny.make_task()}
        prompts = [
            train(model_dir=str(tmp_path / name), **options, **run).prompt
            for name, run in runs.items()
        ]
        np.testing.assert_array_equal(*[prompt.values for prompt in prompts])
        facts = [prompt.metadata["base_model_fingerprint"] for prompt in prompts]
        assert facts[0] == facts[1]

    def test_infer_with_it(self, both, tmp_path, one_device):
        hugging_face, checkpoint = both
        (tmp_path / "inputs.txt").write_text("the soup was good\nthe bread was cold\n")
        answers = {}
        for name, vocabulary in ((hugging_face, None), (checkpoint, str(hugging_face))):
            infer(
                model=str(name),
                vocabulary=vocabulary,
                input_file=str(tmp_path / "inputs.txt"),
                output=str(tmp_path / "answers"),
                max_length=4,
            )
            answers[name] = (tmp_path / "answers").read_text()
        assert answers[hugging_face] == answers[checkpoint]

    def test_no_model_at_all(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(FileNotFoundError, match=r"holds no model: .*but notes\.txt"):
            load_model(tmp_path)


class TestElsewhere:
    """Paths that are not local directories."""

    @pytest.fixture
    def server(self, tmp_path, monkeypatch):
        for name in ("legacy", "orbax", "scanned_orbax"):
            t5x_goldens.unpack(name, tmp_path / name)
        with fake_storage.serve(tmp_path) as (url, requests):
            monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
            monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
            yield url, requests

    def test_google_cloud_storage(self, server):
        _, requests = server
        for name in ("legacy/checkpoint_3", "orbax/checkpoint_3", "scanned_orbax"):
            _, params = t5x.load(f"gs://some-bucket/{name}")
            t5x_goldens.assert_same(params, t5x_goldens.weights())
        assert requests
        assert not [path for path in requests if "param_states" in path]
        with pytest.raises(FileNotFoundError, match="nothing at gs://some-bucket/nowhere"):
            t5x.load("gs://some-bucket/nowhere")

    def test_http(self, server):
        url, _ = server
        _, params = t5x.load(f"{url}/orbax/checkpoint_3")
        t5x_goldens.assert_same(params, t5x_goldens.weights())

    @pytest.mark.slow
    @pytest.mark.parametrize("url", ["gs://bucket/there", "http"])
    def test_a_store_that_nobody_answers_for_is_named(self, monkeypatch, url):
        with socket.create_server(("127.0.0.1", 0)) as refused:
            closed = f"http://127.0.0.1:{refused.getsockname()[1]}"
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", closed)
        monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
        url = f"{closed}/there" if url == "http" else url
        with pytest.raises(ConnectionError, match=f"{url}/checkpoint gives no answer.*network"):
            t5x.load(url)

    def test_a_store_that_is_silent_is_not_waited_for(self, monkeypatch):
        monkeypatch.setattr(t5x_storage, "ANSWER_SECONDS", 1.0)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/there"
            with pytest.raises(ConnectionError, match=f"{url}/.* gives no answer for 1 seconds"):
                t5x.load(url)

    @pytest.mark.parametrize("url", ["ftp://host/there", "hf://t5/small", "abfs://there"])
    def test_an_address_that_is_not_read_is_refused_by_name(self, url):
        scheme = url.partition("/")[0]
        with pytest.raises(ValueError, match=f"^{url}: {scheme}// is no address.*gs://"):
            load_model(url)
        with pytest.raises(ValueError, match=f"{scheme}// is no address"):
            load_prompt(url)

    def test_memory(self, base):
        store = ts.KvStore.open("memory://kept/", context=CONTEXT).result()
        for file in base.rglob("*"):
            if file.is_file():
                key = f"checkpoint_3/{file.relative_to(base)}"
                store.write(key, file.read_bytes()).result()
        _, params = t5x.load("memory://kept")
        t5x_goldens.assert_same(params, t5x_goldens.weights())

    def test_a_file_url(self, base):
        _, params = t5x.load(f"file://{base}", jnp.bfloat16)
        assert params["encoder"]["encoder_norm"]["scale"].dtype == ml_dtypes.bfloat16
