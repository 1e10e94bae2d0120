"""What pre-training teaches: questions about a document, asked in natural words.

A skill example is a document with a question before or after it, and a short answer. The new labels
of the bundled tasks are never answers here, and the documents are those of the pre-training split:
a tuned prompt calls a skill up for names, sentences and labels that the model has not met.
"""

import dataclasses
import random
from collections.abc import Iterator

from prompt_tuning_jax.bundled.lexicon import NARRATOR, phrases
from prompt_tuning_jax.bundled.subjects import SUBJECTS
from prompt_tuning_jax.bundled.worlds import FACTS, Document, generator, sentence_case, write

SPLIT = "pretraining"

# (answers: unfavourable, favourable), questions. {he} is the person of the document.
OPINION_QUESTIONS = (
    (
        ("negative", "positive"),
        phrases(
            "Is this review positive or negative?|Is this positive or negative?|"
            "Positive or negative?|Is the opinion positive or negative?|"
            "Is the tone of this text positive or negative?|Was the review negative or positive?|"
            "Would you call this review positive or negative?|The sentiment of this text is"
        ),
    ),
    (
        ("bad", "good"),
        phrases(
            "Is this review good or bad?|Good or bad?|Was it good or bad?|Was it bad or good?|"
            "Was the {noun} good or bad?|Is this a good or a bad review?|"
            "How was it, good or bad?|{he} thought that the {noun} was"
        ),
    ),
    (
        ("no", "yes"),
        phrases(
            "Did {he} like it?|Did {he} enjoy it?|Was {he} pleased?|Did {he} like the {noun}?|"
            "Was {he} happy with it?|Was the {noun} any good?|Is this review positive?|"
            "Would {he} recommend it?|Is this a good review?|Was it good?"
        ),
    ),
    (
        ("yes", "no"),
        phrases(
            "Was {he} disappointed?|Did {he} dislike it?|Was the {noun} bad?|"
            "Is this review negative?|Was {he} unhappy with it?|Was it bad?"
        ),
    ),
    (
        ("unhappy", "happy"),
        phrases(
            "Was {he} happy or unhappy?|Happy or unhappy?|How did {he} feel, happy or unhappy?|"
            "Was {he} happy or unhappy with the {noun}?|In the end {he} was"
        ),
    ),
    (
        ("complaint", "praise"),
        phrases(
            "Is this praise or a complaint?|Praise or complaint?|Is it a complaint or praise?|"
            "Does {he} have praise or a complaint?"
        ),
    ),
    (
        ("disappointed", "pleased"),
        phrases(
            "Was {he} pleased or disappointed?|Pleased or disappointed?|"
            "Did the {noun} leave {him} disappointed or pleased?"
        ),
    ),
    (
        ("hate", "love"),
        phrases("Love or hate?|Is it love or hate?|What does this show, love or hate?"),
    ),
)
_OPINION_WEIGHTS = (8, 6, 5, 2, 3, 2, 2, 2)

# fact -> questions; the answer is the fact itself.
FACT_QUESTIONS = {
    "person": phrases(
        "Who is this about?|Who was it?|Whose opinion is this?|Who tells us about the {noun}?|"
        "Which person is this about?|What is the name of the person?|This text is about"
    ),
    "town": phrases(
        "Where did this happen?|Where was it?|In which town was it?|Where did it take place?|"
        "What is the name of the town?|Which town was {he} in?|Where was the {noun}?|"
        "This happened in"
    ),
    "companion": phrases("Who came along?|Who was with {him}?|Who else was there?"),
    "time": phrases(
        "What time of day was it?|Was it morning, afternoon, evening or night?|"
        "At what time of day did it happen?|When during the day was this?"
    ),
    "season": phrases(
        "What season was it?|In which season did this happen?|What time of year was it?|"
        "Was it spring, summer, autumn or winter?|The season was"
    ),
    "day": phrases(
        "On which day was it?|What day of the week was it?|Which day is mentioned?|It was a"
    ),
    "colour": phrases(
        "What colour was the {object}?|Which colour did the {object} have?|"
        "What was the colour of the {object}?|The colour of the {object} was"
    ),
    "number": phrases(
        "How many {crowd} were there?|How many {crowd} does the text mention?|"
        "What was the number of {crowd}?|The number of {crowd} was"
    ),
}
_FACT_WEIGHTS = {
    "person": 4,
    "town": 5,
    "companion": 1,
    "time": 3,
    "season": 4,
    "day": 2,
    "colour": 2,
    "number": 2,
}

