"""The engine behind its HTTP interface: what clients get is what `model` gives each text alone."""

import concurrent.futures

import httpx
import numpy as np
import openai
import pytest
import serving_stand_in
from serving_client import send
from serving_engine import LIMITS, SHAPES, random_prompts

from prompt_tuning_jax import TunedBank, save_prompt
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.set_up import kinds_of

TEXTS = ["the soup was good", "we had bread", "tea", "and it was very bad"]
NAMES = ["p1", "p2", "both"]
FEW = SHAPES._replace(texts=(4,), lengths=(32,), front_lengths=(32,), slots=(4,))
LABELS = ["yes", "no", "soup"]


@pytest.fixture(scope="module")
def prompts(model):
    return random_prompts(model.config.emb_dim)


@pytest.fixture(scope="module")
def engine(model, prompts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for name, prompt in prompts.items():
        if prompt.visibility == "full":
            save_prompt(folder / name, prompt, verbalizers=LABELS)
    library = PromptLibrary(folder, model, max_prompt_length=8, memory=2**20)
    library.add_ensemble("both", ["p1", "p5"])
    engine = Engine(model, library, FEW, **LIMITS)
    engine.start(kinds_of(library))
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def address(engine):
    with serving_stand_in.served(engine, serving_stand_in.SETTINGS) as address:
        yield address


def alone(model, prompts):
    """(text, name) -> the text, label and scores that `model` gives."""
    bank, found = TunedBank(prompts), {}
    rows = [(text, name) for name in NAMES[:2] for text in TEXTS]
    together = TunedBank({name: prompts[name] for name in ("p1", "p5")}).ensemble()
    each = (rows, bank.rows([name for _, name in rows])), ([(t, "both") for t in TEXTS], together)
    for asked, prompt in each:
        texts = [text for text, _ in asked]
        written = model.generate(texts, prompt, max_length=SHAPES.max_tokens).texts
        labels, scores = model.classify(texts, LABELS, prompt)
        found |= dict(zip(asked, zip(written, labels, scores, strict=True), strict=True))
    return found


def test_a_crowd_of_clients_gets_what_each_would_get_alone(address, model, prompts):
    asked = [(text, name) for text in TEXTS for name in NAMES]
    with (
        openai.OpenAI(api_key="-", base_url=f"{address}/v1", max_retries=0) as client,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):

        def generated(text, name):
            return client.completions.create(
                model=name, prompt=text, max_tokens=SHAPES.max_tokens, logprobs=0
            )

        def streamed(text, name):
            stream = client.completions.create(
                model=name, prompt=text, max_tokens=SHAPES.max_tokens, stream=True
            )
            return "".join(chunk.choices[0].text for chunk in stream)

        def classified(text, name):
            body = {"prompt": name, "texts": [text], "labels": LABELS}
            return httpx.post(f"{address}/v1/classify", json=body).json()["data"][0]

        work = [
            [pool.submit(ask, *each) for each in asked] for ask in (generated, streamed, classified)
        ]
        found = [[one.result() for one in each] for each in work]
    full = {name: prompt for name, prompt in prompts.items() if prompt.visibility == "full"}
    expected = alone(model, full)
    for (text, name), answer, stream, ranked in zip(asked, *found, strict=True):
        written, label, scores = expected[text, name]
        assert answer.choices[0].text == stream == written
        assert ranked["label"] == label
        np.testing.assert_allclose(list(ranked["scores"].values()), scores, atol=1e-4)
        assert (ranked["votes"] is not None) == (name == "both")


def test_token_ids_are_read_as_they_are(address, engine):
    ids = [engine.encode(text) for text in TEXTS]
    with openai.OpenAI(api_key="-", base_url=f"{address}/v1", max_retries=0) as client:
        by_text, by_ids, one = (
            client.completions.create(model="p1", prompt=prompt, max_tokens=6, logprobs=2)
            for prompt in (TEXTS, ids, ids[0])
        )
    for ours, theirs in zip(by_text.choices, by_ids.choices, strict=True):
        assert (ours.text, ours.logprobs.tokens) == (theirs.text, theirs.logprobs.tokens)
    assert one.choices[0].text == by_text.choices[0].text
    assert by_ids.usage == by_text.usage


@pytest.mark.parametrize("seed", [3, 2**32 - 1])
def test_sampling_is_that_of_infer(address, model, prompts, seed):
    """Text i of a request draws as text i of a call of `generate` with the same seed."""
    with openai.OpenAI(api_key="-", base_url=f"{address}/v1", max_retries=0) as client:
        answer = client.completions.create(
            model="p1", prompt=TEXTS, max_tokens=6, temperature=1.5, top_p=0.9, seed=seed
        )
    options = {"max_length": 6, "temperature": 1.5, "top_p": 0.9, "seed": seed}
    alone = model.generate(TEXTS, prompts["p1"], **options)
    assert [choice.text for choice in answer.choices] == alone.texts


def test_a_prompt_that_sees_otherwise_is_made_ready_when_it_is_sent(address, model, prompts):
    one = prompts["p4"]
    send(address, "p4", one, verbalizers=LABELS)
    answer = httpx.post(f"{address}/v1/classify", json={"prompt": "p4", "texts": TEXTS}).json()
    expected = model.classify(TEXTS, LABELS, one)
    assert [each["label"] for each in answer["data"]] == expected.labels
    scores = [list(each["scores"].values()) for each in answer["data"]]
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)


def test_what_the_engine_refuses_is_told(address):
    long = {"prompt": "p1", "texts": ["soup " * 40]}
    assert httpx.post(f"{address}/v1/classify", json=long).status_code == 400
    alike = {"prompt": "p1", "texts": ["soup"], "labels": ["unheard", "unseen"]}
    answer = httpx.post(f"{address}/v1/classify", json=alike)
    assert answer.status_code == 400
    assert "same tokens" in answer.json()["error"]["message"]
    text = httpx.get(f"{address}/metrics").text
    assert "prompt_tuning_engine_tokens_total" in text
    assert "prompt_tuning_engine_slots_busy 0.0" in text
