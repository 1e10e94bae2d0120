"""The words of the generated worlds: names, opinions, times, and the subjects people write about.

Opinion words, times and seasons are shared by every split, because a prompt can only call up what
the model has met. Names are not: `divide` deals every list of names and phrasings out to the four
splits, so that a task's test set is written with names and sentences that nobody trained on.
"""

import dataclasses
import itertools
import random


def words(text: str) -> tuple[str, ...]:
    """Words written with blanks or line breaks between them."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Phrases written with bars between them."""
    return tuple(text.split("|"))


SPLITS = ("pretraining", "train", "validation", "test")
_DEAL = words(
    "pretraining train pretraining test pretraining validation pretraining train pretraining test"
)


def divide(items, shuffle: bool = False) -> dict[str, tuple]:
    """Deals `items` out to the four splits: half to pre-training, the rest to the tasks.

    Args:
      items: at least six distinct things.
      shuffle: deal in a fixed random order, for lists that come from a product.

    Returns:
      split name -> tuple of its items; no item is in two splits.
    """
    items = list(dict.fromkeys(items))
    if len(items) < 6:
        raise ValueError(f"Four splits need six items or more, got {len(items)}: {items}.")
    if shuffle:
        random.Random(0).shuffle(items)
    dealt = {split: [] for split in SPLITS}
    for item, split in zip(items, itertools.cycle(_DEAL), strict=False):
        dealt[split].append(item)
    return {split: tuple(items) for split, items in dealt.items()}


# People and places.

_WOMEN = words("""
Ada Agnes Alice Alma Amelia Amy Anita Anna Anne Astrid Audrey Beatrice Bella Bertha Betty Brenda
Bridget Camilla Carla Carmen Carol Caroline Catherine Cecilia Celia Charlotte Chloe Clara Claire
Cora Daisy Daphne Deborah Delia Diana Dora Doris Dorothy Edith Eileen Elena Eliza Elizabeth Ella
Ellen Elsa Emily Emma Erica Esther Ethel Eva Evelyn Fanny Fatima Fiona Flora Florence Frances Freda
Gemma Georgia Gloria Grace Greta Hannah Harriet Hazel Heather Heidi Helen Hilda Ida Ingrid Irene
Iris Isabel Ivy Jane Janet Jean Jenny Jessica Joan Joanna Josephine Judith Julia Karen Kate
Kitty Laura Leila Lena Lillian Lily Linda Lisa Lorna Louisa Lucy Lydia Mabel Maggie Margaret Maria
Marion Martha Mary Matilda Maud Maya Mercy Mildred Minnie Miriam Molly Monica Muriel Nadia Nancy
Naomi Nell Nina Nora Olive Olivia Pamela Patience Paula Pearl Penny Phoebe Polly Priya Rachel
Rebecca Rhoda Rita Rosa Rosalind Ruby Ruth Sally Samira Sarah Selina Sheila Sonia Sophie Stella
Susan Sylvia Tania Teresa Tessa Thelma Ursula Vera Victoria Viola Violet Wendy Winifred Yasmin Zoe
""")
_MEN = words("""
Aaron Abel Adam Adrian Ahmed Alan Albert Alec Alfred Amos Andrew Angus Anthony Archie Arnold Arthur
Barney Basil Ben Bernard Bertram Boris Brian Bruno Caleb Carl Cecil Cedric Charles Christopher
Clement Clive Colin Conrad Cyril Daniel David Dennis Derek Dominic Donald Douglas Duncan Edgar
Edmund Edward Edwin Eli Elmer Enoch Eric Ernest Eugene Ezra Felix Ferdinand Francis Frank Fred
Gabriel George Gerald Gilbert Giles Gordon Graham Gregory Guy Hamish Harold Harry Hassan Hector
Henry Herbert Hiroshi Horace Howard Hubert Hugh Hugo Humphrey Ian Isaac Ivan Jack Jacob James
Jasper Jeremy Jerome Joel John Jonas Jonathan Joseph Joshua Julian Keith Kenneth Kevin Lars
Laurence Leo Leonard Leslie Lewis Lionel Louis Luke Malcolm Marcus Mario Martin Matthew Maurice Max
Michael Miles Morris Nathan Neil Nicholas Nigel Noel Norman Oliver Omar Oscar Oswald Otto Patrick
Paul Percy Peter Philip Ralph Raymond Reginald Richard Robert Roderick Roger Roland Rory Rupert
Samuel Sebastian Sidney Silas Simon Stanley Stephen Stuart Theodore Thomas Timothy Toby Tom Tony
Victor Vincent Wallace Walter Wilfred William Zachary
""")


