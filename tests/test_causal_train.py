"""A prompt for a causal model is trained, saved, found again and used as a T5's."""

import json

import jax
import numpy as np
import pytest
import tiny
from causal_models import MODELS, numbers
from common import slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.peft import read_adapter, write_adapter
from prompt_tuning_jax.commands.export_prompt import main as export
from prompt_tuning_jax.commands.inference.infer import main as infer
from prompt_tuning_jax.commands.train import main as train
from prompt_tuning_jax.data.batches import eval_batches
from prompt_tuning_jax.data.encoding import Encoder
from prompt_tuning_jax.data.lost_text import LostText, in_words
from prompt_tuning_jax.decoding.text import as_examples, label_tokens

pytestmark = pytest.mark.usefixtures("one_device")
NAME = "qwen3"


@pytest.fixture(scope="module")
def model():
    return pt.load_model(MODELS[NAME])


def test_a_prompt_trains_and_nothing_else(model, tmp_path):
    before = jax.tree.map(np.asarray, model.params)
    prompt, history = pt.train(**tiny.short_run(model, tmp_path / "run"))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    again = pt.load_prompt(tmp_path / "run" / "last")
    model.check(again)
    texts = ["the soup was good", "we had tea and it was very cold"]
    answers = model.classify(texts, list(tiny.LABELS), prompt)
    assert set(answers.labels) <= set(tiny.LABELS)
    assert np.isfinite(answers.scores).all()
    scores = pt.evaluate(model=model, task=tiny.make_task(), prompt=str(tmp_path / "run" / "last"))
    assert scores


@pytest.mark.parametrize(
    ("name", "how"),
    [
        slow("llama_tied", {"pack": True}),  # whose padding has an id past the table
        (NAME, {"scan_layers": True, "remat_policy": "full"}),
    ],
)
@pytest.mark.slow
def test_packed_or_scanned_it_is_the_same_prompt(name, tmp_path, how):
    model = pt.load_model(MODELS[name])
    steps = {
        "train_steps": 2,
        "eval_period": 2,
        "trainable": tiny.PLAIN_STEPS,
        "learning_rate": None,
    }
    expected, _ = pt.train(**tiny.short_run(model, tmp_path / "one", **steps))
    found, _ = pt.train(**tiny.short_run(model, tmp_path / "other", **steps, **how))
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_same_commands(tmp_path, capsys):
    """`prompt-tuning train`, `infer` and `export` for a directory of Hugging Face's."""
    data = tiny.save_files(tmp_path / "data")
    train(
        (
            f"--model {MODELS[NAME]} --data_dir {data} --prompt_length 4 --train_steps 2 "
            f"--eval_period 2 --batch_size 8 --model_dir {tmp_path}/run --quiet "
            "--verbalizers 0=yes 1=no --input_template {text}"
        ).split()
    )
    inputs = tmp_path / "texts.txt"
    inputs.write_text("the soup was good\n")
    capsys.readouterr()
    infer(f"--model {MODELS[NAME]} --prompt {tmp_path}/run/last --input_file {inputs}".split())
    assert json.loads(capsys.readouterr().out)["prediction"] in ("yes", "no")
    export([f"--model={MODELS[NAME]}", f"{tmp_path}/run/last", f"{tmp_path}/peft"])
    values, facts = read_adapter(tmp_path / "peft")
    np.testing.assert_array_equal(values, pt.load_prompt(tmp_path / "run" / "last").values)
    raw = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (raw["task_type"], raw["num_layers"]) == ("CAUSAL_LM", 2)
    assert facts["base_model"]


def test_pefts_own_file_is_read(model):
    values, _ = read_adapter(MODELS[NAME] / "peft")
    np.testing.assert_array_equal(values, numbers(NAME, "peft.npz")["random_prompt"])
    assert pt.load_prompt(MODELS[NAME] / "peft").shape == values.shape


