"""The sentences of the generated worlds but opinions, dealt out to the splits, which share none.

A phrasing is written with slots, `{he}`, and choices, `[one|another|]`:

    {he} {him} {his}   the person: by name until mentioned, then by pronoun (I, me, my)
    {part} {was} {that}   a part of the thing ("the soup") or the thing; was, were; it, them
    {thing} {noun}     its proper name; its common noun
    {adj} {verb} {outcome} {reaction} {a_noun}   an opinion, always on the document's side
    {did}              what the person did with the thing
    {town} {origin} {time} {season} {sign} {day} {colour} {object} {number} {crowd}   a fact
    {companion} {relation} {kin}   who came along, as whose sister or brother; any relative
"""

from prompt_tuning_jax.bundled.lexicon import divide


def lines(text: str) -> dict[str, tuple[str, ...]]:
    """The lines of a text, dealt out to the splits."""
    return divide(line.strip() for line in text.strip().splitlines())


# How a document begins: {did} carries the thing, {tail} where, when and with whom.
OPENINGS = lines("""
    {he} {did}{tail}.
    [Some|Many] weeks ago {he} {did}{tail}.
    {he} [finally|eventually] {did}{tail}.
    A [few days|month] ago {he} {did}{tail}.
    [Some time|About a year] ago {he} {did}{tail}.
    [On a whim|Quite by chance] {he} {did}{tail}.
    It was a [free|quiet] day, so {he} {did}{tail}.
    After a long wait, {he} {did}{tail}.
    [Recently|Lately] {he} {did}{tail}.
    {he} had some time to spare and {did}{tail}.
    For a change {he} {did}{tail}.
    {he} followed the advice of {his} {kin} and {did}{tail}.
    Not long ago {he} {did}{tail}.
    {he} [packed a bag|put on a coat] and {did}{tail}.
    To [mark a birthday|pass the time], {he} {did}{tail}.
    [Everybody knows|It is well known] that {he} {did}{tail}.
    The other day {he} {did}{tail}.
    As planned, {he} {did}{tail}.
    {he} wrote in a letter that {he} {did}{tail}.
    [Because it was raining|With nothing else to do], {he} {did}{tail}.
    It was {his} {kin} who asked for it, and {he} {did}{tail}.
    [Without much thought|Without telling anyone], {he} {did}{tail}.
    {he} [changed plans|cleared a day] and {did}{tail}.
    Here is what happened when {he} {did}{tail}.
    For once {he} {did}{tail}.
    There was nothing on the calendar, so {he} {did}{tail}.
    {he} still remembered how {he} {did}{tail}.
    [During the holidays|While the family was away], {he} {did}{tail}.
    {he} had heard a lot about it and {did}{tail}.
    After some thought, {he} {did}{tail}.
""")

# Adjuncts, each with the leading blank.
PLACE_TAILS = lines("""
    in {town}
    on a visit to {town}
    in the old part of {town}
    [near|not far from] the market in {town}
    during a stay in {town}
    on the way through {town}
    in the [small|busy] town of {town}
    just outside {town}
    on the edge of {town}
    while [staying|living] in {town}
    in the centre of {town}
    in [sleepy|sunny] {town}
    over in {town}
    down in {town}
""")
TIME_TAILS = lines("""
    {time}
    one day {time}
    in no hurry {time}
    alone {time}
    on {day} {time}
    {season}
    one day {season}
    on a {day} {season}
    once again {season}
    {time} {season}
    on {day}
    last {day}
    [this year|last year] {season}
    for an hour {time}
""")
COMPANY_TAILS = lines("""
    with {his} {relation} {companion}
    together with {companion}
    and took {companion} along
    in the company of {companion}
    and brought {his} {relation} {companion}
    along with {companion}, {his} {relation}
    with {companion}
    next to {his} {relation} {companion}
    side by side with {his} {relation} {companion}
    and invited {companion}
""")

