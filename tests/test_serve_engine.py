"""An answer does not depend on what it shares the devices with, and nothing compiles meanwhile."""

import dataclasses
import functools
import random
import re
import threading
import time

import jax
import numpy as np
import pytest
import tiny
from common import GOLDENS, slow
from serving_engine import LIMITS, SHAPES, Shelf, classify, generate, random_prompts

import prompt_tuning_jax as pt
from prompt_tuning_jax import load_model
from prompt_tuning_jax.decoding.constraints import Constraints
from prompt_tuning_jax.decoding.options import GenerationSettings
from prompt_tuning_jax.devices.sharding import make_mesh
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.programs import Programs
from prompt_tuning_jax.serving.requests import Failed, Finished, Overloaded, Stopping, TooLate

LABELS = ("yes", "no", "the soup")
TEXTS = [example["inputs"] for example in tiny.examples()[::7]]
ENSEMBLE = ("p0", "p1", "p5")
LONGER = f"{TEXTS[0]} and {TEXTS[1]}"
FEW = SHAPES._replace(texts=(2,), slots=(2,), max_tokens=8, front_lengths=())


SPLIT = SHAPES._replace(texts=(2, 4), slots=(4,))
KINDS = [
    slow("t5"),
    "t5, a step ahead",
    slow("causal"),
    slow("t5, split"),
    slow("causal, split, ahead"),
]


@pytest.fixture(scope="module", params=KINDS)
def engine(request, model):
    """One whose rows are split is on two devices."""
    is_causal, is_split = ("causal" in request.param), ("split" in request.param)
    name = "bundled_causal" if is_causal else model.name
    if is_causal or is_split:
        model = pt.load_model(name, mesh=make_mesh("data:2") if is_split else None)
    shapes, ahead = SPLIT if is_split else SHAPES, int("ahead" in request.param)
    prompts = random_prompts(model.config.emb_dim)
    if is_causal:  # nothing but what is in front of all is isolated there
        prompts |= dict.fromkeys(("p4", "p6", "p7"), prompts["p0"])
    shelf = Shelf({**prompts, "all": ENSEMBLE})
    engine = Engine(model, shelf, shapes, max_labels=8, max_waiting=200, ahead=ahead)
    engine.start((one.visibility, one.layout) for one in prompts.values())
    yield engine
    assert engine.stop(60)


def alone(engine, text, prompts):
    """Token ids of the model by itself, and their score."""
    tokens, scores = all_alone(engine, prompts)
    ids, end = tokens[TEXTS.index(text)], engine.model.config.eos_id
    return ids[: ids.index(end) + 1] if end in ids else ids, scores[TEXTS.index(text)]


@functools.lru_cache
def all_alone(engine, prompts):
    """Those of all texts."""
    return generated(engine, TEXTS, prompts, SHAPES.max_tokens)


def generated(engine, texts, prompts, max_length):
    """What the model by itself makes of texts: token ids, and scores."""
    ids = [engine.encode(text) for text in texts]
    rows = np.full((len(ids), max(16, *map(len, ids))), engine.model.config.pad_id)
    for row, tokens in zip(rows, ids, strict=True):
        row[: len(tokens)] = tokens
    prompt = of(engine, prompts)
    tokens, scores = engine.model.generate_tokens(rows, prompt, max_length=max_length)
    return np.asarray(tokens).tolist(), np.asarray(scores).tolist()


def of(engine, prompts):
    given = {name: engine.library.prompts[name] for name in prompts}
    if len(prompts) < 2:
        return given[prompts[0]] if prompts else None
    return pt.TunedBank(given).ensemble()


def test_generated_texts_are_those_of_each_alone(engine):
    names = [(), *((f"p{i}",) for i in range(8)), ENSEMBLE]
    asked = [(text, names[i % len(names)], 12 - i % 5) for i, text in enumerate(TEXTS * 2)]
    # Some end before others, whose slots go on.
    answers = [generate(engine, *pair, max_tokens=most)[0] for *pair, most in asked]
    for (text, prompts, most), answer in zip(asked, answers, strict=True):
        *tokens, end = answer.all()
        expected, score = alone(engine, text, prompts)
        assert [token.id for token in tokens] == expected[:most], (text, prompts)
        if len(expected) <= most:
            assert sum(token.log_prob for token in tokens) == pytest.approx(score, abs=2e-3)
        has_ended = tokens[-1].id == engine.model.config.eos_id
        assert end == Finished("stop" if has_ended else "length")


