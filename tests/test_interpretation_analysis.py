"""What is found about prompts whose meaning was planted."""

import json

import numpy as np
import pytest

from prompt_tuning_jax.interpretation import clusters
from prompt_tuning_jax.interpretation.analysis import Snapshot, analyse
from prompt_tuning_jax.interpretation.findings import readable

FOODS = ("soup", "bread", "cake", "tea")


@pytest.fixture(scope="module")
def table(vocabulary):
    """Random embeddings, and rows past the vocabulary that are far too inviting."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (vocabulary.size + 5, 64)).astype(np.float32)
    rows[vocabulary.size :] = rows[:5]
    return rows


@pytest.fixture(scope="module")
def ids(vocabulary):
    """Words of one piece -> their ids."""
    words = (*FOODS, "yes", "no")
    pieces = {word: vocabulary.encode(word) for word in words}
    assert all(len(piece) == 1 for piece in pieces.values())
    return {word: piece[0] for word, piece in pieces.items()}


@pytest.fixture(scope="module")
def planted(table, ids):
    """A prompt of vocabulary rows."""
    return table[[ids[word] for word in (*FOODS, "yes")]]


def nearest_texts(found):
    return [position.cosine[0].text for position in found.positions]


def test_a_prompt_of_words_is_read(table, vocabulary, planted):
    found = analyse(planted, table, vocabulary, k=3)
    assert nearest_texts(found) == [*FOODS, "yes"]
    for position in found.positions:
        for pieces, value in ((position.cosine, 1.0), (position.euclidean, 0.0)):
            assert len(pieces) == 3
            assert pieces[0].value == pytest.approx(value, abs=1e-9)
            assert pieces[0].text == position.cosine[0].text
            assert vocabulary.id_to_piece(pieces[0].id) == pieces[0].piece
    norms = np.linalg.norm(planted, axis=1)
    np.testing.assert_allclose([position.norm for position in found.positions], norms, rtol=1e-6)
    np.testing.assert_allclose(np.diag(found.similarity), 1, rtol=1e-6)


def test_rows_past_the_vocabulary_are_no_pieces(table, vocabulary):
    found = analyse(table[vocabulary.size :], table, vocabulary)
    assert [position.cosine[0].id for position in found.positions] == [0, 1, 2, 3, 4]


def test_norms_are_told_against_the_vocabularys(table, vocabulary):
    words = table[: vocabulary.size]
    norms = np.linalg.norm(words, axis=1)
    middle = words[np.argsort(norms)[len(norms) // 2]]
    found = analyse(np.stack([0.01 * middle, middle, 100 * middle]), table, vocabulary)
    low, median, high = (position.norm_percentile for position in found.positions)
    assert (low, high) == (0, 100)
    assert median == pytest.approx(50, abs=4)
    assert found.norms.vocabulary_mean == pytest.approx(norms.mean(), rel=1e-5)
    assert found.norms.vocabulary_percentiles["50"] == pytest.approx(np.median(norms), rel=1e-5)
    assert sum(found.norms.counts) == vocabulary.size


# --- labels


def test_labels_are_counted_where_they_are(table, vocabulary, planted):
    prompt = np.concatenate([planted, planted[-1:] + 0.01])  # two positions that say yes
    found = analyse(prompt, table, vocabulary, k=1, labels=["yes", "no"]).labels
    assert found.words == ["yes", "no"]
    assert found.positions == {"yes": [4, 5], "no": []}
    assert found.best["yes"] == (1, 4)
    assert found.best["no"][0] > 1
    assert found.rate == pytest.approx(2 / 6)


def test_at_random_a_label_is_as_frequent_as_any_piece(table, vocabulary, planted):
    k = vocabulary.size // 4
    found = analyse(planted, table, vocabulary, k=k, labels=["yes"]).labels
    assert found.random_rate == pytest.approx(k / vocabulary.size, abs=0.12)


def test_without_labels_nothing_is_said_of_them(table, vocabulary, planted):
    found = analyse(planted, table, vocabulary, snapshots=[Snapshot(0, planted, {})])
    assert found.labels is None
    assert found.changes[0].label_rate is None
    assert found.drift[0].label is None
    assert found.positions[0].label_ranks == {}


# --- clusters


def test_planted_groups_are_found():
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 1, (3, 40))
    group_of = np.array([0, 1, 0, 2, 1, 0])
    vectors = centres[group_of] * rng.uniform(0.5, 20, (6, 1)) + rng.normal(0, 0.05, (6, 40))
    assert clusters.groups(vectors, 0.7) == [[0, 2, 5], [1, 4]]
    assert clusters.groups(vectors[:1], 0.7) == []


def test_words_that_come_together_are_grouped(vocabulary):
    """Four foods around one direction, each at two positions; their group comes first."""
    rng = np.random.default_rng(2)
    table = rng.normal(0, 1, (vocabulary.size, 64)).astype(np.float32)
    foods = [vocabulary.encode(word)[0] for word in FOODS]
    table[foods] = 3 * table[foods[0]] + rng.normal(0, 0.5, (4, 64))
    prompt = np.repeat(table[foods], 2, axis=0) + rng.normal(0, 0.1, (8, 64)).astype(np.float32)
    found = analyse(prompt, table, vocabulary, k=4)
    assert set(found.clusters.pieces[0].pieces) == set(FOODS)
    assert found.clusters.pieces[0].positions == list(range(8))
    assert found.clusters.positions[0].positions == list(range(8))
    assert found.clusters.tightness > 0.9 > 0.6 > found.clusters.random_tightness
    assert {piece for piece, _ in found.frequent[:4]} == set(FOODS)
    assert [count for _, count in found.frequent[:4]] == [8] * 4


def test_one_neighbour_makes_no_group(table, vocabulary, planted):
    found = analyse(planted[:1], table, vocabulary, k=1)
    assert found.positions[0].tightness is None
    assert found.clusters.tightness is None
    assert found.clusters.positions == []
    assert [point.kind for point in found.map] == ["prompt", "piece"]


def test_the_map_shows_everything_once(table, vocabulary, planted):
    found = analyse(planted, table, vocabulary, k=2, labels=["no"])
    kinds = [point.kind for point in found.map]
    pieces = {piece.id for position in found.positions for piece in position.cosine}
    assert kinds.count("prompt") == 5
    assert kinds.count("piece") == len(pieces)
    assert kinds.count("label") == 1
    assert 0 < found.map_share <= 1
    prompt, piece = ([p for p in found.map if p.kind == kind] for kind in ("prompt", "piece"))
    for position, word in zip(prompt, piece, strict=False):  # the nearest pieces come first
        assert (position.x, position.y) == pytest.approx((word.x, word.y), abs=1e-6)


# --- the run


@pytest.fixture(scope="module")
def run(table, vocabulary, ids, planted):
    """Position 0 turns from soup to bread; the others grow. Position 4 began as the label yes."""
    middle, last = 1.5 * planted, 2 * planted
    last[0] = 2 * table[ids["bread"]]
    snapshots = [
        Snapshot(0, planted, {}),
        Snapshot(10, middle, {"accuracy": 60.0}),
        Snapshot(30, last, {"accuracy": 90.0}),
    ]
    found = analyse(last, table, vocabulary, k=2, labels=["yes", "no"], snapshots=snapshots)
    return found, planted, last


def test_drift_is_told_for_each_position(run):
    found, began, last = run
    norms = np.linalg.norm(began, axis=1)
    soup, *others = found.drift
    assert (soup.piece, soup.kept) == ("soup", False)
    cosine = began[0] @ last[0] / (norms[0] * np.linalg.norm(last[0]))
    assert soup.cosine == pytest.approx(cosine, abs=1e-6)
    for start, norm in zip(others, norms[1:], strict=True):
        assert start.kept
        assert start.cosine == pytest.approx(1)
        assert start.distance == pytest.approx(norm, rel=1e-5)
        assert start.relative == pytest.approx(1)
    assert [start.label for start in found.drift] == [None, None, None, None, "yes"]
    assert [start.label_rank for start in found.drift] == [None, None, None, None, 1]


def test_changes_are_told_for_each_step(run):
    found, began, _ = run
    mean = np.linalg.norm(began, axis=1).mean()
    first, middle, last = found.changes
    assert [change.step for change in found.changes] == [0, 10, 30]
    assert (first.moved, first.from_start, first.kept_rate) == (None, 0, 1)
    assert middle.moved == middle.from_start == pytest.approx(mean / 2, rel=1e-5)
    assert middle.norm == pytest.approx(1.5 * mean, rel=1e-5)
    assert middle.kept_rate == 1
    assert last.kept_rate == pytest.approx(4 / 5)
    assert last.nearest == ["bread", "bread", "cake", "tea", "yes"]
    assert last.scores == {"accuracy": 90.0}
    assert all(change.label_rate >= 1 / 5 for change in found.changes)


def test_json_is_all_of_it_and_reads_back(run):
    found, *_ = run
    data = found.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["positions"][0]["cosine"][0]["text"] == "bread"
    np.testing.assert_allclose(data["similarity"], found.similarity, atol=1e-4)
    assert set(data) == set(vars(found))


def test_the_same_again_is_the_same(table, vocabulary, planted):
    first, again = (analyse(planted, table, vocabulary, labels=["no"]).to_json() for _ in range(2))
    assert first == again


# --- names and mistakes


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        ("▁film", "film"),
        ("s", "…s"),
        ("▁", "␣"),
        ("</s>", "</s>"),
        ("▁<extra_id_0>", "<extra_id_0>"),
    ],
)
def test_pieces_are_written_for_people(piece, text):
    assert readable(piece) == text


@pytest.mark.parametrize("k", [0, 10_000])
def test_a_number_of_neighbours_that_cannot_be_is_refused(table, vocabulary, planted, k):
    with pytest.raises(ValueError, match=f"1 to {vocabulary.size}.* not {k}"):
        analyse(planted, table, vocabulary, k=k)


def test_a_label_without_tokens_is_refused(table, vocabulary, planted):
    with pytest.raises(ValueError, match="Label '' has no tokens"):
        analyse(planted, table, vocabulary, labels=["yes", ""])