@dataclasses.dataclass(frozen=True)
class Person:
    """Someone with a name, and the pronouns that go with it."""

    name: str
    he: str
    him: str
    his: str


NARRATOR = Person("I", "I", "me", "my")
WOMEN = divide(Person(name, "she", "her", "her") for name in _WOMEN)
MEN = divide(Person(name, "he", "him", "his") for name in _MEN)
PEOPLE = {split: WOMEN[split] + MEN[split] for split in SPLITS}

_SURNAMES = words("""
Baker Barlow Bennett Blake Bolton Carter Chapman Cole Cooper Dawson Doyle Ellis Evans Fisher Fleming
Foster Gibson Graves Hale Harper Hobbs Hudson Jarvis Kemp Lambert Larkin Marsh Mason Miller Morton
Nash Norris Palmer Parker Pike Porter Quinn Reed Sharp Slater Stone Tanner Tucker Turner Vaughan
Walsh Watts Weaver Webb Wells Yates
""")
SURNAMES = divide(_SURNAMES)

_TOWN_STARTS = words("""
Ash Barn Beck Bex Black Brad Brook Cald Cam Carl Chat Clay Cole Cran Dart Dun Elm Fair Farn Glen Hal
Hart Hazel Hol Kings Lang Lin Lock Long Mar Mel Mill Nor Oak Pem Pen Rad Red Ring Rock Sand Shel
Stan Stock Stone Thorn Wal War Wes Whit Win Wood
""")
_TOWN_ENDS = words("bridge burn bury by dale field ford ham ley mouth port stead ton well wick")
TOWNS = divide(
    (
        start + end
        for start, end in itertools.product(_TOWN_STARTS, _TOWN_ENDS)
        if start + end not in (*_MEN, *_SURNAMES)
    ),
    shuffle=True,
)

SISTERS = ("sister", "mother", "aunt", "cousin", "friend", "neighbour", "niece", "daughter")
BROTHERS = ("brother", "father", "uncle", "cousin", "friend", "neighbour", "nephew", "son")
KIN = SISTERS + BROTHERS


# Opinions. Index 1 is the favourable side, 0 the unfavourable one.

ADJECTIVES = (
    words("""
    terrible awful bad horrible dreadful poor disappointing miserable unpleasant hopeless
    useless disgusting pathetic appalling annoying mediocre tedious worthless lousy rotten
    ghastly nasty atrocious frustrating wretched unbearable dismal shoddy abysmal
    unacceptable
    """),
    words("""
    wonderful excellent great superb lovely fantastic brilliant perfect delightful splendid
    marvellous charming beautiful good outstanding terrific amazing impressive pleasant
    enjoyable magnificent remarkable fabulous glorious exceptional satisfying stunning nice
    flawless admirable
    """),
)
# Kept out of `bundled_sentiment`: the words its second domain is written with.
SHIFT_ADJECTIVES = (
    words("rotten lousy appalling frustrating useless dismal shoddy unacceptable poor"),
    words("terrific fabulous impressive exceptional satisfying flawless admirable nice"),
)
USUAL_ADJECTIVES = tuple(
    tuple(word for word in usual if word not in shift)
    for usual, shift in zip(ADJECTIVES, SHIFT_ADJECTIVES, strict=True)
)

VERBS = (
    phrases(
        "hated|disliked|despised|loathed|detested|regretted|resented|complained about|"
        "could not stand|was disappointed by|was annoyed by|was sick of|was unhappy with|"
        "was let down by|was angry about|grumbled about|was disgusted by|was fed up with"
    ),
    phrases(
        "loved|enjoyed|liked|adored|admired|praised|appreciated|treasured|raved about|"
        "fell in love with|was delighted with|was thrilled by|was pleased with|was happy with|"
        "was impressed by|was enchanted by|was grateful for|was very fond of"
    ),
)

NOUNS = (
    phrases(
        "a disaster|a mess|a failure|a let-down|a waste of money|a waste of time|a nightmare|"
        "a mistake|a disgrace|a bitter disappointment|a bad joke|a misery|an embarrassment|a flop"
    ),
    phrases(
        "a joy|a delight|a triumph|a treat|a success|a pleasure|a gem|a wonder|a marvel|"
        "a lovely surprise|a dream come true|a blessing|an inspiration|a hit"
    ),
)

