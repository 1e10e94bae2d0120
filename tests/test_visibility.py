"""Isolated prompts in use: files, mixed batches, ensembles and training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning_jax import TunedPrompt, load_prompt, save_prompt
from prompt_tuning_jax import train as run
from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints.peft import write_adapter
from prompt_tuning_jax.layout import VISIBILITIES, place_prompt
from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.planning.arithmetic import work_of

TEXTS = ["the soup was good", "we had cake and it was very cold", "", "bread"]
LABELS = ["yes", "no"]
SIZES = {"batch_size": 4, "max_input_length": 16}


def prompt(length=5, seed=0, visibility="isolated", layout="prefix"):
    values = np.random.default_rng(seed).normal(size=(length, 16)).astype(np.float32)
    return TunedPrompt(values, layout, visibility=visibility)


def bank(*prompts):
    return TunedBank({str(i): one for i, one in enumerate(prompts)})


def answers(model, prompt, texts=TEXTS):
    scores = model.classify(texts, LABELS, prompt, **SIZES).scores
    return scores, model.generate(texts, prompt, max_length=5, **SIZES)


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], atol=2e-5)
    assert ours[1].texts == theirs[1].texts
    np.testing.assert_allclose(ours[1].scores, theirs[1].scores, atol=2e-5)


@pytest.mark.parametrize("visibility", VISIBILITIES)
def test_a_file_remembers(tmp_path, visibility):
    save_prompt(tmp_path / "p", prompt(visibility=visibility))
    assert load_prompt(tmp_path / "p").visibility == visibility


@pytest.mark.slow
def test_every_visibility_answers_differently(model):
    found = [answers(model, prompt(visibility=name))[0] for name in VISIBILITIES]
    for i, one in enumerate(found):
        assert all(np.abs(one - other).max() > 1e-4 for other in found[:i])


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(5, 5), (5, 3)])
def test_mixed_batches_with_and_without_room_for_the_prompts(model, lengths):
    """Prompts of one length stand apart and are computed once; of two, each row holds its own."""
    one, other = (prompt(length, seed) for seed, length in enumerate(lengths))
    mixed = answers(model, bank(one, other).rows(["0", "1", "0", "1"]))
    first, second = answers(model, one), answers(model, other)
    for i, alone in enumerate((first, second, first, second)):
        np.testing.assert_allclose(mixed[0][i], alone[0][i], atol=2e-5)
        assert mixed[1].texts[i] == alone[1].texts[i]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["suffix", "after_bos"])
def test_other_layouts_use_the_mask(model, layout):
    one = prompt(layout=layout)
    assert_same(answers(model, bank(one, prompt(3, 1)).rows(["0"] * 4)), answers(model, one))


@pytest.mark.slow
def test_ensembles_of_isolated_prompts(model):
    same = bank(prompt(), prompt())
    assert_same(answers(model, same.ensemble()), answers(model, prompt()))
    mixed_lengths = bank(prompt(5, 0), prompt(5, 1), prompt(2, 2))
    members = [answers(model, one)[0] for one in mixed_lengths.prompts.values()]
    scores, _ = answers(model, mixed_lengths.ensemble())
    np.testing.assert_allclose(scores, np.mean(members, axis=0), atol=2e-5)


def test_a_batch_has_one_visibility():
    with pytest.raises(ValueError, match="'1': 'full'"):
        bank(prompt(), prompt(visibility="full"))


def test_loss_and_gradient_equal_the_masked_computation(model):
    import jax

    tokens = np.array([[5, 6, 7, 1], [8, 9, 1, 0]])
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.array([[0, 5], [0, 6]]),
        "decoder_target_tokens": np.array([[5, 1], [6, 1]]),
        "decoder_loss_weights": np.ones((2, 2), np.float32),
    }
    joined, positions = place_prompt(tokens, 5)
    placed = batch | {"encoder_input_tokens": joined, "prompt_positions": positions}
    apart = model.replace(config=model.prompted(prompt()).config)
    for one, other in zip(
        jax.value_and_grad(lambda p: apart.loss(batch, p))(prompt().values),
        jax.value_and_grad(lambda p: apart.loss(placed, p))(prompt().values),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_training(model, tmp_path):
    settings = {
        "model": model,
        "task": tiny.make_task(),
        "feature_lengths": tiny.LENGTHS,
        "batch_size": 8,
        "prompt_length": 5,
        "train_steps": 12,
        "eval_period": 6,
        "quiet": True,
    }
    result = run(model_dir=tmp_path / "run", prompt_visibility="isolated", **settings)
    assert result.prompt.visibility == "isolated"
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    full = run(model_dir=tmp_path / "full", **settings).prompt
    assert np.abs(full.values - result.prompt.values).max() > 1e-3
    with pytest.raises(ValueError, match="prompt_visibility was 'isolated', now 'self'"):
        run(model_dir=tmp_path / "run", prompt_visibility="self", **settings)
    with pytest.raises(ValueError, match="prompt_visibility must be one of"):
        run(model_dir=tmp_path / "new", prompt_visibility="hidden", **settings)


def test_peft_has_no_such_prompts(tmp_path):
    with pytest.raises(ValueError, match="visibility 'isolated'"):
        write_adapter(
            tmp_path,
            prompt().values,
            base_model="m",
            num_layers=1,
            num_heads=1,
            visibility="isolated",
        )


def test_an_isolated_prompt_goes_through_the_encoder_once_for_all_rows(model):
    """Told by the matrix products: a prompt in every row costs more than one apart from them."""
    batch = {"encoder_input_tokens": jnp.ones((8, 4), jnp.int32)}
    batch |= dict.fromkeys(
        ("decoder_input_tokens", "decoder_target_tokens"), jnp.ones((8, 1), jnp.int32)
    )

    def flops(visibility):
        config, params, *_ = model.prompted(prompt(40, visibility=visibility))
        traced = jax.make_jaxpr(lambda p: family_of(config).apply(config, p, batch))(params)
        return work_of(traced.jaxpr).flops

    assert flops("isolated") < flops("full") / 2


def test_isolated_prompts_of_a_bank_take_no_room(model):
    tokens = np.ones((2, 4), np.int32)
    for visibility, room in (("isolated", 0), ("full", 5)):
        both = bank(prompt(visibility=visibility), prompt(seed=1, visibility=visibility))
        placed = both.ensemble().place(
            {"encoder_input_tokens": tokens}, model.config.eos_id, model.config.pad_id
        )
        assert placed["encoder_input_tokens"].shape == (4, 4 + room)
        assert ("prompt_positions" in placed) == (room > 0)
