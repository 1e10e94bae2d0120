"""What Python gives a model's methods and cannot be meant is refused, and named."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning_jax import TunedPrompt
from prompt_tuning_jax.arguments import check_batch
from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.data.packing import Shape, pack

P, D = 3, 16
TOKENS = np.array([[5, 6, 1, 0]] * 3)
TARGETS = np.array([[5, 1]] * 3)
BATCH = {
    "encoder_input_tokens": TOKENS,
    "decoder_input_tokens": np.array([[0, 5]] * 3),
    "decoder_target_tokens": TARGETS,
    "decoder_loss_weights": np.ones((3, 2), np.float32),
}
NAMES = [name for name in BATCH if name.endswith("tokens")]


@pytest.fixture
def prompt():
    return np.random.default_rng(0).normal(size=(P, D)).astype(np.float32)


@pytest.fixture
def bank(prompt):
    return TunedBank({"a": TunedPrompt(prompt), "b": TunedPrompt(prompt[:2])})


def calls(model, **changes):
    """The methods that take arrays, each with a changed batch, as functions of a prompt."""
    batch = BATCH | changes
    inputs = batch["encoder_input_tokens"]
    return (
        lambda prompt=None: model.loss(batch, prompt),
        lambda prompt=None: model.logits(inputs, batch["decoder_input_tokens"], prompt),
        lambda prompt=None: model.generate_tokens(inputs, prompt, max_length=2),
    )


# --- texts


@pytest.mark.parametrize(
    "item",
    [None, math.nan, 3, True, b"soup", ["soup"], [[4, 1]], [], [1.5], [-1], [10**6], {"a": 1}],
    ids=repr,
)
def test_what_is_no_text_is_named_with_its_number(model, item):
    for answer in (
        lambda texts: model.generate(texts, max_length=2),
        lambda texts: model.classify(texts, ["yes", "no"]),
        lambda texts: model.label_scores(texts, ["yes", "no"]),
    ):
        with pytest.raises(ValueError, match=r"^texts\[1\] is "):
            answer(["the soup", item])


def test_lists_of_token_ids_are_taken_for_texts(model):
    ids = model.vocabulary.encode("the soup was good")
    as_ids = [[*ids, 1], (*ids, 1), np.array([*ids, 1])]
    texts = model.generate([*as_ids, "the soup was good", ""], max_length=2).texts
    assert len(set(texts[:4])) == 1


@pytest.mark.parametrize("texts", ["soup", b"soup", {"a": "soup"}, iter(["soup"]), 3, None])
def test_what_is_no_list_of_texts_is_refused(model, texts):
    with pytest.raises(ValueError, match="Expected a list of texts"):
        model.generate(texts)


def test_labels_that_are_no_texts_are_named(model, wrong_arrays):
    with pytest.raises(ValueError, match=r"verbalizers\[1\] is 1,"):
        model.classify(["soup"], ["yes", 1])


@pytest.mark.parametrize("numbers", [[1, 2], [], [-1], [2**32], [1.5], [True]])
def test_numbers_of_texts_are_one_for_each(model, numbers):
    with pytest.raises(ValueError, match="numbers"):
        model.generate(["soup"], numbers=numbers)


# --- numbers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((n, v) for n in ("max_length", "beams") for v in (0, True, 10**20, 2.0, "3")),
        *(("temperature", v) for v in (-1, math.nan, math.inf, "1", True)),
        *(("top_p", v) for v in (0, 1.5, math.nan)),
        *(("top_k", v) for v in (-1, 1.5, 10**20)),
        *(("length_penalty", v) for v in (math.inf, 1e3)),
        *(("seed", v) for v in (-1, 2**32, 1.5, True)),
    ],
)
def test_numbers_that_cannot_be_meant_are_named(model, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        model.generate(["soup"], **{name: value})
    with pytest.raises(ValueError, match=f"^{name} must be"):
        model.generate_tokens(TOKENS, **{name: value})


@pytest.mark.parametrize("name", ["batch_size", "max_input_length"])
@pytest.mark.parametrize("value", [0, -1, True, 10**20, 1.5, "8", None])
def test_sizes_that_cannot_be_meant_are_named(model, name, value):
    for answer in (
        lambda **size: model.generate(["soup"], **size),
        lambda **size: model.classify(["soup"], ["yes", "no"], **size),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            answer(**{name: value})


def test_more_than_the_memory_holds_is_refused_before_it_is_taken(model):
    with pytest.raises(ValueError, match=r"max_length=131072, beams=1024 and 32 rows.* GiB"):
        model.generate(["soup"], max_length=2**17, beams=1024)


# --- arrays


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x - 9, "holds the id -"),
        (lambda x: x + 10**6, "holds the id 10000"),
        (lambda x: x.astype(np.float32), "whole token ids"),
        (lambda x: x > 0, "whole token ids"),
        (lambda x: x[0], "whole token ids"),
        (lambda x: x[None], "whole token ids"),
        (lambda x: x[:, :0], "whole token ids"),
        (lambda x: [[1, 2], [3]], "whole token ids"),
        (lambda x: None, "whole token ids"),
        (lambda x: x[:2], "is \\[2, "),
    ],
)
def test_token_ids_that_cannot_be_meant_are_named(model, wrong_arrays, name, change, words):
    loss, logits, generate = calls(model, **{name: change(BATCH[name])})
    used = {"encoder_input_tokens": (loss, logits), "decoder_input_tokens": (loss, logits)}
    for call in used.get(name, (loss,)):
        with pytest.raises(ValueError, match=words):
            call()
    if name == "encoder_input_tokens" and "[2, " not in words:
        with pytest.raises(ValueError, match=f"^{name}.*{words}"):
            generate()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("decoder_loss_weights", np.ones((3, 1)), r"is \[3, 1\], but decoder_target_tokens"),
        ("decoder_loss_weights", np.full((3, 2), np.nan), "finite"),
        ("decoder_target_tokens", np.ones((3, 3), int), r"\[3, 3\]"),
        ("prompt_positions", np.full((3, 5), -1), r"is \[3, 5\]"),
        ("prompt_positions", np.full((3, 4), P), "must be -1 to 2 with this prompt"),
        ("prompt_positions", np.full((3, 4), -2), "must be -1 to 2"),
        ("prompt_positions", np.full((3, 4), 0.0), "whole numbers"),
        ("prompt_ids", np.array([0, 0, 1]), "must be 0 to 0"),
        ("prompt_ids", np.array([0, 0]), r"is \[2\]"),
        ("encoder_segment_ids", np.ones((3, 2), int), r"is \[3, 2\]"),
    ],
)
def test_arrays_that_do_not_belong_together_are_named(model, prompt, name, value, words):
    with pytest.raises(ValueError, match=words) as found:
        model.loss(BATCH | {name: value}, prompt)
    assert name in str(found.value)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int4])
def test_weights_are_numbers_of_any_kind(model, dtype):
    weights = jnp.ones((3, 2), dtype)
    whole = float(model.loss(BATCH))
    assert float(model.loss(BATCH | {"decoder_loss_weights": weights})) == pytest.approx(whole)


def test_weights_that_are_no_numbers_are_refused_under_a_trace_too(model):
    weights = jnp.ones((3, 2), jnp.complex64)
    with pytest.raises(ValueError, match="decoder_loss_weights must be finite numbers"):
        jax.jit(lambda x: model.loss(BATCH | {"decoder_loss_weights": x}))(weights)


def test_only_arrays_that_are_there_are_compared():
    batch = {name: x for name, x in BATCH.items() if name != "decoder_target_tokens"}
    needed = ("encoder_input_tokens", "decoder_input_tokens")
    check_batch(batch, 10, needed)
    with pytest.raises(ValueError, match="decoder_input_tokens is"):
        check_batch(batch | {"decoder_input_tokens": TARGETS[:2]}, 10, needed)


def test_lists_are_taken_for_arrays(model, prompt):
    batch = BATCH | {"prompt_positions": np.array([[-1, 0, 1, 2]] * 3), "prompt_ids": [0] * 3}
    as_lists = {name: np.asarray(x).tolist() for name, x in batch.items()}
    assert float(model.loss(as_lists, prompt)) == float(model.loss(batch, prompt))
    with pytest.raises(ValueError, match=r"prompt_positions is \[\], but encoder_input_tokens"):
        model.loss(as_lists | {"prompt_positions": [[0], [1, 2], []]}, prompt)


@pytest.mark.parametrize("name", BATCH)
def test_an_array_that_is_missing_is_named(model, name):
    with pytest.raises(ValueError, match=f"The batch has no {name}"):
        model.loss({other: x for other, x in BATCH.items() if other != name})


def test_what_is_no_batch_is_refused(model):
    with pytest.raises(ValueError, match="A batch is a mapping"):
        model.loss(list(BATCH.values()))


def test_under_a_trace_shapes_and_dtypes_are_checked_and_values_are_not(model, prompt):
    whole = float(model.loss(BATCH, prompt))
    traced = jax.jit(lambda batch, prompt: model.loss(batch, prompt))
    np.testing.assert_allclose(traced(jax.tree.map(jnp.asarray, BATCH), prompt), whole, rtol=1e-6)
    gradient = jax.grad(lambda p: model.loss(BATCH, p))(jnp.asarray(prompt))
    assert gradient.shape == prompt.shape
    with pytest.raises(ValueError, match="whole token ids"):
        traced(BATCH | {"decoder_input_tokens": np.zeros((3, 2), np.float32)}, prompt)
    with pytest.raises(ValueError, match="holds the id 1006"):
        jax.grad(lambda p: model.loss(BATCH | {"encoder_input_tokens": TOKENS + 1000}, p))(prompt)


def test_packed_batches_are_taken(model, prompt):
    pairs = [([5, 6, 1], [7, 1])] * 3
    packed = pack(pairs, [[0, 1], [2]], Shape(2, 16, 8), prompt_length=P)
    assert np.isfinite(model.loss(packed, prompt))


# --- prompts


@pytest.mark.parametrize("path", ["runs/best", Path("runs/best")])
def test_a_path_is_no_prompt(model, wrong_arrays, path):
    for call in (
        *calls(model),
        lambda prompt: model.generate(["soup"], prompt),
        lambda prompt: model.classify(["soup"], ["yes", "no"], prompt),
    ):
        with pytest.raises(ValueError, match=r"pass pt\.load_prompt\('runs/best'\)"):
            call(path)


@pytest.mark.parametrize("paths", [["a", "b"], {"a": "runs/a"}, (Path("a"),)])
def test_paths_are_no_bank(model, wrong_arrays, paths):
    with pytest.raises(ValueError, match=r"pt\.load_bank"):
        model.generate(["soup"], paths)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_banks_rows_are_as_many_as_the_batchs(model, bank, count):
    rows = bank.rows(["a"] * count)
    for call in calls(model):
        with pytest.raises(ValueError, match=f"3 inputs, but rows of {count} prompts"):
            call(rows)
    for call in calls(model, **{name: jnp.asarray(x) for name, x in BATCH.items()}):
        with pytest.raises(ValueError, match=f"3 inputs, but rows of {count} prompts"):
            call(rows)


def test_a_prompt_with_nan_is_refused(model, prompt):
    prompt[0, 0] = np.nan
    for call in calls(model):
        with pytest.raises(ValueError, match="finite"):
            call(prompt)
