"""Training within the query encoder: an adapter, or all its weights, and documents as they were."""

import json

import jax
import numpy as np
import pytest
from causal_models import MODELS
from common import slow
from embedding_models import HERE, load
from test_adapters import OPTIONS, drawn
from test_retrieval_train import WORDS, run, write_collection

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter, save_adapter
from prompt_tuning_jax.commands.cli import main
from prompt_tuning_jax.commands.retrieval.embed import embed
from prompt_tuning_jax.data.collection import read_collection
from prompt_tuning_jax.data.text_rows import TextPrompts
from prompt_tuning_jax.evaluation.retrieval.sides import embed_documents
from prompt_tuning_jax.evaluation.retrieval.store import load_store
from prompt_tuning_jax.training.retrieval.scoring import scores_of

CAUSAL = {name: MODELS[name] for name in ("qwen3", "gpt2") if name in MODELS}
TEXTS = [f"not {word} but {WORDS[i - 1]}?" for i, word in enumerate(WORDS)]


def model_of(name, **options):
    return pt.load_embedding_model(CAUSAL[name], **options) if name in CAUSAL else load(name)


def settings(model, data, directory, method, **changes):
    """`prompt_length` only where the method has one."""
    whole = run(model, data, directory, method=method, **changes)
    if method not in ("prompt", "prefix") and "prompt_length" not in changes:
        del whole["prompt_length"]
    return whole


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("name", "method", "also"),
    [
        ("bert", "lora", {}),
        slow("bert", "model", {}),
        slow("bert", "ia3", {}),
        slow("bert", "bitfit", {}),
        slow("sentence_t5", "lora", {}),
        slow("sentence_t5", "model", {}),
        slow("sentence_t5", "ia3", {}),
        slow("sentence_t5", "bitfit", {}),
        slow("sentence_t5", "prefix", {"prefix_stack": "encoder"}),
        slow("qwen3", "lora", {}),
        slow("qwen3", "model", {}),
        slow("qwen3", "prefix", {}),
        *([slow("gpt2", "lora", {}), slow("gpt2", "prefix", {})] if "gpt2" in CAUSAL else []),
    ],
)
def test_the_query_side_trains_and_documents_stay(data, tmp_path, name, method, also):
    """What trains is written, and makes the same vectors when it is read; nothing else moved."""
    model = model_of(name)
    before = jax.tree.map(np.array, model.params)
    documents = list(read_collection(data).documents.values())
    vectors, queries = model.embed(documents), model.embed(TEXTS)
    result = pt.train(**settings(model, data, tmp_path / "run", method, **also))
    assert result.prompt is None
    # The frozen model, and what its documents are.
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    np.testing.assert_array_equal(model.embed(documents), vectors)
    store = load_store(tmp_path / "run" / "index")
    np.testing.assert_array_equal(np.asarray(store.vectors), vectors)
    # The query side.
    tuned = model.adapted(tmp_path / "run" / "last")
    assert np.abs(tuned.embed(TEXTS) - queries).max() > 1e-4
    best = model_of(name).adapted(tmp_path / "run" / "best")
    np.testing.assert_array_equal(best.embed(TEXTS), result.model.embed(TEXTS))
    assert tuned.fingerprint == model.fingerprint
    store.check(tuned)


def loss(model, data, store):
    """Of all training queries among all documents."""
    collection = read_collection(data)
    grades = collection.split("train")
    vectors = model.embed([collection.queries[query] for query in grades])
    scores = vectors @ store.rows(np.arange(len(store))).T / 0.05
    answers = [store.ids.index(next(iter(judged))) for judged in grades.values()]
    shares = jax.nn.log_softmax(scores)
    return -float(np.mean(np.take_along_axis(shares, np.array(answers)[:, None], axis=1)))