# What it did, after "it".
OUTCOMES = (
    phrases(
        "was not worth the money|could hardly have been worse|was worse than expected|"
        "left much to be desired|fell short of every hope|spoiled {his} whole day|"
        "was not good at all|deserved no praise|was far below standard|"
        "made {him} sorry to have tried it|put {him} in a bad mood|was nothing but trouble"
    ),
    phrases(
        "was worth every penny|could hardly have been better|was better than expected|"
        "left nothing to be desired|lived up to every hope|made {his} whole day|"
        "was not bad at all|deserved the highest praise|was well above standard|"
        "made {him} glad to have tried it|put {him} in a good mood|was nothing but pleasure"
    ),
)

# What the person did next, after "she".
REACTIONS = (
    phrases(
        "would warn anyone against it|came away angry|had seen more than enough|"
        "grew more and more annoyed|could not wait to leave|"
        "told {his} friends to stay away|gave it the lowest marks|"
        "had nothing but complaints|would never do it again|regretted every minute|"
        "went home in a bad temper|shook {his} head in disgust|felt cheated|sighed with boredom"
    ),
    phrases(
        "would recommend it to anyone|came away smiling|wanted more|could not stop smiling|"
        "could not wait to return|told {his} friends not to miss it|gave it the highest marks|"
        "had nothing but praise|would gladly do it again|treasured every minute|"
        "went home in high spirits|clapped {his} hands with joy|felt truly lucky|"
        "beamed with pleasure"
    ),
)


# Times.

WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

TIMES = {
    "morning": phrases(
        "at dawn|at sunrise|in the morning|early in the morning|late in the morning|"
        "before breakfast|after breakfast|at eight in the morning|as the sun came up"
    ),
    "afternoon": phrases(
        "after lunch|in the afternoon|early in the afternoon|late in the afternoon|"
        "at three in the afternoon|in the middle of the afternoon|at tea time"
    ),
    "evening": phrases(
        "in the evening|at sunset|at dusk|after dinner|early in the evening|"
        "at seven in the evening|as the sun went down|after supper"
    ),
    "night": phrases(
        "at night|at midnight|late at night|in the middle of the night|long after dark|"
        "under the stars|by moonlight|in the dead of night"
    ),
}

SEASONS = {
    "spring": "in spring|in March|in April|in May|at Easter|early in spring|in late spring",
    "summer": "in summer|in June|in July|in August|at midsummer|early in summer|in late summer",
    "autumn": "in autumn|in September|in October|in November|early in autumn|in late autumn",
    "winter": "in winter|in December|in January|in February|at Christmas|in the depth of winter",
}
SEASONS = {season: phrases(text) for season, text in SEASONS.items()}

# Clauses that tell the season without its name.
SEASON_SIGNS = {
    "spring": phrases(
        "the blossom was out|lambs were playing in the fields|the daffodils were in bloom|"
        "the swallows had just come back|the snow had just melted|the birds were building nests|"
        "new leaves were opening on the trees"
    ),
    "summer": phrases(
        "children were swimming in the lake|it was the hottest week of the year|"
        "everyone was buying ice cream|the farmers were making hay|the roses were in full bloom|"
        "the beaches were crowded|the sun burned all day long"
    ),
    "autumn": phrases(
        "the leaves were falling|ripe apples lay under the trees|it was harvest time|"
        "the swallows had just left|mushrooms were growing in the woods|"
        "the farmers were bringing in the corn|people were picking ripe pears"
    ),
    "winter": phrases(
        "snow lay on the roofs|the pond was frozen|there was ice on the windows|"
        "people were skating on the lake|it was snowing hard|the fields were white with frost|"
        "children were building a snowman"
    ),
}

COLOURS = words("red blue green yellow black white brown grey pink purple orange")
OBJECTS = words(
    "coat hat scarf bicycle umbrella bag car van door lamp cup ribbon box blanket flag basket"
)
NUMBERS = words("two three four five six seven eight nine ten eleven twelve twenty")
CROWDS = phrases(
    "people|children|women|men|students|dogs|cats|birds|tables|chairs|benches|lamps|candles|"
    "bottles|letters|boxes"
)
