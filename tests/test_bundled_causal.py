"""The bundled causal model and its prompts, as they ship: what the cards say, and what they do."""

import itertools
import json
import re

import numpy as np
import pytest
from common import GOLDENS, slow

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import bundled_examples
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED, BUNDLED_CAUSAL
from prompt_tuning_jax.checkpoints.prompt_file import PREBUILT
from prompt_tuning_jax.commands import export_prompt
from prompt_tuning_jax.commands.show_task import read_vocabulary
from prompt_tuning_jax.vocabularies import load_vocabulary

CARD = (BUNDLED_CAUSAL / "CARD.md").read_text()
# transformers' logits, see the README beside them.
GOLDEN = json.loads((GOLDENS / "causal" / "bundled.json").read_text())
PROMPTS = ("bundled_causal_narrator", "bundled_causal_topic")


@pytest.fixture(scope="module")
def model():
    return pt.load_model("bundled_causal")


def first(task, count):
    """Texts and targets of the first test examples."""
    examples = list(itertools.islice(bundled_examples(task, "test"), count))
    return [e["inputs"] for e in examples], [e["targets"] for e in examples]


def test_it_is_the_model_of_its_card_and_small(model):
    assert f"`{model.fingerprint}`" in CARD
    assert model.config.continues_inputs
    files = [*BUNDLED_CAUSAL.iterdir()]
    files += [file for name in PROMPTS for file in (PREBUILT / name).iterdir()]
    assert sum(file.stat().st_size for file in files) < 15e6


def test_it_has_learnt(model):
    loss, unigram = map(float, re.search(r"loss (\d\.\d+) .*\s+(\d\.\d+)\.", CARD).groups())
    assert loss < unigram / 2


def test_logits_are_those_of_transformers(model):
    ids = np.array([GOLDEN["ids"]], np.int32)
    assert model.vocabulary.encode(GOLDEN["text"]) == GOLDEN["ids"]
    # The targets' first logits come from the text's last token, the others from each other.
    shifted = np.concatenate([[[model.config.start_id]], ids[:, 1:]], axis=1)
    logits = model.logits(ids[:, :1], shifted)[0]
    np.testing.assert_allclose(logits[:, ::512], GOLDEN["every_512th_logit"], atol=2e-4)
    np.testing.assert_array_equal(np.argmax(logits, axis=-1), GOLDEN["largest"])


def test_its_vocabulary_is_the_bundled_t5s_and_ends_no_text(model):
    t5 = load_vocabulary(BUNDLED)
    texts, _ = first("bundled_topic", 50)
    assert model.vocabulary.encode_batch(texts) == t5.encode_batch(texts)
    assert model.vocabulary.framed([5]) == [5]
    assert read_vocabulary("bundled_causal").fingerprint == model.vocabulary.fingerprint


@pytest.mark.parametrize("name", [slow("bundled_causal_narrator"), "bundled_causal_topic"])
@pytest.mark.slow
def test_a_shipped_prompt_scores_what_its_card_says(model, name):
    prompt, card = pt.load_prompt(name), (PREBUILT / name / "CARD.md").read_text()
    assert model.fingerprint in card
    said = float(re.search(r"([\d.]+) % on test", card)[1])
    assert said == pytest.approx(prompt.metadata["test_scores"]["accuracy"], abs=0.05)
    texts, answers = first(prompt.metadata["task"], 48)
    labels = prompt.metadata["verbalizers"]
    tuned, bare = (
        100 * np.mean(np.array(found.labels) == answers)
        for found in (model.classify(texts, labels, p, batch_size=48) for p in (prompt, None))
    )
    assert tuned == pytest.approx(said, abs=2.5)  # one of 48, where the card says 99 and more
    assert tuned > bare + 25


@pytest.mark.slow
def test_it_generates_and_classifies(model):
    prompt = pt.load_prompt("bundled_causal_topic")
    texts, answers = first("bundled_topic", 12)
    found = model.classify(texts, prompt.metadata["verbalizers"], prompt=prompt).labels
    written = model.generate(texts, prompt=prompt, max_length=4).texts
    assert sum(map(str.__eq__, found, answers)) >= 10
    assert sum(map(str.__eq__, written, found)) >= 10


def test_a_prompt_of_the_t5_is_refused(model):
    with pytest.raises(ValueError, match=r"was tuned for bundled \("):
        model.check(pt.load_prompt("bundled_topic"))


def test_an_adapter_names_its_directory(tmp_path):
    export_prompt.main(["bundled_causal_topic", str(tmp_path / "peft"), "--model=bundled_causal"])
    facts = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert facts["base_model_name_or_path"] == str(BUNDLED_CAUSAL)
    assert facts["task_type"] == "CAUSAL_LM"


def test_a_directory_that_is_not_there_is_answered_with_the_names_there_are():
    with pytest.raises(FileNotFoundError, match=r"or one of bundled, bundled_causal\."):
        pt.load_model("no such/place")


@pytest.mark.slow
def test_prompts_of_the_other_bundled_model_are_refused_though_as_wide(model):
    stranger = pt.load_prompt("bundled_topic")
    bank = pt.TunedBank({"theirs": stranger})
    for given in (stranger, bank.rows(["theirs"]), bank.ensemble()):
        with pytest.raises(ValueError, match=r"tuned for bundled .* pass its `for_any_model"):
            model.classify(["the soup"], ["yes", "no"], prompt=given)
    assert model.classify(["the soup"], ["yes", "no"], prompt=stranger.for_any_model()).labels