@pytest.fixture(scope="module", params=["lora", slow("model")])
def trained(request, data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "run"
    result = pt.train(**settings(load("bert"), data, directory, request.param))
    return request.param, directory, result


def test_what_a_run_says_is_what_its_query_side_scores(trained, data):
    method, directory, result = trained
    model, store = load("bert"), load_store(directory / "index")
    tuned = model.adapted(directory / "best")
    assert tuned.adapter.method == method
    collection = read_collection(data)
    grades = collection.split("validation")
    texts = [collection.queries[query] for query in grades]
    scores = scores_of(tuned.embed(texts), grades, store)
    said = tuned.adapter.metadata
    assert {name: said["scores"][name] for name in scores} == pytest.approx(scores)
    assert max(each["ndcg@10"] for each in result.history) == pytest.approx(scores["ndcg@10"])
    assert (said["sides"], said["pooling"]) == ("query", list(model.config.pooling))
    last = model.adapted(directory / "last")
    assert loss(last, data, store) < loss(model, data, store)


def test_resumed_is_uninterrupted(trained, data, tmp_path):
    method, whole, _ = trained
    parts, model = tmp_path / "parts", load("bert")
    pt.train(**settings(model, data, parts, method, train_steps=6))
    kept = (parts / "index" / "vectors.npy").read_bytes()
    pt.train(**settings(model, data, parts, method))
    assert (parts / "index" / "vectors.npy").read_bytes() == kept
    for name in ("best", "last"):
        one, other = (load_adapter(each / name, model.config).leaves for each in (whole, parts))
        assert one.keys() == other.keys()
        for leaf, values in one.items():
            np.testing.assert_array_equal(values, other[leaf])


@pytest.mark.slow
def test_without_a_prompt_all_weights_train(data, tmp_path):
    """`prompt_length` 0 is model tuning, as it is elsewhere."""
    short = {"train_steps": 2, "eval_period": 2, "checkpoint_period": 2}
    model = load("bert")
    pt.train(**run(model, data, tmp_path / "zero", prompt_length=0, **short))
    pt.train(**settings(model, data, tmp_path / "named", "model", **short))
    one, other = (
        load_adapter(tmp_path / name / "last", model.config) for name in ("zero", "named")
    )
    assert one.method == other.method == "model"
    for name, values in one.leaves.items():
        np.testing.assert_array_equal(values, other.leaves[name])


@pytest.mark.slow
def test_several_at_once_are_as_alone(data, tmp_path):
    model = load("bert")
    runs = {"zero": {"seed": 0}, "one": {"seed": 1}}
    results = pt.train_many(runs, **settings(model, data, tmp_path / "many", "lora"))
    pt.train(**settings(model, data, tmp_path / "alone", "lora"))
    one, other = (
        model.adapted(tmp_path / each / "last").embed(TEXTS) for each in ("alone", "many/zero")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert results["one"].model.adapter.method == "lora"


@pytest.mark.slow
def test_a_whole_query_side_beside_an_int8_model(trained):
    """Weights that took the place of others are read as they are, whatever those were kept in."""
    _, directory, _ = trained
    small = load("bert", dtype="int8").adapted(directory / "best")
    whole = load("bert").adapted(directory / "best")
    cosines = (small.embed(TEXTS) * whole.embed(TEXTS)).sum(axis=1)
    assert cosines.min() > (0.999999 if trained[0] == "model" else 0.99)


# --- used by the commands


@pytest.mark.usefixtures("one_device")
def test_commands_take_it(trained, tmp_path, capsys):
    _, directory, _ = trained
    where, lines = str(HERE / "bert" / "model"), tmp_path / "texts.txt"
    lines.write_text("".join(f"{text}\n" for text in TEXTS))
    expected = load("bert").adapted(directory / "best").embed(TEXTS)
    given = {"model": where, "input_file": lines, "output": tmp_path / "vectors.npy"}
    found = embed(**given, adapter=directory / "best")
    np.testing.assert_array_equal(found, expected)
    capsys.readouterr()
    words = ["--index", str(directory / "index"), "--model", where, "--top", "8", "--json"]
    main(["search", TEXTS[0], *words, "--adapter", str(directory / "best")])
    told = json.loads(capsys.readouterr().out)["documents"]
    store = load_store(directory / "index")
    scores = dict(zip(store.ids, np.asarray(store.vectors) @ expected[0], strict=True))
    assert {one["_id"]: one["score"] for one in told} == pytest.approx(scores, abs=1e-5)


@pytest.mark.slow
def test_it_knows_its_text_prompt(data, tmp_path):
    before = TextPrompts({"query": "query: ", "other": "other: "}, "other")
    model = load("bert").replace(text_prompts=before)
    short = {"train_steps": 2, "eval_period": 2, "checkpoint_period": 2}
    pt.train(**settings(model, data, tmp_path / "run", "lora", **short))
    tuned = model.adapted(tmp_path / "run" / "last")
    np.testing.assert_array_equal(tuned.embed(TEXTS), tuned.embed(TEXTS, name="query"))
    assert not np.array_equal(tuned.embed(TEXTS), tuned.embed(TEXTS, name="other"))


# --- what PEFT has of it


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bert", "encoder.layer.0.attention.self.query"),
        slow("sentence_t5", "encoder.block.0.layer.0.SelfAttention.q"),
        slow("qwen3", "layers.0.self_attn.q_proj"),
        *([slow("gpt2", "h.0.attn.c_attn")] if "gpt2" in CAUSAL else []),
    ],
)
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_files_are_peft_of_the_network_alone(data, tmp_path, name, tensor, method):
    """By the names that `AutoModel` has for modules, for feature extraction."""
    from safetensors.numpy import load_file

    short = {"train_steps": 1, "eval_period": 1, "checkpoint_period": 1}
    model = model_of(name)
    pt.train(**settings(model, data, tmp_path / "run", method, **short))
    best = tmp_path / "run" / "best"
    said = json.loads((best / "adapter_config.json").read_text())
    assert said["task_type"] == "FEATURE_EXTRACTION"
    ends = {"lora": [".lora_A.weight", ".lora_B.weight"], "ia3": [".ia3_l"]}[method]
    names = set(load_file(best / "adapter_model.safetensors"))
    if method == "ia3":
        tensor = tensor.replace("query", "key").replace("q_proj", "k_proj").replace(".q", ".k")
    assert {f"base_model.model.{tensor}{end}" for end in ends} <= names
    assert not any("decoder" in each for each in names)
    assert method == "ia3" or all("." not in each for each in said["target_modules"])
    (best / "adapter.json").unlink()
    vectors = model.adapted(tmp_path / "run" / "last").embed(TEXTS)
    np.testing.assert_array_equal(model.adapted(best).embed(TEXTS), vectors)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_what_peft_changes_of_a_berts_pooler_is_left_out(tmp_path, method):
    """Among all linear layers it is another that PEFT adapts; no vector here comes from it."""
    from safetensors.numpy import load_file, save_file

    model = load("bert")
    save_adapter(tmp_path, drawn(method, model, OPTIONS), model.config, model.name)
    expected = model.adapted(tmp_path).embed(TEXTS)
    path, module = tmp_path / "adapter_model.safetensors", "base_model.model.pooler.dense"
    more = {f"{module}.ia3_l": np.ones((32, 1), np.float32)}
    if method == "lora":
        of_pooler = {"A": np.ones((3, 32), np.float32), "B": np.ones((32, 3), np.float32)}
        more = {f"{module}.lora_{letter}.weight": x for letter, x in of_pooler.items()}
    save_file(load_file(path) | more, path)
    np.testing.assert_array_equal(model.adapted(tmp_path).embed(TEXTS), expected)