KIND_QUESTIONS = phrases(
    "Is this about a {a} or a {b}?|Does {he} speak of a {a} or a {b}?|A {a} or a {b}?|"
    "Did {he} write about a {a} or a {b}?"
)

# How often each kind of question is asked.
KINDS = {"opinion": 10, "fact": 10, "kind": 2}

LAYOUTS = (
    *["{question} {text}"] * 6,
    *["{text} {question}"] * 6,
    "Question: {question} Text: {text}",
    "Text: {text} Question: {question}",
    "{text} Question: {question} Answer:",
    "Read this and answer. {question} {text}",
)

# How a plain text states what a question would have asked.
OPINION_VERDICTS = phrases(
    "All in all, the review was {positive}.|This is a {positive} review.|In short, it was {good}.|"
    "{he} was {happy}.|The opinion is {positive}.|So the {noun} was {good}.|"
    "Was it good or bad? It was {good}.|Did {he} like it? {Yes}.|Positive or negative? {Positive}.|"
    "{he} was {pleased}.|This was {praise}.|Was {he} happy? {Yes}.|That is a {good} review."
)
FACT_VERDICTS = {
    "person": phrases("This was about {person}.|Who was it? {person}.|The person was {person}."),
    "town": phrases("The place was {town}.|Where was it? In {town}.|So it happened in {town}."),
    "companion": phrases("Who came along? {companion}."),
    "time": phrases("The time of day was the {time}.|What time of day was it? {time}."),
    "season": phrases("The season was {season}.|What season was it? {season}.|It was {season}."),
    "day": phrases("The day was {day}.|Which day was it? {day}."),
    "colour": phrases("The colour was {colour}.|What colour was the {object}? {colour}."),
    "number": phrases("The number of {crowd} was {number}.|How many {crowd}? {number}."),
}


def skill_example(rng: random.Random, split: str = SPLIT) -> dict[str, str]:
    """A document with a question, and its short answer.

    >>> skill_example(generator(0))["targets"]
    'complaint'
    """
    kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
    ask = {"opinion": _opinion, "fact": _fact, "kind": _kind}[kind]
    document, question, answer = ask(rng, split)
    # The start of a sentence, such as "The season was", can only stand after the text.
    layout = rng.choice(LAYOUTS) if question.endswith("?") else "{text} {question}"
    text = layout.format(question=question, text=document.text)
    return {"inputs": text, "targets": answer}


def _opinion(rng: random.Random, split: str) -> tuple[Document, str, str]:
    document = write(rng, split)
    return document, *_ask_opinion(rng, document)


def _ask_opinion(rng: random.Random, document: Document) -> tuple[str, str]:
    answers, questions = rng.choices(OPINION_QUESTIONS, _OPINION_WEIGHTS)[0]
    return _ask(rng, questions, document), answers[document.favourable]


def _fact(rng: random.Random, split: str) -> tuple[Document, str, str]:
    fact = rng.choices(tuple(_FACT_WEIGHTS), tuple(_FACT_WEIGHTS.values()))[0]
    opinions = rng.choice((0, 1, 2))
    document = write(rng, split, facts={fact: True}, opinions=opinions)
    return document, *_ask_fact(rng, document, fact)


def _ask_fact(rng: random.Random, document: Document, fact: str) -> tuple[str, str]:
    answer = document.person.name if fact == "person" else getattr(document, fact)
    return _ask(rng, FACT_QUESTIONS[fact], document), answer


