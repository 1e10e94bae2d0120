"""Small worlds, told in short English documents: someone did something somewhere, and had a view.

`write(rng, split, ...)` makes one document and remembers what it says (`Document`): whose opinion,
on which side, about what, where, when, which colour. Skills and tasks are questions about these.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Mapping, Sequence

from prompt_tuning_jax.bundled import lexicon, opinions, phrasings
from prompt_tuning_jax.bundled.lexicon import NARRATOR, Person
from prompt_tuning_jax.bundled.subjects import SUBJECTS, Subject

MAX_WORDS = 42


def generator(*key: object) -> random.Random:
    """The random numbers that belong to `key`, on every machine and in every Python."""
    return random.Random("/".join(map(str, key)))


@dataclasses.dataclass
class Document:
    """A text and what it says; an attribute that the text does not mention is None.

    Attributes:
      split: whose names and phrasings it is written with.
      subject: the domain.  thing, noun: its proper name and common noun in this text.
      favourable: the side of every opinion in the text; None in a text without opinions.
      person: who did it and whose opinion it is.  companion: who came along.
      town: where it happened.  origin: another town, where it did not happen.
      time: morning, afternoon, evening or night.  season, day, colour, number: as they say.
      object, crowd: what has that colour; what there were so many of.
    """

    split: str
    subject: Subject
    thing: str
    noun: str
    person: Person
    favourable: bool | None
    text: str = ""
    companion: str | None = None
    town: str | None = None
    origin: str | None = None
    time: str | None = None
    season: str | None = None
    day: str | None = None
    colour: str | None = None
    object: str | None = None
    number: str | None = None
    crowd: str | None = None


# How often a document mentions a fact that was not asked for.
FACTS = {
    "town": 0.3,
    "origin": 0.12,
    "companion": 0.15,
    "time": 0.2,
    "season": 0.2,
    "day": 0.12,
    "colour": 0.12,
    "number": 0.12,
}
VALUES = {
    "time": tuple(lexicon.TIMES),
    "season": tuple(lexicon.SEASONS),
    "day": lexicon.WEEKDAYS,
    "colour": lexicon.COLOURS,
    "number": lexicon.NUMBERS,
}
_FACT_SENTENCES = {
    "town": phrasings.PLACE_SENTENCES,
    "origin": phrasings.ORIGIN_SENTENCES,
    "time": phrasings.TIME_SENTENCES,
    "season": phrasings.SEASON_SENTENCES,
    "day": phrasings.DAY_SENTENCES,
    "colour": phrasings.COLOUR_SENTENCES,
    "number": phrasings.NUMBER_SENTENCES,
}
_WHEN = ("time", "season", "day")
_OPINIONS = (
    *[opinions.ADJECTIVE_SENTENCES] * 10,
    *[opinions.VERB_SENTENCES] * 5,
    *[opinions.NOUN_SENTENCES] * 3,
    *[opinions.OUTCOME_SENTENCES] * 3,
    *[opinions.REACTION_SENTENCES] * 4,
)


def write(
    rng: random.Random,
    split: str,
    *,
    subjects: Sequence[str] = tuple(SUBJECTS),
    favourable: bool | None = None,
    opinions: int | None = None,
    facts: Mapping[str, str | bool] | None = None,
    adjectives: str = "all",
) -> Document:
    """One document of at most `MAX_WORDS` words.

    Args:
      rng: decides everything that is left open.
      split: "pretraining", "train", "validation" or "test": whose names and phrasings it uses.
      subjects: names of the domains to choose from.
      favourable: the side of the opinions; open if None.
      opinions: number of opinion sentences; 2 or 3 if None; 0 for a text without opinion.
      facts: fact -> its value, True for any value, or False to keep it out; facts that are not
        named here are mentioned now and then. "person": True is somebody with a name.
      adjectives: "all", "usual" (without those of the second domain) or "shift" (mostly those).
    """
    while True:
        document = _Writer(
            rng, split, subjects, favourable, opinions, facts or {}, adjectives
        ).write()
        if len(document.text.split()) <= MAX_WORDS:
            return document


class _Writer:
    """Chooses the facts of one document, then its sentences, then the words in their slots."""

    def __init__(self, rng, split, subjects, favourable, opinions, facts, adjectives):
        self.rng, self.split, self.adjectives = rng, split, adjectives
        self.opinions = rng.choice((2, 2, 2, 3)) if opinions is None else opinions
        subject = SUBJECTS[rng.choice(subjects)]
        noun = rng.choice(subject.nouns)
        named = facts.get("person", rng.random() < 0.75)
        self.doc = Document(
            split=split,
            subject=subject,
            noun=noun,
            thing=rng.choice(subject.things[split]).replace("{noun}", noun),
            person=rng.choice(lexicon.PEOPLE[split]) if named else NARRATOR,
            favourable=None if not self.opinions else favourable,
        )
        if self.opinions and favourable is None:
            self.doc.favourable = rng.random() < 0.5
        self.men = self.doc.person.he == "she" or (not named and rng.random() < 0.5)
        self.known = not named  # mentioned by name already
        self.used: set[str] = set()
        self._choose_facts(facts)

    def _choose_facts(self, wanted: Mapping[str, str | bool]) -> None:
        for fact, chance in FACTS.items():
            value = wanted.get(fact, self.rng.random() < chance)
            if value:
                setattr(self.doc, fact, self._any(fact) if value is True else value)
        if self.doc.colour:
            self.doc.object = self.rng.choice(lexicon.OBJECTS)
        if self.doc.number:
            self.doc.crowd = self.rng.choice(lexicon.CROWDS)

    def _any(self, fact: str) -> str:
        if fact == "companion":  # of the other sex, so that "he" and "she" stay clear
            return self.rng.choice((lexicon.MEN if self.men else lexicon.WOMEN)[self.split]).name
        if fact in VALUES:
            return self.rng.choice(VALUES[fact])
        one, another = self.rng.sample(lexicon.TOWNS[self.split], 2)
        return another if one == self.doc.town else one

    def write(self) -> Document:
        tails, apart = self._divide_facts()
        body = [self._pick(self.rng.choice(_OPINIONS)) for _ in range(self.opinions)]
        if self.opinions > 2 and self.rng.random() < 0.25:
            body[-1] = self._pick(opinions.NEGATED_SENTENCES)
        extra = [self._pick(_FACT_SENTENCES[fact], fact) for fact in apart]
        if len(extra) + self.opinions < 3 and self.rng.random() < 0.5:
            extra.append(self._pick(phrasings.PLAIN_SENTENCES))
        for sentence in extra:
            body.insert(self.rng.randrange(len(body) + 1), sentence)
        opening = self._pick(phrasings.OPENINGS).replace("{tail}", "".join(tails))
        body.insert(0 if self.rng.random() < 0.8 else self.rng.randrange(len(body) + 1), opening)
        self.doc.text = " ".join(map(self._sentence, body))
        return self.doc

    def _divide_facts(self) -> tuple[list[str], list[str]]:
        """(adjuncts of the opening sentence, facts that get a sentence of their own)."""
        apart = [fact for fact in FACTS if getattr(self.doc, fact) and fact != "companion"]
        tails = [self._pick(phrasings.COMPANY_TAILS)] if self.doc.companion else []
        if "town" in apart and self.rng.random() < 0.6:
            tails.append(self._pick(phrasings.PLACE_TAILS))
            apart.remove("town")
        when = {fact for fact in _WHEN if fact in apart}
        fitting = [tail for tail in phrasings.TIME_TAILS[self.split] if _slots(tail) <= when]
        if fitting and self.rng.random() < 0.6:
            tails.append(self.rng.choice(fitting))
            apart = [fact for fact in apart if fact not in _slots(tails[-1])]
        self.rng.shuffle(tails)
        return [f" {tail}" for tail in tails], apart

    def _pick(self, frames: Mapping[str, tuple[str, ...]], fact: str | None = None) -> str:
        """A phrasing that this document has not used yet, if there is one."""
        fresh = [frame for frame in frames[self.split] if frame not in self.used]
        if fact == "season":
            fresh = [frame for frame in fresh if {"season", "sign"} & _slots(frame)]
        frame = self.rng.choice(fresh or frames[self.split])
        self.used.add(frame)
        return frame

    def _sentence(self, frame: str) -> str:
        self.mentioned = False  # in this sentence
        self._choose_part()
        text = self._fill(_CHOICE.sub(lambda m: self.rng.choice(m[1].split("|")), frame))
        text = _ARTICLE.sub(r"\1n ", _BLANKS.sub(" ", text))
        return sentence_case(text)

    def _fill(self, frame: str) -> str:
        return _SLOT.sub(lambda m: getattr(self, "_" + m[1], self._fact)(m[1]), frame)

    def _choose_part(self) -> None:
        """What this sentence judges: a part of the thing, or the thing, and adjectives for it."""
        self.fitting: tuple[str, ...] = ()
        self.part, plural = f"the {self.doc.noun}", False
        if self.rng.random() < 0.7:
            aspects = self.rng.choice(self.doc.subject.aspects)
            part = self.rng.choice(aspects.parts)
            if part not in self.used:
                self.used.add(part)
                self.part, plural = f"the {part.rstrip('+')}", part.endswith("+")
                if self.doc.favourable is not None:
                    self.fitting = aspects.adjectives[self.doc.favourable]
        self.was, self.that = ("were", "them") if plural else ("was", "it")

    # Slots.

    def _fact(self, slot: str) -> str:
        return getattr(self.doc, slot)

    def _person(self, pronoun: str, name: str) -> str:
        by_name = not self.known or (not self.mentioned and self.rng.random() < 0.2)
        self.known = self.mentioned = True
        return name if by_name and self.doc.person is not NARRATOR else pronoun

    def _he(self, _) -> str:
        return self._person(self.doc.person.he, self.doc.person.name)

    def _him(self, _) -> str:
        return self._person(self.doc.person.him, self.doc.person.name)

    def _his(self, _) -> str:
        return self._person(self.doc.person.his, self.doc.person.name + "'s")

    def _part(self, _) -> str:
        return self.part

    def _was(self, _) -> str:
        return self.was

    def _that(self, _) -> str:
        return self.that

    def _kin(self, _) -> str:
        return self.rng.choice(lexicon.KIN)

    def _relation(self, _) -> str:
        return self.rng.choice(lexicon.BROTHERS if self.men else lexicon.SISTERS)

    def _did(self, _) -> str:
        return self._fill(self.rng.choice(self.doc.subject.deeds))

    def _time(self, _) -> str:
        return self.rng.choice(lexicon.TIMES[self.doc.time])

    def _season(self, _) -> str:
        return self.rng.choice(lexicon.SEASONS[self.doc.season])

    def _sign(self, _) -> str:
        return self.rng.choice(lexicon.SEASON_SIGNS[self.doc.season])

    def _adj(self, _) -> str:
        if self.fitting and self.rng.random() < 0.4:
            return self._fresh(self.fitting)
        return self._fresh(self._adjectives(self.doc.favourable))

    def _opposite(self, _) -> str:
        return self._fresh(self._adjectives(not self.doc.favourable))

    def _adjectives(self, side: bool) -> tuple[str, ...]:
        if self.adjectives == "usual":
            return lexicon.USUAL_ADJECTIVES[side]
        if self.adjectives == "shift" and self.rng.random() < 0.7:
            return lexicon.SHIFT_ADJECTIVES[side]
        return lexicon.ADJECTIVES[side]

    def _verb(self, _) -> str:
        return self._fresh(lexicon.VERBS[self.doc.favourable])

    def _a_noun(self, _) -> str:
        return self._fresh(lexicon.NOUNS[self.doc.favourable])

    def _outcome(self, _) -> str:
        return self._fill(self._fresh(lexicon.OUTCOMES[self.doc.favourable]))

    def _reaction(self, _) -> str:
        return self._fill(self._fresh(lexicon.REACTIONS[self.doc.favourable]))

    def _fresh(self, options: Sequence[str]) -> str:
        """One of `options`, and one that this document has not used if there is any."""
        unused = [option for option in options if option not in self.used]
        word = self.rng.choice(unused or options)
        self.used.add(word)
        return word


_CHOICE = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_BLANKS = re.compile(r"  +")
_START = re.compile(r"(^|[?] )[a-z]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")


def sentence_case(text: str) -> str:
    """Capitals at the start of the text and after a question."""
    return _START.sub(lambda match: match[0].upper(), text)


@functools.cache
def _slots(frame: str) -> frozenset[str]:
    return frozenset(_SLOT.findall(frame))