def test_texts_are_read_behind_prompts_that_see_nothing_of_them(engine, monkeypatch):
    """These went through the layers as they came to the devices; others are in the rows."""
    is_causal, read, seen = engine.model.config.continues_inputs, engine.programs.read, []

    def noted(rows, visibility):
        seen.append((type(rows).__name__, rows.tokens.shape[1]))
        return read(rows, visibility)

    monkeypatch.setattr(engine.programs, "read", noted)
    asked = (), ("p1",), ("p0", "p5"), ("p4",), ("p2",), ("p2", "p0"), ("p3",)
    for prompts in asked if is_causal else (*asked, ("p6",), ("p7",), ("p4", "p7")):
        assert generate(engine, TEXTS[0], prompts, max_tokens=1)[0].tokens()
    first = "Behind" if is_causal else "Rows"
    assert [kind for kind, _ in seen[:4]] == [first] * 3 + ["Behind"]
    assert {kind for kind, _ in seen[4:]} == {"Rows"}
    rooms = {length + SHAPES.prompt_length for kind, length in seen if kind == "Behind"}
    assert rooms <= set(SHAPES.front_lengths)


def test_labels_are_ranked_as_for_each_alone(engine):
    names = [(), ("p1",), ("p2",), ("p4",), ("p6",), ("p7",), ("p4", "p6"), ENSEMBLE]
    for i, text in enumerate(TEXTS):
        labels = LABELS[: 2 + i % 2]
        prompts = names[i % len(names)]
        answer = classify(engine, text, labels, prompts)[0].ranked()
        scores = engine.model.label_scores([text], labels, of(engine, prompts)).mean(axis=1)[0]
        assert list(answer.scores) == list(labels)
        np.testing.assert_allclose(list(answer.scores.values()), scores, atol=2e-3)
        assert sum(answer.votes.values()) == max(1, len(prompts))


def test_of_the_likeliest_tokens_as_many_are_told_as_are_wanted(engine):
    """With the model's own log-probabilities, whatever others want in the same step."""
    told = 3, 0, 1, 5
    answers = [generate(engine, TEXTS[i], ("p1",), told=n)[0] for i, n in enumerate(told)]
    for text, count, answer in zip(TEXTS, told, answers, strict=False):
        *tokens, _ = answer.all()
        ids = [token.id for token in tokens]
        assert ids == alone(engine, text, ("p1",))[0]
        assert [len(token.top) for token in tokens] == [count] * len(ids)
        if not count:
            continue
        assert [token.top[0] for token in tokens] == [(t.id, t.log_prob) for t in tokens]  # greedy
        if not engine.model.vocabulary.continues:
            inputs = np.array([engine.encode(text)])
            outputs = np.array([[engine.model.config.start_id, *ids[:-1]]])
            logits = engine.model.logits(inputs, outputs, of(engine, ("p1",)))[0]
            expected = jax.lax.top_k(jax.nn.log_softmax(logits), count)[0]
            found = [[log_prob for _, log_prob in token.top] for token in tokens]
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_what_is_sampled_depends_on_seed_and_number_alone(engine):
    how = {"temperature": 2.0, "top_k": 20, "top_p": 0.9, "seed": 5}
    many = [generate(engine, TEXTS[0], ("p0",), number=n, **how)[0] for n in range(3)]
    others = [generate(engine, text, ("p3",)) for text in TEXTS[1:4]]
    found = [answer.tokens()[0] for answer in many]
    assert all(answer.tokens() for answer, _ in others)
    batch = np.array([engine.encode(TEXTS[0])] * 3)
    tokens, _ = engine.model.generate_tokens(
        batch, of(engine, ("p0",)), max_length=SHAPES.max_tokens, **how
    )
    for ids, expected in zip(found, np.asarray(tokens), strict=True):
        assert ids == expected[: len(ids)].tolist()
    assert found[0] != found[1]