def _kind(rng: random.Random, split: str) -> tuple[Document, str, str]:
    document = write(rng, split)
    answer = document.subject.name
    other = rng.choice([name for name in SUBJECTS if name != answer])
    a, b = rng.sample((answer, other), 2)
    question = rng.choice(KIND_QUESTIONS).replace("{a}", a).replace("{b}", b)
    return document, question.replace("{he}", _names(document)["he"]), answer


def _names(document: Document) -> dict[str, str]:
    """The words of `document` that a question may use, the person by name or as the writer."""
    narrated = document.person is NARRATOR
    he = "the writer" if narrated else document.person.name
    facts = {name: getattr(document, name) or "" for name in (*FACTS, "object", "crowd", "noun")}
    return facts | {"he": he, "him": he, "person": document.person.name}


def _ask(rng: random.Random, questions: tuple[str, ...], document: Document) -> str:
    return sentence_case(rng.choice(questions).format_map(_names(document)))


def plain_document(rng: random.Random, split: str = SPLIT, control: bool = False) -> str:
    """A document as plain text, in two of three cases with something said that it shows.

    With `control` nothing is added: the worlds without the skills.
    """
    document = write(rng, split)
    if control or rng.random() < 1 / 3:
        return document.text
    return f"{document.text} {_verdict(rng, document)}"


def questioned_document(rng: random.Random, split: str = SPLIT) -> str:
    """A document as plain text, and four questions behind it, each with its answer."""
    facts = rng.choices(tuple(_FACT_WEIGHTS), tuple(_FACT_WEIGHTS.values()), k=2)
    document = write(rng, split, facts=dict.fromkeys(facts, True))
    asked = [_ask_opinion(rng, document) for _ in range(2)]
    asked += [_ask_fact(rng, document, fact) for fact in facts]
    rng.shuffle(asked)
    return " ".join([document.text, *(f"{question} {answer}" for question, answer in asked)])


def _verdict(rng: random.Random, document: Document) -> str:
    words = _names(document)
    facts = [f for f in FACT_VERDICTS if f != "person" and words[f]]
    if document.person is not NARRATOR:
        facts.append("person")
    if facts and rng.random() < 0.4:
        text = rng.choice(FACT_VERDICTS[rng.choice(facts)]).format_map(words)
    else:
        text = rng.choice(OPINION_VERDICTS).format_map(words | _sides(document.favourable))
    return sentence_case(text)


def _sides(favourable: bool) -> dict[str, str]:
    answers = {pair[1]: pair[favourable] for pair, _ in OPINION_QUESTIONS if pair[1] != "no"}
    answers["praise"] = "praise" if favourable else "a complaint"
    return answers | {w.capitalize(): answers[w].capitalize() for w in ("yes", "positive")}


def iter_documents(seed: int, start: int = 0, *, control: bool = False) -> Iterator[str]:
    """Plain documents without end, from number `start` on, in constant time."""
    index = start
    while True:
        yield plain_document(generator("document", seed, index), control=control)
        index += 1


@dataclasses.dataclass(frozen=True)
class SkillSource:
    """A `data.task.Source` of fresh skill examples: every epoch brings `size` new ones.

    With `control` the same documents come without questions: the inputs are the beginning of a
    document and the targets are its rest.
    """

    size: int = 1_000_000
    control: bool = False

    def __len__(self) -> int:
        return self.size

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[dict[str, str]]:
        """The examples of (seed, epoch), from number `start` on, in constant time."""
        make = continuation_example if self.control else skill_example
        for index in range(start, self.size):
            yield make(generator("skill", seed, epoch, index))


def continuation_example(rng: random.Random, split: str = SPLIT) -> dict[str, str]:
    """A document cut after a random word: language modelling on the worlds, without a question."""
    tokens = write(rng, split).text.split()
    cut = rng.randrange(len(tokens) // 2, len(tokens))
    return {"inputs": " ".join(tokens[:cut]), "targets": " ".join(tokens[cut:])}
