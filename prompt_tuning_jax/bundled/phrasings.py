"""The sentences of the generated worlds, dealt out to the splits: no two splits share a phrasing.

A phrasing is written with slots, `{he}`, and choices, `[one|another|]`:

    {he} {him} {his}   the person: by name until mentioned, then by pronoun (I, me, my)
    {part} {was} {that}   a part of the thing ("the soup") or the thing; was, were; it, them
    {thing} {noun}     its proper name; its common noun
    {adj} {verb} {outcome} {reaction} {a_noun}   an opinion, always on the document's side
    {did}              what the person did with the thing
    {town} {origin} {time} {season} {sign} {day} {colour} {object} {number} {crowd}   a fact
    {companion} {relation} {kin}   who came along, as whose sister or brother; any relative
"""

from prompt_tuning_jax.bundled.lexicon import SPLITS, divide


def _lines(text: str) -> dict[str, tuple[str, ...]]:
    return divide(line.strip() for line in text.strip().splitlines())


# How a document begins: {did} carries the thing, {tail} where, when and with whom.
OPENINGS = _lines("""
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
PLACE_TAILS = _lines("""
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
TIME_TAILS = _lines("""
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
COMPANY_TAILS = _lines("""
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
PLACE_SENTENCES = _lines("""
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
TIME_SENTENCES = _lines("""
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
SEASON_SENTENCES = _lines("""
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
DAY_SENTENCES = _lines("""
    It was a {day}.
    This happened on {day}.
    {he} had been looking forward to {day}.
    By {day} the whole family knew.
    {he} told a {kin} about it on {day}.
    It was on a {day}, as usual.
    Like every {day}, there was a crowd.
    The doors open at ten on {day}.
""")
COLOUR_SENTENCES = _lines("""
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
NUMBER_SENTENCES = _lines("""
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
ORIGIN_SENTENCES = _lines("""
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
PLAIN_SENTENCES = _lines("""
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

# Opinions.
ADJECTIVE_SENTENCES = _lines("""
    {part} {was} [really|truly|] {adj}.
    {he} [thought|felt|said] that {part} {was} {adj}.
    {he} found {part} {adj}.
    {part} turned out to be {adj}.
    In {his} [opinion|view], {part} {was} {adj}.
    {part} struck {him} as {adj}.
    As for {part}, {he} found {that} {adj}.
    What {he} [remembered|noticed] most was how {adj} {part} {was}.
    [What is more|Besides], {part} {was} {adj}.
    {he} described {part} as {adj}.
    {part} {was} {adj} from start to finish.
    Nobody could deny that {part} {was} {adj}.
    As far as {he} could tell, {part} {was} {adj}.
    {he} kept saying how {adj} {part} {was}.
    {part} proved [to be|] {adj}.
    Everyone agreed that {part} {was} {adj}.
    {part} {was} {adj} and {adj}.
    {part} seemed {adj} to {him}.
    {he} called {part} {adj}.
    {adj} and {adj}: so {was} {part}.
    To {his} mind, {part} {was} {adj}.
    If you had asked {him}, {part} {was} {adj}.
    Above all, {part} {was} {adj}.
    {he} wrote to a {kin} that {part} {was} {adj}.
    Right away {he} saw how {adj} {part} {was}.
    {he} could only call {part} {adj}.
    With {part} so {adj}, {he} {reaction}.
    [It was plain|Anyone could see] that {part} {was} {adj}.
    {he} made a note that {part} {was} {adj}.
    {part}, {he} [said|wrote], {was} {adj}.
    {he} had one word for {part}: {adj}.
    [By all accounts|From what {he} saw], {part} {was} {adj}.
    {he} told {his} {kin} how {adj} {part} {was}.
    {part} {was} so {adj} that {he} {reaction}.
    {his} {kin} asked about {part}, and {he} said: {adj}.
    {adj} is the word {he} used for {part}.
    {he} considered {part} {adj}.
    There is no denying that {part} {was} {adj}.
    Even {his} {kin} thought that {part} {was} {adj}.
    {part} looked {adj} to {him}, and {he} {reaction}.
    {he} agreed with {his} {kin} that {part} {was} {adj}.
    {part} {was} {adj}, and it was {a_noun}.
    To begin with, {part} {was} {adj}.
    {part}? {adj}, if you had asked {him}.
    For all to see, {part} {was} {adj}.
    It did not take long to see how {adj} {part} {was}.
    One thing stood out: {part} {was} {adj} and {adj}.
    {he} was sure that {part} {was} {adj}.
    On the whole, {part} {was} {adj}.
    Beyond doubt {part} {was} {adj}.
""")
NEGATED_SENTENCES = _lines("""
    {part} {was} not {opposite} [at all|in the least].
    {part} {was} [anything but|far from] {opposite}.
    {he} did not find {part} {opposite} at all.
    Nobody could call {part} {opposite}.
    There was nothing {opposite} about {part}.
    {he} never thought that {part} {was} {opposite}.
    {part} did not seem {opposite} to {him}.
    {he} would not call {part} {opposite}.
""")
VERB_SENTENCES = _lines("""
    {he} {verb} it.
    {he} {verb} {part}.
    From the start {he} {verb} {part}.
    [There was no doubt|It was plain] that {he} {verb} it.
    {he} told a {kin} that {he} {verb} {part}.
    [By the end|Before long] {he} {verb} it.
    Everyone could see that {he} {verb} {part}.
    In truth {he} {verb} it.
    More than anything, {he} {verb} {part}.
    {he} {verb} {part}, and {his} {kin} felt the same.
    Like [everybody else|all the others], {he} {verb} {part}.
    {he} made it clear that {he} {verb} it.
    Looking back, {he} {verb} {part}.
    {he} {verb} it, [especially|above all] {part}.
    To nobody's surprise, {he} {verb} {part}.
    {his} friends soon knew that {he} {verb} it.
    Most of all, {he} {verb} {part}.
    {he} {verb} {part} as well.
    It is no secret that {he} {verb} {part}.
    {he} {verb} it from the very beginning.
    {he} {verb} it, and {he} said so.
    Ask anyone: {he} {verb} {part}.
    {he} had to say that {he} {verb} {part}.
    As {his} {kin} noticed, {he} {verb} it.
    {he} {verb} everything about it, even {part}.
    There is one thing {he} never hid: {he} {verb} {part}.
    {he} {verb} {part}, for it was {a_noun}.
    Every time {he} spoke of it, {he} said that {he} {verb} {part}.
    {his} letters tell us that {he} {verb} it.
    Within minutes {he} {verb} {part}.
""")
NOUN_SENTENCES = _lines("""
    It was {a_noun}.
    The {noun} was {a_noun}.
    For {him} it was {a_noun}.
    {he} called it {a_noun}.
    The whole thing was {a_noun}.
    In [short|a word], it was {a_noun}.
    {he} told everyone that the {noun} was {a_noun}.
    It turned out to be {a_noun}.
    {his} {kin} heard that it was {a_noun}.
    It proved to be {a_noun}, as {he} put it.
    {a_noun}: that is what it was.
    {he} still thought of it as {a_noun}.
    If ever there was {a_noun}, it was this {noun}.
    [Nobody doubted|All agreed] that it was {a_noun}.
    From beginning to end the {noun} was {a_noun}.
    {he} wrote that it had been {a_noun}.
    {he} could only call it {a_noun}.
    It can only be called {a_noun}.
    {his} {kin} agreed that it was {a_noun}.
    To sum up, it was {a_noun}.
""")
OUTCOME_SENTENCES = _lines("""
    It {outcome}.
    The {noun} {outcome}.
    {he} said that it {outcome}.
    In the end it {outcome}.
    {he} [felt|believed] that the {noun} {outcome}.
    [After all|To be honest], it {outcome}.
    Everyone heard that the {noun} {outcome}.
    The {noun}, {he} said, {outcome}.
    There can be no doubt that it {outcome}.
    Once it was over, {he} knew that it {outcome}.
    [As it turned out|In fact], the {noun} {outcome}.
    {he} wrote to a {kin} that it {outcome}.
    {his} {kin} could see that it {outcome}.
    It must be said that the {noun} {outcome}.
    {he} found that the {noun} {outcome}.
    Without a doubt it {outcome}.
    {he} was sure that it {outcome}.
    In every way it {outcome}.
    By the end it was clear that it {outcome}.
    At any rate, the {noun} {outcome}.
""")
REACTION_SENTENCES = _lines("""
    {he} {reaction}.
    In the end {he} {reaction}.
    Afterwards {he} {reaction}.
    [So|And so] {he} {reaction}.
    When it was over, {he} {reaction}.
    [No wonder|Small wonder] that {he} {reaction}.
    That is why {he} {reaction}.
    Needless to say, {he} {reaction}.
    As a result {he} {reaction}.
    {his} {kin} remembered that {he} {reaction}.
    Later {he} {reaction}.
    [Of course|Naturally] {he} {reaction}.
    It ended like this: {he} {reaction}.
    [Within minutes|Soon enough] {he} {reaction}.
    For that reason {he} {reaction}.
    Finally {he} {reaction}.
    After that {he} {reaction}.
    {he} left, and {he} {reaction}.
    On the way out {he} {reaction}.
    The following week {he} {reaction}.
    {his} {kin} saw how {he} {reaction}.
    It was no surprise that {he} {reaction}.
""")

ALL = {
    name.lower(): value
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, dict) and set(value) == set(SPLITS)
}
