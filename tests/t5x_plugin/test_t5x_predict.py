"""`t5x.eval` and `t5x.infer`: a base checkpoint with a prompt file, or a trained checkpoint."""

import numpy as np
import pytest
import t5x_runs
import tiny

from prompt_tuning_jax import FrozenModel, load_prompt, load_vocabulary, save_prompt
from prompt_tuning_jax.bundled.tasks import bundled_examples, bundled_task
from prompt_tuning_jax.checkpoints import t5x
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.params import unflatten

pytestmark = pytest.mark.t5x
LENGTHS = {"inputs": 128, "targets": 4}  # no input is cut
BEAM = f"{t5x_runs.GIN}/decoding/beam_search.gin"
SAMPLING = f"{t5x_runs.GIN}/decoding/sampling.gin"


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """A prompt that changes what a random model says."""
    values = np.random.default_rng(1).normal(0, 3, (5, t5x_runs.CONFIG.emb_dim))
    return save_prompt(tmp_path_factory.mktemp("loud"), values.astype(np.float32))


@pytest.fixture
def infer(base, tmp_path):
    """Predictions (or scores) for the validation examples, in their order."""

    def infer(name="out", *files, **bindings):
        checkpoint = bindings.pop("INITIAL_CHECKPOINT_PATH", base)
        bindings = {"TASK_FEATURE_LENGTHS": LENGTHS} | bindings
        return t5x_runs.infer(tmp_path / name, checkpoint, *files, **bindings)

    return infer


@pytest.fixture(scope="module")
def model(base):
    vocabulary = load_vocabulary(BUNDLED / "spiece.model")
    return FrozenModel(t5x_runs.CONFIG, unflatten(t5x_runs.weights(base)), vocabulary)


def inputs():
    return [example["inputs"] for example in bundled_examples("bundled_sentiment", "validation")]


def generated(model, prompt, **options):
    """What this library's own decoder says to the same inputs."""
    return model.generate(inputs(), prompt, max_length=4, max_input_length=128, **options).texts


def test_a_prompt_file_and_the_trained_checkpoint_predict_alike(run, infer):
    from_file = infer("file", MODE="score", PROMPT_FILE=str(run / "prompts" / "15"))
    whole = infer("whole", MODE="score", CHECKPOINT_PATH=str(run / "checkpoint_15"))
    assert len(from_file) == 500
    np.testing.assert_array_equal(from_file, whole)


def test_a_prompt_named_as_the_reference_names_it_is_found(run, infer, tmp_path):
    params = t5x_runs.weights(run / "checkpoint_15")
    params["encoder/prompt/prompt/prompt"] = params.pop("encoder/prompt/prompt")
    theirs = t5x.save(tmp_path, params, step=15)
    np.testing.assert_array_equal(
        infer("theirs", MODE="score", CHECKPOINT_PATH=str(theirs)),
        infer("ours", MODE="score", CHECKPOINT_PATH=str(run / "checkpoint_15")),
    )


def test_a_prompts_visibility_goes_with_it(base, infer, model, tmp_path):
    isolated = {"config.T5Config.prompt_visibility": "isolated"}
    t5x_runs.train(tmp_path / "run", base, TRAIN_STEPS=7, **isolated)
    saved = tmp_path / "run" / "prompts" / "7"
    prompt = load_prompt(saved)
    assert prompt.visibility == "isolated"
    assert infer("isolated", PROMPT_FILE=str(saved), **isolated) == generated(model, prompt)
    with pytest.raises(ValueError, match="visibility 'isolated', this model's is 'full': bind"):
        infer("full", PROMPT_FILE=str(saved))


