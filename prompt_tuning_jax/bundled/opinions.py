"""The sentences of the generated worlds that hold an opinion; `phrasings` says how one is written.

No two splits share a sentence.
"""

from prompt_tuning_jax.bundled.phrasings import lines

# Opinions.
ADJECTIVE_SENTENCES = lines("""
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
NEGATED_SENTENCES = lines("""
    {part} {was} not {opposite} [at all|in the least].
    {part} {was} [anything but|far from] {opposite}.
    {he} did not find {part} {opposite} at all.
    Nobody could call {part} {opposite}.
    There was nothing {opposite} about {part}.
    {he} never thought that {part} {was} {opposite}.
    {part} did not seem {opposite} to {him}.
    {he} would not call {part} {opposite}.
""")
VERB_SENTENCES = lines("""
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
NOUN_SENTENCES = lines("""
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
OUTCOME_SENTENCES = lines("""
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
REACTION_SENTENCES = lines("""
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
