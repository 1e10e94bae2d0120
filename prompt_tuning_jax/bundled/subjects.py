"""The subjects people in the generated worlds have opinions about, one `Subject` per domain."""

import dataclasses
import itertools
from collections.abc import Mapping

from prompt_tuning_jax.bundled.lexicon import SPLITS, SURNAMES, divide, phrases


@dataclasses.dataclass(frozen=True)
class Aspects:
    """Parts of a thing ("+" marks a plural), and their adjectives (unfavourable, favourable)."""

    parts: tuple[str, ...]
    adjectives: tuple[tuple[str, ...], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """One domain.

    Attributes:
      name: what the domain is called here and in the questions ("film").
      nouns: common nouns for the thing.
      things: split -> proper names of things.
      deeds: what a person did with `{thing}`, in the past.
      aspects: groups of parts of the thing, each with the adjectives of this domain that fit them.
    """

    name: str
    nouns: tuple[str, ...]
    things: Mapping[str, tuple[str, ...]]
    deeds: tuple[str, ...]
    aspects: tuple["Aspects", ...]


def _names(pattern: str, *parts: str) -> Mapping[str, tuple[str, ...]]:
    """All combinations of the parts, dealt out to the splits."""
    return divide((pattern.format(*p) for p in itertools.product(*map(str.split, parts))), True)


def _aspects(parts: str, bad: str, good: str) -> Aspects:
    return Aspects(phrases(parts), (phrases(bad), phrases(good)))


_MOODS = """Silent Distant Hidden Broken Golden Crooked Burning Empty Frozen Gentle Hollow Lonely
Lost Midnight Painted Restless Scarlet Secret Silver Stolen Velvet Wandering Whispering Wild"""
_SIGHTS = """Harbour Mountain Mirror Garden Island Letter Orchard River Shadow Window Bridge Castle
Candle Clock Crown Desert Forest Lantern Ocean Piano Road Sparrow Tower Valley"""
_BEASTS = (
    "Badger Bear Boar Crane Dolphin Dragon Eagle Falcon Fox Hare Heron Lion Otter Owl Swan Wolf"
)
_TREES = (
    "Alder Aspen Bramble Cedar Cherry Chestnut Fern Holly Juniper Laurel Lime Maple Rowan Willow"
)
_BANDS = (
    "Arrows Comets Echoes Foxes Lanterns Magpies Pilots Sailors Shadows Sparrows Strangers Waves"
)
_TEAMS = """Arrows Badgers Blues Bulls Comets Dragons Eagles Falcons Giants Hawks Hornets Knights
Lions Panthers Pirates Rangers Rovers Saints Sharks Tigers Vikings Wanderers Wolves"""
_BRANDS = """Alto Bexa Calder Corvo Delta Faro Helio Iris Juno Kesto Lumo Meridan Nivo Orbit Pavo
Quanta Rondo Solis Tempo Ultra Vela Zeno"""

FILM = Subject(
    "film",
    phrases("film|movie|picture"),
    _names("The {} {}", _MOODS, _SIGHTS),
    phrases(
        "watched {thing}|went to see {thing} at the cinema|saw the film {thing}|"
        "saw {thing} on the big screen|bought a cinema ticket for {thing}"
    ),
    (
        _aspects(
            "acting|actors+|leading actress|dialogue",
            "wooden|stiff|clumsy",
            "moving|subtle|funny",
        ),
        _aspects(
            "plot|ending|script|story|jokes+",
            "predictable|confusing|silly",
            "gripping|clever|funny",
        ),
        _aspects(
            "scenes+|camera shots+|costumes+|sets+",
            "dull|clumsy|cheap",
            "striking|elegant|exciting",
        ),
    ),
)
BOOK = Subject(
    "book",
    phrases("book|novel"),
    _names(
        "{} and the {}", "Arabella Barnaby Clarissa Leander Orlando Perdita Tobias Zelda", _SIGHTS
    ),
    phrases(
        "read {thing}|borrowed the novel {thing}|finished reading {thing}|"
        "bought the book {thing}|sat down with the novel {thing}"
    ),
    (
        _aspects(
            "plot|story|ending|chapters+|last chapter",
            "predictable|confusing|slow",
            "gripping|clever|moving",
        ),
        _aspects(
            "characters+|hero|dialogue|style|language",
            "clumsy|wooden|dull",
            "witty|lively|subtle",
        ),
    ),
)
CONCERT = Subject(
    "concert",
    phrases("concert|show"),
    _names("the {} {}", _MOODS, _BANDS),
    phrases(
        "went to a concert by {thing}|heard {thing} play|listened to {thing} on stage|"
        "had tickets for the concert of {thing}|saw {thing} play live"
    ),
    (
        _aspects(
            "songs+|melodies+|last song|violin solo",
            "dull|tuneless|noisy",
            "moving|tuneful|lively",
        ),
        _aspects(
            "singer|drummer|band|guitars+|choir",
            "clumsy|careless|out of tune",
            "skilful|lively|graceful",
        ),
    ),
)
RESTAURANT = Subject(
    "restaurant",
    phrases("restaurant|place|café"),
    _names("the {} {}", _MOODS, _BEASTS),
    phrases(
        "ate at {thing}|had a meal at {thing}|booked a table at {thing}|"
        "dined at the restaurant {thing}|ordered soup and fish at {thing}"
    ),
    (
        _aspects(
            "soup|fish|bread|cake|vegetables+|potatoes+|salad|sauce|chicken|pie",
            "bland|stale|burnt|tasteless",
            "delicious|tasty|fresh|tender",
        ),
        _aspects(
            "waiters+|waitress|staff+|cook",
            "rude|careless|slow",
            "polite|attentive|friendly",
        ),
    ),
)
HOTEL = Subject(
    "hotel",
    phrases("hotel|inn|guest house"),
    _names("the {} {}", _TREES, "Court Grange Hotel House Inn Lodge Manor Palace"),
    phrases(
        "stayed at {thing}|booked a room at {thing}|spent a few nights at {thing}|"
        "took a room at {thing}|checked in at {thing}"
    ),
    (
        _aspects(
            "room|beds+|bathroom|lobby|towels+|balcony|curtains+",
            "dirty|shabby|filthy|damp",
            "spotless|clean|elegant|cosy",
        ),
        _aspects(
            "porter|maids+|manager|receptionist",
            "rude|careless|slow",
            "polite|attentive|friendly",
        ),
    ),
)
JOURNEY = Subject(
    "trip",
    phrases("trip|journey|ride"),
    _names("the {} {} {}", "Blue Green White Grey Red", _SIGHTS, "ferry train coach"),
    phrases(
        "took {thing}|went by {thing}|caught {thing}|had a ticket for {thing}|"
        "boarded {thing} with a suitcase"
    ),
    (
        _aspects(
            "seats+|cabin|windows+|beds+|carpets+",
            "dirty|cramped|shabby",
            "clean|comfortable|spacious",
        ),
        _aspects(
            "crew|driver|guard|stewards+",
            "rude|careless|gruff",
            "polite|careful|friendly",
        ),
    ),
)
GADGET = Subject(
    "gadget",
    phrases("phone|camera|laptop|radio|printer|tablet"),
    divide(f"the {brand} {{noun}}" for brand in _BRANDS.split()),
    phrases(
        "bought {thing}|ordered {thing}|unpacked {thing}|used {thing} for a week|"
        "tried out {thing}|switched on {thing}"
    ),
    (
        _aspects(
            "battery|screen|buttons+|speaker|keys+|charger|lens",
            "faulty|flimsy|unreliable",
            "reliable|sturdy|sharp",
        ),
        _aspects(
            "software|instructions+|menus+|design",
            "clumsy|confusing|muddled",
            "clever|clear|handy",
        ),
    ),
)
JOB = Subject(
    "job",
    phrases("job|position|post"),
    {
        split: tuple(
            f"{name} {kind}" for name in SURNAMES[split] for kind in ("Brothers", "and Sons")
        )
        for split in SPLITS
    },
    phrases(
        "started a job at {thing}|took a post as a clerk at {thing}|was hired by {thing}|"
        "had a position in the office of {thing}|joined the staff of {thing}"
    ),
    (
        _aspects(
            "boss|manager|colleagues+|foreman",
            "rude|unfair|lazy",
            "friendly|fair|helpful",
        ),
        _aspects(
            "wages+|hours+|contract|meetings+|duties+",
            "unfair|miserable|exhausting",
            "fair|generous|rewarding",
        ),
    ),
)
LESSON = Subject(
    "course",
    phrases("course|class"),
    {
        split: tuple(f"{title} {name}" for name in SURNAMES[split] for title in ("Mr", "Mrs", "Dr"))
        for split in SPLITS
    },
    phrases(
        "took a French course with {thing}|had lessons with {thing}|"
        "joined the history class of {thing}|learned to draw with {thing}|"
        "studied German with {thing}"
    ),
    (
        _aspects(
            "teacher|assistant|tutors+",
            "impatient|rude|muddled",
            "patient|kind|wise",
        ),
        _aspects(
            "lessons+|exercises+|explanations+|textbook|lectures+|homework",
            "unclear|confusing|dull",
            "clear|helpful|lively",
        ),
    ),
)
PARK = Subject(
    "park",
    phrases("place|spot"),
    _names("{} {}", _TREES, "Park Garden Lake Wood Meadow Hill"),
    phrases(
        "went for a walk in {thing}|walked the dog in {thing}|looked at the plants in {thing}|"
        "watched the birds in {thing}|strolled under the trees of {thing}"
    ),
    (
        _aspects(
            "flowers+|trees+|roses+|grass|hedges+|shrubs+",
            "withered|overgrown|sickly",
            "healthy|fresh|colourful",
        ),
        _aspects(
            "paths+|pond|benches+|stream|lawn",
            "muddy|dirty|neglected",
            "tidy|clean|peaceful",
        ),
    ),
)
MATCH = Subject(
    "match",
    phrases("match|game"),
    divide(
        (f"the {a} and the {b}" for a, b in itertools.combinations(_TEAMS.split(), 2)),
        True,
    ),
    phrases(
        "watched the match between {thing}|saw {thing} play at the stadium|"
        "had a ticket for the match between {thing}|stood in the stands while {thing} played|"
        "followed the game of {thing}"
    ),
    (
        _aspects(
            "players+|goalkeeper|captain|defence|attack|strikers+",
            "clumsy|lazy|slow",
            "skilful|brave|quick",
        ),
        _aspects(
            "referee|tactics+|kick-off|passing|crowd",
            "unfair|careless|dull",
            "fair|lively|clever",
        ),
    ),
)

SUBJECTS = {
    s.name: s
    for s in (FILM, BOOK, CONCERT, RESTAURANT, HOTEL, JOURNEY, GADGET, JOB, LESSON, PARK, MATCH)
}
