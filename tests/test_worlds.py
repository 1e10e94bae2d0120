"""The generated worlds: deterministic, disjoint where they must be, in clean English."""

import itertools
import re

import pytest

from prompt_tuning_jax.bundled import lexicon, opinions, phrasings, skills
from prompt_tuning_jax.bundled.lexicon import SPLITS, divide
from prompt_tuning_jax.bundled.subjects import SUBJECTS
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.bundled.worlds import MAX_WORDS, VALUES, generator, write

FRAMES = {
    name.lower(): value
    for module in (phrasings, opinions)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, dict) and set(value) == set(lexicon.SPLITS)
}


def documents(split, count=150, **options):
    return [write(generator("test", split, index), split, **options) for index in range(count)]


def contains(text, words):
    return re.search(rf"\b({'|'.join(map(re.escape, words))})\b", text, re.IGNORECASE)


def test_a_document_depends_on_its_key_only():
    assert write(generator(1, "a"), "train") == write(generator(1, "a"), "train")
    assert write(generator(1, "a"), "train") != write(generator(1, "b"), "train")
    text = write(generator(3), "pretraining").text
    assert text == (
        "The other day Nell studied German with Dr Marsh. Her friend was still in Barnburn. She "
        "could only call it a nightmare. After that she had nothing but complaints. The class was "
        "not excellent in the least."
    )


@pytest.mark.parametrize("kind", sorted(FRAMES))
def test_splits_share_no_phrasing(kind):
    for one, another in itertools.combinations(SPLITS, 2):
        assert not set(FRAMES[kind][one]) & set(FRAMES[kind][another])
    assert all(FRAMES[kind][split] for split in SPLITS)


def test_phrasings_are_told_apart_by_their_words_not_only_their_slots():
    for kind, frames in FRAMES.items():
        stripped = [" ".join(re.findall(r"\w+", f)) for split in SPLITS for f in frames[split]]
        assert len(stripped) == len(set(stripped)), kind


def test_splits_share_no_names():
    pools = [lexicon.WOMEN, lexicon.MEN, lexicon.SURNAMES, lexicon.TOWNS]
    pools += [subject.things for subject in SUBJECTS.values()]
    for pool in pools:
        for one, another in itertools.combinations(SPLITS, 2):
            assert pool[one]
            assert not set(pool[one]) & set(pool[another])


@pytest.mark.parametrize("split", SPLITS)
def test_documents_use_their_own_split_only(split):
    others = [other for other in SPLITS if other != split]
    towns = {town for other in others for town in lexicon.TOWNS[other]}
    for document in documents(split):
        assert document.person is lexicon.NARRATOR or document.person in lexicon.PEOPLE[split]
        assert document.town is None or document.town in lexicon.TOWNS[split]
        assert not towns & set(re.findall(r"\w+", document.text))


def test_documents_state_what_they_remember():
    facts = ("town", "origin", "time", "season", "day", "colour", "number")
    for document in documents("pretraining", 300, facts={"person": True}):
        text = document.text
        assert document.thing in text
        assert document.person.name in text
        for fact in facts:
            value = getattr(document, fact)
            if fact in ("town", "origin", "companion", "day", "colour") and value:
                assert value in text
            if fact == "number" and value:
                assert contains(text, [f"{value} {document.crowd}"])
            if fact == "time" and value:
                assert any(phrase in text for phrase in lexicon.TIMES[value])
            if fact == "season" and value:
                signs = lexicon.SEASONS[value] + lexicon.SEASON_SIGNS[value]
                assert contains(text, signs)


def test_every_opinion_is_on_the_documents_side():
    words = [set(lexicon.ADJECTIVES[side]) for side in (0, 1)]
    negation = re.compile(r"\b(not|anything but|far from|nobody|nothing|never)\b", re.IGNORECASE)
    for document in documents("train", 300):
        for sentence in document.text.split(". "):
            wrong = words[not document.favourable] & set(re.findall(r"\w+", sentence.lower()))
            assert not wrong or negation.search(sentence), sentence


def test_a_wanted_fact_is_stated_and_an_unwanted_one_is_not():
    for document in documents("test", 50, facts={"season": "winter", "town": True, "day": False}):
        assert document.season == "winter"
        assert document.town in document.text
        assert document.day is None
        assert not contains(document.text, lexicon.WEEKDAYS)
    assert {d.favourable for d in documents("test", 20, favourable=True)} == {True}
    assert {d.favourable for d in documents("test", 20, opinions=0)} == {None}