def test_an_adapter_for_the_other_kind_of_model_is_refused(model, tmp_path):
    """Though it is as wide; also as a prompt file that was made of it."""
    t5, kinds = pt.load_model("bundled"), ("SEQ_2_SEQ_LM", "CAUSAL_LM")
    for wrong, one in zip(kinds, (model, t5), strict=True):
        values = np.ones((2, one.config.emb_dim), np.float32)
        path = tmp_path / wrong
        facts = {"base_model": "m", "num_layers": 2, "num_heads": 2}
        write_adapter(path, values, task_type=wrong, **facts)
        pt.save_prompt(path / "again", pt.load_prompt(path))
        for prompt in map(pt.load_prompt, (path, path / "again")):
            for use in (one.check, one.prompted):
                with pytest.raises(ValueError, match=f"of the kind {wrong}, but the model given"):
                    use(prompt)
        right = next(kind for kind in kinds if kind != wrong)
        one.check(pt.TunedPrompt(values, metadata={"peft_task_type": right}))


class TestJoins:
    """Of input and target, which nothing stands between but what the templates say."""

    def lost(self, name, text, target):
        found = LostText(pt.load_model(MODELS[name]).vocabulary)
        found.add({"inputs": text, "targets": target})
        return found

    @pytest.mark.parametrize(
        ("name", "text", "target", "touching", "after_space"),
        [
            ("qwen3", "it was good", "the", 1, 0),
            ("qwen3", "Answer:", "the", 1, 0),
            ("qwen3", "Answer:", " the", 0, 0),
            ("qwen3", "Answer: ", "the", 0, 1),
            ("qwen3", "Answer:\n", "the", 0, 0),
            ("qwen3", "Answer: (", "the", 0, 0),
            ("qwen3", "Answer", "!", 0, 0),
            # This vocabulary begins every target with a space.
            ("llama_tied", "it was good", "the", 0, 0),
            ("llama_tied", "Answer: ", "the", 0, 1),
        ],
    )
    def test_what_is_said_of_them(self, name, text, target, touching, after_space):
        found = self.lost(name, text, target)
        assert (found.touching, found.after_space) == (touching, after_space)
        sentences = " ".join(in_words(found))
        assert ("follow their input without a space" in sentences) == bool(touching)
        assert ("inputs end in a space" in sentences) == bool(after_space)

    def test_training_and_ranking_read_the_same_tokens(self, model, tmp_path):
        """Those of the joined text, where the label begins with the space, as the page says."""
        vocabulary = model.vocabulary
        example = {"inputs": "Answer:", "targets": " the"}
        encoder = Encoder(vocabulary, {"inputs": 8, "targets": 4})
        text, target = next(encoder.pairs([example]))
        assert [*text, *target] == [*vocabulary.encode("Answer: the"), vocabulary.eos_id]
        np.testing.assert_array_equal(label_tokens([" the"], vocabulary), [target])
        (tokens,) = [batch["encoder_input_tokens"][0] for _, batch in eval_inputs(vocabulary)]
        np.testing.assert_array_equal(tokens[tokens != vocabulary.pad_id], text)
        assert vocabulary.decode(target) == " the"


def eval_inputs(vocabulary):
    inputs = as_examples(["Answer:"])
    return eval_batches(inputs, vocabulary, batch_size=1, lengths={"inputs": 8, "targets": 4})


@pytest.mark.slow
def test_a_run_says_what_it_cut_and_how_texts_join(tmp_path, capsys):
    """The input's beginning; a target that is longer than its limit stays whole."""
    data = tiny.save_files(tmp_path / "data")
    with pytest.warns(UserWarning, match=r"targets follow their input without a space; first"):
        train(
            (
                f"--model {MODELS[NAME]} --data_dir {data} --prompt_length 2 --train_steps 1 "
                f"--batch_size 8 --model_dir {tmp_path}/run --feature_lengths inputs=6 targets=1 "
                "--verbalizers 0=yes 1=no --input_template {text}"
            ).split()
        )
    said = " ".join(capsys.readouterr())
    assert "inputs were cut to 6 tokens" in said
    assert "targets were cut" not in said