def test_who_comes_later_chooses_as_he_wishes(engine, monkeypatch):
    """In the next slot of a step of the same size, beside a text that goes on."""
    how = {"temperature": 2.0, "top_k": 20, "seed": 5}
    may_go, step = threading.Semaphore(1), engine.programs.step
    monkeypatch.setattr(engine.programs, "step", lambda *x: may_go.acquire(timeout=60) and step(*x))
    first, _ = generate(engine, TEXTS[1], ("p0",))
    while may_go.acquire(blocking=False):  # until its first step has begun
        may_go.release()
        time.sleep(0.001)
    later, _ = generate(engine, TEXTS[0], ("p0",), **how)
    may_go.release(100)
    assert first.tokens()[0] == alone(engine, TEXTS[1], ("p0",))[0]
    batch = np.array([engine.encode(TEXTS[0])])
    prompt = of(engine, ("p0",))
    ids, _ = engine.model.generate_tokens(batch, prompt, max_length=SHAPES.max_tokens, **how)
    found, _ = later.tokens()
    assert found == np.asarray(ids)[0, : len(found)].tolist()


def test_nothing_is_compiled_for_a_request(engine):
    """Whatever comes: new prompts, lengths, labels, samples."""
    compiled = []

    def listen(name, *_, **__):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    width = engine.model.config.emb_dim
    for i in range(6):  # more than there are places for
        engine.library.prompts[f"new{i}"] = pt.TunedPrompt(np.full((1 + i, width), 0.1 * i))
        engine.library.versions[f"new{i}"] = 0
    asked = [generate(engine, text, (f"new{i % 6}",))[0] for i, text in enumerate(TEXTS)]
    asked.append(generate(engine, LONGER, seed=3, temperature=1.0)[0])
    asked.append(classify(engine, TEXTS[0], LABELS, ("new3",))[0])
    assert all(answer.all() for answer in asked)
    assert not compiled
    jax.jit(lambda x: x * 3.25)(2.0)  # the listener hears what there is
    assert compiled


def test_a_prompt_that_is_replaced_is_another(engine):
    text, width = TEXTS[0], engine.model.config.emb_dim
    rng = np.random.default_rng(3)
    old, new = (pt.TunedPrompt(2 * rng.normal(size=(4, width))) for _ in range(2))
    engine.library.prompts["changing"], engine.library.versions["changing"] = old, 0
    first = classify(engine, text, LABELS, ("changing",))[0].ranked()
    engine.library.replace("changing", new)
    second = classify(engine, text, LABELS, ("changing",))[0].ranked()
    for answer, prompt in ((first, old), (second, new)):
        expected = engine.model.label_scores([text], LABELS, prompt)[0, 0]
        np.testing.assert_allclose(list(answer.scores.values()), expected, atol=2e-3)
    assert first.scores != second.scores


def test_steps_follow_each_other_before_they_are_told(engine, monkeypatch):
    """As many as the engine is ahead, and none is left behind."""
    on_their_way, most = [0], []
    step, fetched = engine.programs.step, engine.programs.fetched

    def counted(work, change):
        def count(*args):
            on_their_way[0] += change
            most.append(on_their_way[0])
            return work(*args)

        return count

    monkeypatch.setattr(engine.programs, "step", counted(step, 1))
    monkeypatch.setattr(engine.programs, "fetched", counted(fetched, -1))
    answers = [generate(engine, TEXTS[i], ("p1",), max_tokens=3 + i)[0] for i in range(3)]
    for text, answer, count in zip(TEXTS, answers, range(3, 6), strict=False):
        assert answer.tokens()[0] == alone(engine, text, ("p1",))[0][:count]
    assert max(most) == 1 + engine._ahead
    assert on_their_way[0] <= engine._ahead


def test_as_many_steps_are_made_as_tokens_are_wanted(engine):
    before = engine.statistics()
    assert len(generate(engine, TEXTS[0], ("p1",), max_tokens=3)[0].tokens()[0]) == 3
    assert generate(engine, TEXTS[1], max_tokens=1)[0].tokens()  # after all that was on its way
    after = engine.statistics()
    assert after["steps"] - before["steps"] == after["tokens"] - before["tokens"] == 4