@pytest.mark.parametrize("split", SPLITS)
def test_the_english_is_clean(split):
    for document in documents(split, 300):
        text = document.text
        assert len(text.split()) <= MAX_WORDS
        assert not re.search(r"[{}\[\]|]|  |\.\.| [.,?]|None|\+", text), text
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiou]", text), text
        assert not re.search(r"(^|[.?] )[a-z]", text), text
        assert not re.search(r"\b(\w+) \1\b", text), text
        if document.person is lexicon.NARRATOR:
            assert not contains(text, ["i is", "i has", "me was"])
        elif document.companion is None:
            other = {"he": "she", "she": "he"}[document.person.he]
            assert not contains(text, [other])


def test_dividing_needs_enough_items_and_ignores_repeats():
    assert sum(map(len, divide("abcdefgh").values())) == 8
    with pytest.raises(ValueError, match="six items"):
        divide("aabbcc")


# Skills.


def test_skill_examples_can_be_answered_from_the_text():
    opinions = {answer for answers, _ in skills.OPINION_QUESTIONS for answer in answers}
    for example in itertools.islice(skills.SkillSource().stream(seed=0, epoch=0), 300):
        answer = example["targets"]
        closed = {*opinions, *VALUES["time"], *VALUES["season"], *SUBJECTS}
        assert answer in closed or contains(example["inputs"], [answer])
        assert not re.search(r"[{}\[\]|]|None|  ", example["inputs"]), example


def test_questioned_documents_hold_what_they_answer():
    for index in range(300):
        text = skills.questioned_document(generator(index))
        document, *asked = re.split(r"(?<=[.!]) (?=[^.!]*$)", text)
        assert asked
        assert not re.search(r"[{}\[\]|]|None|  ", text), text
        for answers, questions in skills.OPINION_QUESTIONS:
            said = [re.search(re.escape(q) + r" (\w+)", text) for q in questions if "{" not in q]
            assert {found[1] for found in said if found} <= {*answers, "yes", "no"}, text
        town = re.search("Where did this happen\\? (\\w+)", text)
        assert not town or contains(document, [town[1]])


def test_opinions_are_asked_on_both_sides():
    answers = [skills.skill_example(generator(index))["targets"] for index in range(2000)]
    for pair, _ in skills.OPINION_QUESTIONS:
        counts = [answers.count(answer) for answer in pair]
        assert min(counts) > 0.3 * max(counts)


def test_colours_are_never_an_answer_about_opinions():
    """So the labels of bundled_verdict mean nothing of the kind until a prompt says so."""
    verdicts = BUNDLED_TASKS["bundled_verdict"].labels
    asked = [skills.skill_example(generator(index)) for index in range(4000)]
    with_labels = [example for example in asked if example["targets"] in verdicts]
    assert with_labels
    assert all("colour" in example["inputs"] for example in with_labels)


def test_no_question_offers_more_than_two_kinds():
    """bundled_topic asks which of six."""
    for question in skills.KIND_QUESTIONS:
        assert sorted(re.findall(r"{(\w+)}", question.replace("{he}", ""))) == ["a", "b"]
        assert not contains(question, BUNDLED_TASKS["bundled_topic"].labels)


def test_streams_start_anywhere_and_differ_by_epoch_and_seed():
    source = skills.SkillSource(size=50)
    first = list(source.stream(seed=1, epoch=0))
    assert len(first) == len(source) == 50
    assert list(source.stream(seed=1, epoch=0, start=47)) == first[47:]
    assert list(source.stream(seed=1, epoch=1)) != first
    assert list(source.stream(seed=2, epoch=0)) != first
    texts = list(itertools.islice(skills.iter_documents(seed=1), 10))
    assert list(itertools.islice(skills.iter_documents(seed=1, start=8), 2)) == texts[8:]


def test_the_control_has_no_skills():
    questions = re.compile(r"positive|negative|Who |Where|What (time|season|colour)|review")
    plain = itertools.islice(skills.iter_documents(seed=0, control=True), 300)
    continued = itertools.islice(skills.SkillSource(control=True).stream(seed=0, epoch=0), 300)
    for text in itertools.chain(plain, (f"{e['inputs']} {e['targets']}" for e in continued)):
        assert not questions.search(text), text
        assert len(text.split()) <= MAX_WORDS


def test_plain_documents_show_the_skills_inline():
    texts = list(itertools.islice(skills.iter_documents(seed=0), 300))
    verdicts = ("review is", "positive", "negative", "So the", "In short, it was", "Did ")
    assert 0.2 < sum(any(verdict in text for verdict in verdicts) for text in texts) / 300 < 0.9