@pytest.mark.parametrize("layout", ["after_bos", "suffix", "suffix_before_eos"])
def test_a_prompts_layout_goes_with_it(base, infer, model, tmp_path, layout):
    t5x_runs.train(tmp_path / "run", base, TRAIN_STEPS=7, PROMPT_LAYOUT=layout)
    saved = tmp_path / "run" / "prompts" / "7"
    prompt = load_prompt(saved)
    assert prompt.layout == layout
    expected = generated(model, prompt)
    assert infer("file", PROMPT_FILE=str(saved)) == expected
    assert infer("run", CHECKPOINT_PATH=str(tmp_path / "run" / "checkpoint_7")) == expected


def test_greedy_predictions_are_our_own_decoders(infer, model, loud):
    theirs = infer(PROMPT_FILE=str(loud))
    assert theirs == generated(model, load_prompt(loud))


def test_beam_search_predictions_are_our_own_decoders(infer, model, loud):
    theirs = infer("beam", BEAM, PROMPT_FILE=str(loud), LENGTH_PENALTY=0.0)
    ours = generated(model, load_prompt(loud), beams=4)
    assert np.mean([a == b for a, b in zip(theirs, ours, strict=True)]) > 0.98  # ties


def test_another_prompt_gives_other_predictions(run, infer, loud):
    prompt = str(run / "prompts" / "3")
    for name, files in (("greedy", ()), ("beam", (BEAM,)), ("sampling", (SAMPLING,))):
        one = infer(f"{name}1", *files, PROMPT_FILE=prompt)
        two = infer(f"{name}2", *files, PROMPT_FILE=str(loud))
        assert np.mean([a != b for a, b in zip(one, two, strict=True)]) > 0.5, name


def test_sampling_from_almost_nothing_is_greedy(infer, loud):
    cold = infer("cold", SAMPLING, PROMPT_FILE=str(loud), TOP_P=1e-6)
    assert cold == infer("greedy", PROMPT_FILE=str(loud))
    assert cold != infer("warm", SAMPLING, PROMPT_FILE=str(loud))


def test_a_metric_is_our_own_evaluations(base, model, run, tmp_path):
    prompt = run / "prompts" / "15"
    theirs = t5x_runs.evaluate(
        tmp_path, base, PROMPT_FILE=str(prompt), TASK_FEATURE_LENGTHS=LENGTHS
    )
    ours = evaluate_task(
        model,
        bundled_task("bundled_sentiment"),
        prompt=load_prompt(prompt),
        predictions="generate",
        feature_lengths=LENGTHS,
    ).scores
    assert theirs["accuracy"] == pytest.approx(ours["accuracy"])


# --- what is refused


def test_a_base_checkpoint_needs_a_prompt_file(infer):
    with pytest.raises(ValueError, match="holds no prompt: give PROMPT_FILE"):
        infer()


def test_a_prompt_of_another_width_is_refused(infer, tmp_path):
    wide = save_prompt(tmp_path / "wide", np.ones((5, 32), np.float32))
    with pytest.raises(ValueError, match=r"is \[5, 32\], this model's \[5, 16\]"):
        infer(PROMPT_FILE=str(wide))


def test_a_prompt_of_other_weights_is_refused(run, base, infer, tmp_path):
    other = t5x.save(tmp_path / "other", tiny.make_params(t5x_runs.CONFIG, seed=1), 3)
    theirs = {"PROMPT_FILE": str(run / "prompts" / "15"), "INITIAL_CHECKPOINT_PATH": str(other)}
    with pytest.raises(ValueError, match=r"was tuned for .* which is not the model given"):
        infer(**theirs)
    assert infer("all_the_same", **theirs, ALLOW_PROMPT_MISMATCH=True)
    with pytest.raises(ValueError, match=r"was tuned for .* which is not the model given"):
        t5x_runs.train(tmp_path / "run", other, PROMPT_INIT=theirs["PROMPT_FILE"])


def test_a_name_that_is_no_start_is_answered_with_those_that_are(base, tmp_path):
    with pytest.raises(FileNotFoundError, match="none of uniform, sampled_vocabulary, class_label"):
        t5x_runs.train(tmp_path, base, PROMPT_INIT="sampled_vocabluary")