def test_what_a_text_made_after_its_end_is_not_told(engine, monkeypatch):
    """An end is known a step later, by when the next one may be on its way."""
    ids, _ = alone(engine, TEXTS[0], ("p1",))
    how, before = engine.programs.how, engine.statistics()
    monkeypatch.setattr(engine.programs, "how", how._replace(eos_ids=(ids[1],)))
    answer, _ = generate(engine, TEXTS[0], ("p1",))
    *tokens, end = answer.all()
    until = ids.index(ids[1]) + 1
    assert ([token.id for token in tokens], end) == (ids[:until], Finished("stop"))
    assert generate(engine, TEXTS[1], (), max_tokens=4)[0].all()
    assert answer.events.empty()
    assert engine.statistics()["failures"] == before["failures"]


def test_a_step_that_failed_on_its_way_takes_all_with_it(engine, monkeypatch):
    """What was started after it is lost too, and said once."""
    fetched, step, failed = engine.programs.fetched, engine.programs.step, []
    both_wait, reset, resets = threading.Event(), engine.programs.reset, []
    monkeypatch.setattr(engine.programs, "reset", lambda: resets.append(reset()))
    monkeypatch.setattr(engine.programs, "step", lambda *x: both_wait.wait(60) and step(*x))

    def fail_once(found):
        if not failed and len(engine._slots.texts) == 2:
            failed.append(found)
            for array in found:
                array.delete()
        return fetched(found)

    monkeypatch.setattr(engine.programs, "fetched", fail_once)
    asked = [generate(engine, text, ("p0",))[0] for text in TEXTS[:2]]
    both_wait.set()
    for answer in asked:
        assert isinstance(answer.all()[-1], Failed)
    assert all(answer.events.empty() for answer in asked)
    found, _ = generate(engine, TEXTS[0], ("p0",))[0].tokens()
    assert found == alone(engine, TEXTS[0], ("p0",))[0]
    assert engine.statistics()["slots_busy"] == 0
    assert len(resets) == 1


def test_a_full_queue_is_said_at_once(engine):
    answers, refused = [], None
    while refused is None:
        try:
            answers.append(generate(engine, TEXTS[0], ("p0",))[0])
        except Overloaded as error:
            refused = error
    assert len(answers) >= 200
    assert 1 <= refused.retry_after <= 60
    assert len({tuple(answer.tokens()[0]) for answer in answers}) == 1


def test_a_deadline_that_has_passed_is_said(engine):
    late, _ = generate(engine, TEXTS[0], deadline=time.monotonic() - 1)
    (event,) = late.all()
    assert isinstance(event, Failed)
    assert isinstance(event.error, TooLate)


def test_who_left_is_not_worked_for(engine, monkeypatch):
    """Neither in a slot nor in the queue: a step that is on its way is the last."""
    may_step, step = threading.Event(), engine.programs.step

    def held(*args):
        assert may_step.wait(60)
        return step(*args)

    monkeypatch.setattr(engine.programs, "step", held)
    before = engine.statistics()["tokens"]
    busy = [generate(engine, text, ("p0",)) for text in TEXTS * 3]
    for _, request in busy:
        request.cancel()
    may_step.set()
    answer, _ = generate(engine, TEXTS[1], ("p0",))
    ids, _ = answer.tokens()
    assert ids == alone(engine, TEXTS[1], ("p0",))[0]
    assert engine.statistics()["tokens"] - before <= SHAPES.slots[-1] + len(ids)
    assert engine.statistics()["slots_busy"] == engine.statistics()["waiting"] == 0
    assert all(answer.events.empty() for answer, _ in busy)


