"""Many prompts, one model: a row of a mixed batch answers as it does alone with its prompt."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow

from prompt_tuning_jax import TunedPrompt, load_bank, save_prompt
from prompt_tuning_jax.banks import PromptSet, TunedBank, vote
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES, place_prompt, place_prompts

TEXTS = [
    "the soup was good",
    "we had cake and it was very cold",
    "bread",
    "the tea was fresh and the fish was stale and the rice was sweet",
    "",
    "the pie was warm",
]
LABELS = ["yes", "no", "good"]
SIZES = {"batch_size": 4, "max_input_length": 16}
OPTIONS = {"max_length": 6, **SIZES}


def prompt(length, layout="prefix", seed=0, width=16, **facts):
    values = np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)
    return TunedPrompt(values, layout, facts)


# Every layout, and lengths from one row up.
PROMPTS = {
    f"{layout}{length}": prompt(length, layout, seed)
    for seed, (layout, length) in enumerate(itertools.product(LAYOUTS, (1, 3, 7)))
}


@pytest.fixture(scope="module")
def bank():
    return TunedBank(PROMPTS)


@pytest.fixture(scope="module")
def asked(bank):
    """Every prompt meets every text, in an order that mixes them."""
    pairs = list(itertools.product(bank.names, TEXTS))
    np.random.default_rng(0).shuffle(pairs)
    names, texts = zip(*pairs, strict=True)
    return list(names), list(texts)


def alone(call, names, texts):
    """What `call(text, prompt)` gives for each pair."""
    return [call(text, PROMPTS[name]) for name, text in zip(names, texts, strict=True)]


class TestPlacing:
    @pytest.mark.slow
    @pytest.mark.parametrize("room", [7, 9])
    def test_every_row_is_laid_out_as_alone_and_padded(self, bank, room):
        tokens = np.array([[5, 6, 1, 0, 0], [7, 8, 9, 2, 1], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
        for rows in itertools.combinations_with_replacement(range(len(bank)), len(tokens)):
            rows = np.array(rows)
            of_rows = bank.lengths[rows], bank.layouts[rows]
            joined, positions = place_prompts(tokens, *of_rows, room, eos_id=1, pad_id=0)
            assert joined.shape == positions.shape == (4, 5 + room)
            for b, row in enumerate(rows):
                one = place_prompt(tokens[b : b + 1], int(bank.lengths[row]), bank.layouts[row])
                width = one[0].shape[1]
                np.testing.assert_array_equal(joined[b, :width], one[0][0])
                np.testing.assert_array_equal(positions[b, :width], one[1][0])
                assert not joined[b, width:].any()
                assert (positions[b, width:] == -1).all()

    def test_values_are_the_prompts_own_rows(self, bank):
        assert bank.values.shape == (12, 7, 16)
        for values, one in zip(bank.values, bank.prompts.values(), strict=True):
            np.testing.assert_array_equal(values[: len(one.values)], one.values)
            assert not values[len(one.values) :].any()


class TestMixedBatches:
    def test_scores_equal_each_row_alone(self, model, bank, asked):
        names, texts = asked
        labels, scores = model.classify(texts, LABELS, bank.rows(names), **SIZES)
        expected = alone(lambda text, p: model.classify([text], LABELS, p, **SIZES), names, texts)
        np.testing.assert_allclose(scores, np.concatenate([e.scores for e in expected]), atol=2e-5)
        assert labels == [e.labels[0] for e in expected]

    @pytest.mark.parametrize("options", [{}, slow({"beams": 3, "length_penalty": 0.6})])
    def test_texts_equal_each_row_alone(self, model, bank, asked, options):
        names, texts = asked
        texts_out, scores = model.generate(texts, bank.rows(names), **OPTIONS, **options)
        expected = alone(
            lambda text, p: model.generate([text], p, **OPTIONS, **options), names, texts
        )
        assert texts_out == [e.texts[0] for e in expected]
        np.testing.assert_allclose(scores, [e.scores[0] for e in expected], atol=2e-5)

    def test_another_prompt_gives_another_answer(self, model, bank):
        names = list(bank.names)
        scores = model.classify(TEXTS[:1] * len(names), LABELS, bank.rows(names), **SIZES).scores
        for one, other in itertools.combinations(scores, 2):
            assert np.abs(one - other).max() > 1e-3

    @pytest.mark.slow
    def test_logits_and_loss_of_token_batches(self, model, bank):
        rng = np.random.default_rng(0)
        tokens = rng.integers(2, 20, (3, 6))
        tokens[1, 4:] = 0
        decoder = np.concatenate([np.zeros((3, 1), int), rng.integers(2, 20, (3, 3))], axis=1)
        names = ["suffix3", "prefix7", "after_bos1"]
        mixed = model.logits(tokens, decoder, bank.rows(names))
        batch = {
            "encoder_input_tokens": tokens,
            "decoder_input_tokens": decoder,
            "decoder_target_tokens": np.roll(decoder, -1, axis=1),
            "decoder_loss_weights": np.ones(decoder.shape, np.float32),
        }
        loss = 0.0
        for b, name in enumerate(names):
            one = model.logits(tokens[b : b + 1], decoder[b : b + 1], PROMPTS[name])
            np.testing.assert_allclose(mixed[b], one[0], atol=2e-5)
            loss += model.loss({key: x[b : b + 1] for key, x in batch.items()}, PROMPTS[name])
        np.testing.assert_allclose(model.loss(batch, bank.rows(names)), loss, rtol=1e-5)

    def test_each_text_may_have_its_own_labels(self, model, bank):
        names, own = ["prefix1", "suffix3"], [["yes", "no"], ["good", "bad", "no"]]
        labels, scores = model.classify(TEXTS[:2], own, bank.rows(names), **SIZES)
        assert scores.shape == (2, 4)  # yes, no, good, bad
        np.testing.assert_array_equal(np.isfinite(scores), [[1, 1, 0, 0], [0, 1, 1, 1]])
        for text, name, choices, label in zip(TEXTS, names, own, labels, strict=False):
            assert model.classify([text], choices, PROMPTS[name], **SIZES).labels == [label]

    @pytest.mark.slow
    def test_a_mesh_changes_nothing(self, model, bank, asked):
        from prompt_tuning_jax.devices.sharding import make_mesh

        names, texts = asked
        spread = model.replace(mesh=make_mesh(f"data:{len(jax.devices())}"))
        one = model.classify(texts, LABELS, bank.rows(names), **SIZES).scores
        other = spread.classify(texts, LABELS, bank.rows(names), **SIZES).scores
        np.testing.assert_allclose(one, other, atol=2e-5)
        together = bank.ensemble()
        one = model.generate(texts, together, **OPTIONS)
        other = spread.generate(texts, together, **OPTIONS)
        assert one.texts == other.texts


class TestPromptSet:
    def test_every_form_becomes_one(self, bank):
        values = PROMPTS["suffix3"].values
        for form in (values, jnp.asarray(values), values.tolist(), PROMPTS["suffix3"]):
            np.testing.assert_array_equal(PromptSet.of(form).values, values)
        rows = bank.rows(["prefix1"])
        assert PromptSet.of(rows) is rows
        assert PromptSet.of(None).values is None

    def test_some_inputs_keep_their_prompts(self, bank):
        rows = bank.rows(["prefix1", "prefix7", "suffix3"])
        assert rows.take([2, 0]).ids.tolist() == bank.rows(["suffix3", "prefix1"]).ids.tolist()
        assert bank.ensemble().take([2, 0]).ids is None

    def test_an_ensembles_copies_are_the_rows_of_a_batch(self, bank):
        """Whether inputs are repeated before they are tokenised or after."""
        together = bank.ensemble()
        tokens = np.array([[5, 6, 1, 0], [7, 1, 0, 0]])
        numbers, rows = together.expanded([0, 1])
        assert rows.expanded(numbers) == (numbers, rows)
        one = together.place({"encoder_input_tokens": tokens}, eos_id=1, pad_id=0)
        other = rows.place({"encoder_input_tokens": tokens[numbers]}, eos_id=1, pad_id=0)
        jax.tree.map(np.testing.assert_array_equal, one, other)

    @pytest.mark.parametrize(
        "visibility", [x if x == "isolated" else slow(x) for x in VISIBILITIES]
    )
    @pytest.mark.parametrize("layout", [x if x == "after_bos" else slow(x) for x in LAYOUTS])
    def test_a_bank_of_one_is_that_prompt(self, model, layout, visibility):
        one = TunedPrompt(PROMPTS["prefix3"].values, layout, visibility=visibility)
        expected = model.classify(TEXTS, LABELS, one, **SIZES).scores
        for form in (TunedBank({"a": one}).rows(["a"] * 6), TunedBank({"a": one}).ensemble()):
            scores = model.classify(TEXTS, LABELS, form, **SIZES).scores
            np.testing.assert_allclose(scores, expected, atol=2e-5)


class TestEnsemble:
    def test_votes_by_hand(self):
        scores = np.log(
            [
                [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]],  # two of three say 1, although 0 is likelier
                [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]],
            ]
        )
        assert vote(scores).tolist() == [1, 0]
        tied = np.log([[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.1, 0.9]]])
        assert vote(tied).tolist() == [0, 1]

    def test_a_label_without_votes_never_wins_a_tie(self):
        # the third label has the best mean, but nobody puts it first
        scores = np.array([[[-1.0, -9.0, -1.1], [-9.0, -1.0, -1.1]]])
        assert vote(scores).tolist() == [0]

    def test_labels_are_the_members_majority(self, model, bank):
        labels, scores = model.classify(TEXTS, LABELS, bank.ensemble(), **SIZES)
        members = np.stack(
            [model.classify(TEXTS, LABELS, p, **SIZES).scores for p in PROMPTS.values()], axis=1
        )
        np.testing.assert_allclose(scores, members.mean(axis=1), atol=2e-5)
        assert labels == [LABELS[i] for i in vote(members)]

    @pytest.mark.parametrize("beams", [1, 3])
    def test_an_ensemble_of_one_prompt_twice_is_that_prompt(self, model, beams):
        twice = TunedBank({"a": PROMPTS["suffix3"], "b": PROMPTS["suffix3"]}).ensemble()
        one = model.generate(TEXTS, PROMPTS["suffix3"], beams=beams, **OPTIONS)
        two = model.generate(TEXTS, twice, beams=beams, **OPTIONS)
        assert one.texts == two.texts
        np.testing.assert_allclose(one.scores, two.scores, atol=2e-5)

    @pytest.mark.slow
    def test_every_token_has_the_best_mean_log_probability(self, model, bank):
        """Against full forwards of every member over what was generated so far."""
        tokens = np.array([[5, 6, 7, 1], [8, 9, 1, 0]])
        found, scores = model.generate_tokens(tokens, bank.ensemble(), max_length=5)
        found = np.asarray(found)
        decoder = np.pad(found, ((0, 0), (1, 0)))[:, :-1]
        log_probs = np.mean(
            [jax.nn.log_softmax(model.logits(tokens, decoder, p)) for p in PROMPTS.values()],
            axis=0,
        )
        for row in range(2):
            length = np.count_nonzero(found[row])
            best = log_probs[row, :length].argmax(axis=-1)
            np.testing.assert_array_equal(found[row, :length], best)
            total = log_probs[row, np.arange(length), best].sum()
            np.testing.assert_allclose(scores[row], total, atol=1e-4)

    @pytest.mark.slow
    def test_beams_find_what_greedy_misses_or_the_same(self, model, bank):
        greedy = model.generate(TEXTS, bank.ensemble(), **OPTIONS).scores
        beams = model.generate(TEXTS, bank.ensemble(), beams=4, **OPTIONS).scores
        assert (beams >= greedy - 1e-4).all()

    @pytest.mark.slow
    def test_samples_depend_on_the_seed_alone(self, model, bank):
        options = OPTIONS | {"temperature": 1.0}
        one = model.generate(TEXTS, bank.ensemble(), seed=3, **options).texts
        again = model.generate(TEXTS, bank.ensemble(), seed=3, **(options | {"batch_size": 96}))
        assert one == again.texts
        assert one != model.generate(TEXTS, bank.ensemble(), seed=4, **options).texts


class TestLoading:
    def test_names(self, tmp_path):
        for place in ("a/best", "b/last", "c"):
            save_prompt(tmp_path / place, prompt(2))
        paths = [tmp_path / "a" / "best", tmp_path / "b" / "last", tmp_path / "c"]
        assert load_bank(paths).names == ("a", "b", "c")
        assert load_bank({"x": paths[0], "y": paths[0]}).names == ("x", "y")

    @pytest.mark.parametrize(
        ("prompts", "words"),
        [
            ({}, "at least one"),
            ({"a": prompt(2), "b": prompt(2, width=8)}, "'a': 16, 'b': 8"),
        ],
    )
    def test_prompts_that_make_no_bank(self, prompts, words):
        with pytest.raises(ValueError, match=words):
            TunedBank(prompts)

    def test_names_that_are_not_unique(self, tmp_path):
        for run in ("x", "y"):
            save_prompt(tmp_path / run / "p", prompt(2))
        with pytest.raises(ValueError, match="Two prompts are called 'p'"):
            load_bank([tmp_path / "x" / "p", tmp_path / "y" / "p"])

    def test_one_path_is_no_list(self):
        with pytest.raises(ValueError, match="several prompts"):
            load_bank("runs/a")

    def test_an_unknown_name(self, bank):
        with pytest.raises(ValueError, match=r"'prefix2'; there are prefix1, prefix3"):
            bank.rows(["prefix2"])

    def test_a_bank_of_another_width(self, model):
        wide = TunedBank({"a": prompt(2, width=8)})
        with pytest.raises(ValueError, match=r"\[P, 16\]"):
            model.classify(TEXTS, LABELS, wide.ensemble())

    def test_a_bank_that_does_not_say_who_uses_what(self, model, bank, wrong_arrays):
        with pytest.raises(ValueError, match=r"bank\.rows\(names\).*bank\.ensemble\(\)"):
            model.classify(TEXTS, LABELS, bank)

    def test_rows_of_another_number_of_inputs(self, model, bank):
        two = bank.rows(["prefix1", "suffix3"])
        with pytest.raises(ValueError, match="6 inputs, but rows of 2"):
            model.generate(TEXTS, two)
        tokens = np.array([[5, 1]] * 3)
        with pytest.raises(ValueError, match="3 inputs, but rows of 2"):
            model.logits(tokens, np.zeros((3, 1), int), two)

    def test_labels_for_each_text_are_counted(self, model, bank):
        with pytest.raises(ValueError, match="6 texts but 1"):
            model.classify(TEXTS, [["yes", "no"]], bank.ensemble())