# --- what is refused


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert", {"method": "prefix", "prompt_length": 4}, "a BERT has no place for keys"),
        ("bert", {"method": "decoder_prompt", "prompt_length": 4}, "has no decoder"),
        ("bert", {"method": "both_prompts", "prompt_length": 4}, "has no decoder"),
        ("sentence_t5", {"method": "prefix", "prompt_length": 4}, "no decoder for a prefix"),
        ("bert", {"method": "lora", "sides": "both"}, "sides=both is of a prompt"),
        ("bert", {"prompt_length": 0, "pool_prompt": True}, "pool_prompt=True is of a prompt"),
        ("bert", {"method": "lora", "lora_targets": ["qkv"]}, "lora_targets.*no layer"),
        ("bert", {"trainable": [(".*", None)]}, "rule is"),
        ("bert", {"method": "model", "dropout_rate": 0.1}, "has no dropout"),
    ],
)
def test_what_cannot_be_trained_is_said(data, tmp_path, name, changes, message):
    method = changes.pop("method", None)
    with pytest.raises(ValueError, match=message):
        pt.train(**settings(load(name), data, tmp_path / "run", method, **changes))
    assert not (tmp_path / "run" / "index").exists()


def test_int8_weights_do_not_train(data, tmp_path):
    with pytest.raises(ValueError, match="only a prompt or an adapter can train"):
        pt.train(**settings(load("bert", dtype="int8"), data, tmp_path / "run", "model"))


def test_rules_are_refused(data, tmp_path):
    import optax

    rules = [(".*", optax.sgd(0.1))]
    with pytest.raises(ValueError, match="leave trainable out"):
        pt.train(**run(load("bert"), data, tmp_path / "run", trainable=rules))


def test_elsewhere_it_is_refused(trained, data, tmp_path):
    _, directory, _ = trained
    best, model = directory / "best", load("bert")
    tuned = model.adapted(best)
    other = model.replace(params=jax.tree.map(lambda x: x * 2, model.params))
    with pytest.raises(ValueError, match="was trained for"):
        other.adapted(best)
    other.adapted(best, allow_prompt_mismatch=True)
    with pytest.raises(ValueError, match="load the model that"):
        load("sentence_t5").adapted(best)
    with pytest.raises(ValueError, match="tuned for vectors of pooling"):
        load("bert", pooling="max").adapted(best)
    with pytest.raises(ValueError, match="has an adapter already"):
        tuned.adapted(best)
    with pytest.raises(ValueError, match="has an adapter already"):
        tuned.embed(TEXTS, np.zeros((4, 32), np.float32))
    with pytest.raises(ValueError, match="documents keep the vectors"):
        embed_documents(tuned, TEXTS)
    with pytest.raises(ValueError, match="has an adapter already"):
        pt.train(**run(tuned, data, tmp_path / "run"))