def test_numbers_that_are_not_finite_reach_nobody_else(engine):
    """A slot in which a text came to nothing is clean for the next one, which is shorter."""
    width = engine.model.config.emb_dim
    broken = pt.TunedPrompt(np.zeros((8, width)))
    broken.values[:] = np.nan  # as numbers may become on their way through a network
    engine.library.prompts["broken"], engine.library.versions["broken"] = broken, 0
    failures = [generate(engine, LONGER, ("broken",))[0] for _ in range(SHAPES.slots[-1])]
    failures.append(classify(engine, LONGER, LABELS, ("broken",))[0])
    for answer in failures:
        event = answer.all()[-1]
        assert isinstance(event, Failed)
        assert "not finite" in str(event.error)
    # A longer text beside it has the shorter one's slot looked at as far as NaNs were.
    together = [generate(engine, text, ("p5",)) for text in (TEXTS[2], LONGER, TEXTS[3])]
    found = [answer.tokens()[0] for answer, _ in together]
    assert found[::2] == [alone(engine, text, ("p5",))[0] for text in TEXTS[2:4]]


def test_what_a_cancelled_text_left_reaches_nobody(engine, monkeypatch):
    """Its numbers were none, and nobody has looked at them: the step was still on its way."""
    width = engine.model.config.emb_dim
    engine.library.prompts["broken"] = pt.TunedPrompt(np.zeros((8, width)))
    engine.library.prompts["broken"].values[:] = np.nan
    engine.library.versions["broken"] = 0
    begun, may_go, step = threading.Event(), threading.Event(), engine.programs.step

    def held(*given):
        found = step(*given)
        begun.set()
        assert may_go.wait(60)
        return found

    monkeypatch.setattr(engine.programs, "step", held)
    _, request = generate(engine, LONGER, ("broken",))
    assert begun.wait(60)
    request.cancel()
    together = [generate(engine, text, ("p5",)) for text in (TEXTS[2], LONGER)]
    may_go.set()
    found = [answer.tokens()[0] for answer, _ in together]
    assert found[0] == alone(engine, TEXTS[2], ("p5",))[0]


def test_kinds_that_cannot_be_stop_no_server(engine):
    """Where a prompt is isolated and behind its text, in a causal model; whoever asks is told."""
    impossible = [("isolated", "suffix")] if engine.model.config.continues_inputs else []
    assert all(engine._ways(kind) == [] for kind in impossible)
    assert engine._ways(("isolated", "prefix")) == ["in front"]


def test_prompts_that_are_no_numbers_reach_no_text_without_one(engine):
    """Wherever on the devices they are."""
    width = engine.model.config.emb_dim
    for i in range(SHAPES.prompts):
        engine.library.prompts[f"nan{i}"] = pt.TunedPrompt(np.zeros((8, width)))
        engine.library.prompts[f"nan{i}"].values[:] = np.nan
        engine.library.versions[f"nan{i}"] = 0
        assert isinstance(generate(engine, TEXTS[0], (f"nan{i}",))[0].all()[-1], Failed)
    assert generate(engine, TEXTS[0])[0].tokens()[0] == alone(engine, TEXTS[0], ())[0]


@pytest.mark.parametrize("name", ["read", "step", "place", "score"])
def test_a_step_that_fails_fails_its_requests_alone(engine, monkeypatch, name):
    calls = []
    program = getattr(engine.programs, name)

    def fail_once(*args):
        calls.append(name)
        if len(calls) == 1:
            raise RuntimeError("out of order")
        return program(*args)

    monkeypatch.setattr(engine.programs, name, fail_once)
    ask = (
        (lambda: classify(engine, TEXTS[0], LABELS, ("p0",)))
        if name == "score"
        else lambda: generate(engine, TEXTS[0], ("p0",))
    )
    event = ask()[0].all()[-1]
    assert isinstance(event, Failed)
    assert "out of order" in str(event.error)
    assert not isinstance(ask()[0].all()[-1], Failed)
    assert len(calls) > 1