# A fact in a sentence of its own.
PLACE_SENTENCES = lines("""
    This was in {town}.
    It all happened in {town}.
    That is how things are in {town}.
    {town} was full of visitors [that week|at the time].
    The streets of {town} were busy.
    {he} was in {town} at the time.
    [Nobody|No one] in {town} was surprised.
    The bells of {town} were ringing.
    {he} had come to {town} by bus.
    {town} looked the same as ever.
    People in {town} still talk about it.
    There was a fair in {town} [that week|as well].
    The road to {town} had been long.
    {town} is where {he} was staying.
    {he} had spent the night in {town}.
    The scene was {town}.
    The mayor of {town} was there too.
    {he} had always wanted to see {town}.
    In {town}, people know each other.
    The station of {town} is close by.
""")
TIME_SENTENCES = lines("""
    It happened {time}.
    {he} arrived {time}.
    All this was {time}.
    It was over {time}.
    {his} {kin} called {time}.
    {he} got there {time}.
    The town was quiet {time}.
    It began {time}.
    {he} set out {time}.
    Everything was ready {time}.
    They met {time}.
    There were few people about {time}.
    {he} was there {time}.
    The doors opened {time}.
    The whole thing took place {time}.
    {he} was usually free {time}.
""")
SEASON_SENTENCES = lines("""
    Outside, {sign}.
    At the time {sign}.
    {he} noticed that {sign}.
    This was {season}.
    It happened {season}.
    [That week|All week] {sign}.
    {he} remembered that {sign}.
    All this was {season}.
    {he} could see that {sign}.
    It took place {season}.
    When {he} arrived, {sign}.
    Along the road {sign}.
    All around, {sign}.
    Everything is different {season}.
    In the meantime {sign}.
    {he} had been waiting for it {season}.
    {he} wrote home that {sign}.
    The whole thing was {season}.
    Meanwhile {sign}.
    {he} went there {season}.
""")
DAY_SENTENCES = lines("""
    It was a {day}.
    This happened on {day}.
    {he} had been looking forward to {day}.
    By {day} the whole family knew.
    {he} told a {kin} about it on {day}.
    It was on a {day}, as usual.
    Like every {day}, there was a crowd.
    The doors open at ten on {day}.
""")
COLOUR_SENTENCES = lines("""
    There was a {colour} {object} near the entrance.
    A {colour} {object} stood by the wall.
    {he} had brought a {colour} {object}.
    {he} noticed a {colour} {object} by the gate.
    Someone had left a {colour} {object} on the steps.
    {his} {object} was {colour}.
    {he} remembered a {colour} {object}.
    Somebody pointed at a {colour} {object}.
    In the corner was a {colour} {object}.
    The {object} by the window was {colour}.
    {he} walked past a {colour} {object}.
    A {colour} {object} could be seen from the street.
""")
NUMBER_SENTENCES = lines("""
    There were {number} {crowd}.
    {he} counted {number} {crowd}.
    {number} {crowd} stood nearby.
    Somebody had counted {number} {crowd}.
    {he} saw {number} {crowd} [there|outside].
    In front of the door were {number} {crowd}.
    {number} {crowd} were just outside.
    Altogether there were {number} {crowd}.
    No more than {number} {crowd} were there.
    {he} passed {number} {crowd} on the way.
    At the back {he} found {number} {crowd}.
    {number} {crowd} could be seen from the road.
""")
ORIGIN_SENTENCES = lines("""
    {his} {kin} comes from {origin}.
    {his} {kin} had sent a card from {origin}.
    A letter from {origin} was waiting at home.
    {his} family lives in {origin}.
    {he} grew up in {origin}.
    The next bus to {origin} left an hour later.
    {his} {kin} was still in {origin}.
    {he} had never been to {origin}.
    {he} moved here from {origin}.
    A man from {origin} asked for the time.
""")
PLAIN_SENTENCES = lines("""
    It [took|lasted] about two hours.
    {his} {kin} had heard of it before.
    {he} had read about it in the newspaper.
    It was raining a little.
    {he} wrote a few lines about it in a diary.
    The bus was on time.
    {his} {kin} stayed at home.
    There was a clock on the wall.
    {he} had an umbrella, just in case.
    {he} took a few notes.
    Somebody was reading a newspaper.
    It was neither warm nor cold.
    {his} {kin} asked about it later.
    {he} went home by bus.
    A dog was barking somewhere.
    The telephone rang twice.
""")