def test_state_that_a_failure_took_is_made_again(engine):
    generate(engine, TEXTS[0], ("p0",))[0].tokens()
    for leaf in jax.tree.leaves(engine.programs._cache):
        leaf.delete()
    assert isinstance(generate(engine, TEXTS[0], ("p0",))[0].all()[-1], Failed)
    found, _ = generate(engine, TEXTS[0], ("p0",))[0].tokens()
    assert found == alone(engine, TEXTS[0], ("p0",))[0]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda e: e.encode("good " * 60), "most that this server takes"),
        (lambda e: generate(e, TEXTS[0], max_tokens=13), "max_tokens must be 1 to 12"),
        (lambda e: generate(e, TEXTS[0], max_tokens=0), "max_tokens must be 1 to 12"),
        (lambda e: classify(e, TEXTS[0], ()), "labels"),
        (lambda e: classify(e, TEXTS[0], ["good " * 9, "no"]), "at most 4"),
        (lambda e: classify(e, TEXTS[0], ["yes", "yes "]), "same tokens"),
        (lambda e: generate(e, TEXTS[0], ["p0"] * 5), "too many for one ensemble"),
    ],
)
def test_what_cannot_be_is_refused(engine, ask, words):
    with pytest.raises(ValueError, match=words):
        ask(engine)


def test_it_ends_what_it_accepted(model, monkeypatch):
    prompts, lower, lowered = random_prompts(model.config.emb_dim), Programs._lowered, []
    monkeypatch.setattr(
        Programs, "_lowered", lambda self, *key: lowered.append(key) or lower(self, *key)
    )
    engine = Engine(model, Shelf(prompts), FEW, **LIMITS)
    engine.start([("full", "prefix")])
    assert len(lowered) == len(set(lowered)) == engine.programs.compiled
    answers = [generate(engine, text, ("p0",), max_tokens=8)[0] for text in TEXTS]
    stopped = threading.Thread(target=engine.stop)
    stopped.start()
    while not engine.is_stopping:
        time.sleep(0.001)
    with pytest.raises(Stopping):
        generate(engine, TEXTS[0], max_tokens=8)
    stopped.join(60)
    assert not engine.is_ready
    assert all(answer.tokens() for answer in answers)


RULES = Constraints(min_length=4, no_repeat_ngram=2, repetition_penalty=1.7, banned=((9,),))


@pytest.mark.parametrize("kind", ["t5", slow("causal")])
def test_a_models_own_rules_hold(model, kind):
    """And more than one text is read at once, with one that is longer."""
    model = model if kind == "t5" else pt.load_model("bundled_causal")
    model = model.replace(generation=dataclasses.replace(model.generation, constraints=RULES))
    shelf = Shelf(random_prompts(model.config.emb_dim))
    engine = Engine(model, shelf, FEW, **LIMITS)
    engine.start()
    texts, chosen = [*TEXTS[:3], LONGER], [(), ("p0",), (), ("p0",)]
    asked = zip(texts, chosen, strict=True)
    answers = [generate(engine, *pair, max_tokens=8)[0] for pair in asked]
    alone = {prompts: generated(engine, texts, prompts, 8)[0] for prompts in set(chosen)}
    for i, (prompts, answer) in enumerate(zip(chosen, answers, strict=True)):
        ids, _ = answer.tokens()
        assert ids == alone[prompts][i][: len(ids)]
    assert engine.stop(60)


def test_slots_are_split_over_devices(model):
    """Each has half of what is kept of texts, and a step moves none of that between them."""
    both = load_model(model.name, mesh=make_mesh("data:2"))
    engine = Engine(both, Shelf(random_prompts(model.config.emb_dim)), FEW, **LIMITS)
    engine.start()
    asked = [(text, (f"p{i % 2}",)) for i, text in enumerate(TEXTS[:3])]
    answers = [generate(engine, *pair, max_tokens=FEW.max_tokens)[0] for pair in asked]
    for (text, prompts), answer in zip(asked, answers, strict=True):
        expected = generated(engine, [text], prompts, FEW.max_tokens)[0][0]
        ids = answer.tokens()[0]
        assert ids == expected[: len(ids)]
    programs = engine.programs
    for leaf in jax.tree.leaves((programs._table, programs._cache)):
        assert not leaf.is_fully_replicated
        assert 2 * leaf.addressable_shards[0].data.size == leaf.size
    step = programs._found["step", 2, FEW.lengths[-1]].as_text()
    moved = re.findall(r"(\w+\[[\d,]*\])\S* (?:all-gather|all-to-all|collective-permute)\(", step)
    assert set(moved) <= {f"f32[2,{model.config.vocab_size}]"}  # what an ensemble agrees on
    assert engine.stop(60)


def test_rows_that_do_not_divide_are_refused(model):
    both = load_model(model.name, mesh=make_mesh("data:2"))
    for shapes in (SHAPES, FEW._replace(texts=(1, 2)), FEW._replace(slots=(2, 4))):
        with pytest.raises(ValueError, match="splits rows into 2"):
            Programs(both, shapes, GenerationSettings())
    with pytest.raises(ValueError, match="longest"):
        Programs(model, FEW._replace(front_lengths=(16,)), GenerationSettings())


@pytest.mark.slow
def test_a_split_model_answers_the_same(model):
    split = load_model(model.name, mesh=make_mesh("model:2"))
    engine = Engine(split, Shelf(random_prompts(model.config.emb_dim)), SHAPES, **LIMITS)
    engine.start()
    asked = [(text, ("p1",) if i % 2 else ()) for i, text in enumerate(TEXTS)]
    answers = [generate(engine, *pair)[0] for pair in asked]
    ranked = [classify(engine, text, LABELS, prompts)[0] for text, prompts in asked]
    whole = Engine(model, engine.library, SHAPES, **LIMITS)
    for (text, prompts), answer, labels in zip(asked, answers, ranked, strict=True):
        assert answer.tokens()[0] == alone(whole, text, prompts)[0]
        scores = model.label_scores([text], LABELS, of(engine, prompts))[0, 0]
        np.testing.assert_allclose(list(labels.ranked().scores.values()), scores, atol=2e-3)
    assert engine.stop(60)


@pytest.mark.slow
def test_under_load_nobody_gets_the_answer_of_another(engine):
    """Some hundred requests from several threads, in any order."""
    names = [(), ("p0",), ("p1",), ("p2",), ("p3",), ("p4",), ENSEMBLE]
    pairs = [(text, prompts) for text in TEXTS for prompts in names]
    expected = {pair: alone(engine, *pair)[0] for pair in pairs}
    wrong = []

    def client(seed):
        rng = random.Random(seed)
        for pair in rng.sample(pairs, 40):
            answer, request = generate(engine, *pair)
            if rng.random() < 0.1:
                request.cancel()
            elif answer.tokens()[0] != expected[pair]:
                wrong.append(pair)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert not wrong


FAMILIES = ("longt5_local", "longt5_tglobal", "umt5", "t5gemma", "layers stacked")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_served(model, name):
    """The same tables and programs, whatever a family reads and keeps."""
    words = model.vocabulary
    if name == "layers stacked":
        model = model.scanned()
    else:
        folder = GOLDENS / (name if name == "t5gemma" else f"families/{name}")
        model = load_model(folder).replace(vocabulary=words)
    rng = np.random.default_rng(0)
    prompts = {"p0": pt.TunedPrompt(rng.normal(size=(4, model.config.emb_dim)))}
    few = SHAPES._replace(texts=(2,), lengths=(16, 32), slots=(2,), max_tokens=6)
    few = few._replace(front_lengths=few.lengths)
    engine = Engine(model, Shelf(prompts), few, **LIMITS)
    engine.start()
    asked = [(text, ("p0",) if i % 2 else ()) for i, text in enumerate([*TEXTS[:4], LONGER])]
    answers = [generate(engine, *pair, max_tokens=6)[0] for pair in asked]
    ranked = [classify(engine, text, LABELS, given)[0] for text, given in asked]
    for (text, given), answer, labels in zip(asked, answers, ranked, strict=True):
        row = np.array([engine.encode(text)])
        alone, _ = model.generate_tokens(row, of(engine, given), max_length=6)
        ids, _ = answer.tokens()
        assert ids == np.asarray(alone[0])[: len(ids)].tolist()
        scores = model.label_scores([text], LABELS, of(engine, given))[0, 0]
        np.testing.assert_allclose(list(labels.ranked().scores.values()), scores, atol=2e-3)
    assert engine.stop(60)
