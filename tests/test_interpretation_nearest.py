"""Nearest pieces: what float64 finds by brute force, found block by block."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from prompt_tuning_jax.interpretation import nearest


def exact(vectors, table, k):
    """Ids and values by cosine and by distance, without blocks, in float64."""
    vectors, table = vectors.astype(np.float64), table.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(table, axis=1)[None, :]
    cosine = vectors @ table.T / np.where(norms == 0, 1, norms)
    distance = np.linalg.norm(vectors[:, None] - table[None], axis=-1)
    by_cosine, by_distance = np.argsort(-cosine, axis=1), np.argsort(distance, axis=1)
    return (
        (by_cosine[:, :k], np.take_along_axis(cosine, by_cosine, 1)[:, :k]),
        (by_distance[:, :k], np.take_along_axis(distance, by_distance, 1)[:, :k]),
    )


def check(vectors, table, k):
    found = nearest.find_neighbours(vectors, table, k)
    for ours, (ids, values) in zip(found[:2], exact(vectors, table, k), strict=True):
        np.testing.assert_array_equal(ours.ids, ids)
        np.testing.assert_allclose(ours.values, values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_it_finds_what_float64_finds(monkeypatch, k, scale):
    monkeypatch.setattr(nearest, "BLOCK", 17)  # blocks smaller than k, and a last one cut short
    monkeypatch.setattr(nearest, "CHUNK", 3)
    rng = np.random.default_rng(0)
    table = rng.normal(0.3, 10, (201, 24)).astype(np.float32)
    check(rng.normal(0, 10 * scale, (8, 24)).astype(np.float32), table, k)


def test_neighbours_that_float32_cannot_tell_apart_are_in_order():
    rng = np.random.default_rng(1)
    table = rng.normal(0, 1, (300, 16)).astype(np.float32)
    table[100:104] = table[7] * np.float32([1.0, 1.0 + 3e-7, 1.0 - 3e-7, 1.0])[:, None]
    check(300 * table[[7]] + 0.01, table, 6)


def test_bfloat16_tables_are_read_as_they_are():
    rng = np.random.default_rng(2)
    table = rng.normal(0, 1, (500, 16)).astype(ml_dtypes.bfloat16)
    check(rng.normal(0, 1, (4, 16)).astype(np.float32), table, 5)


def test_a_row_of_the_table_is_its_own_neighbour_at_cosine_1_and_distance_0():
    table = np.random.default_rng(3).normal(0, 100, (400, 32)).astype(np.float32)
    ids = [3, 399, 0, 17]
    found = nearest.find_neighbours(table[ids], table, 2)
    for way, value in ((found.cosine, 1.0), (found.euclidean, 0.0)):
        assert way.ids[:, 0].tolist() == ids
        np.testing.assert_allclose(way.values[:, 0], value, rtol=0, atol=1e-12)


def test_of_equal_pieces_the_lower_id_comes_first():
    table = np.eye(4, dtype=np.float32)[[0, 1, 1, 1, 2]]
    found = nearest.find_neighbours(table[[1]], table, 3)
    assert found.cosine.ids.tolist() == found.euclidean.ids.tolist() == [[1, 2, 3]]


def test_zero_rows_are_like_nothing():
    table = np.eye(4, dtype=np.float32)
    table[0] = 0
    found = nearest.find_neighbours(np.zeros((1, 4), np.float32), table, 4, [[1], [2]])
    assert found.cosine.values.tolist() == [[0, 0, 0, 0]]
    assert found.euclidean.ids[0, 0] == 0
    assert found.label_ranks.min() > 1


# --- labels


def test_a_label_of_one_piece_has_that_pieces_rank(monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 31)
    rng = np.random.default_rng(4)
    table = rng.normal(0, 1, (200, 12)).astype(np.float32)
    vectors = rng.normal(0, 1, (6, 12)).astype(np.float32)
    found = nearest.find_neighbours(vectors, table, 200, [[5], [150]])
    for column, token in enumerate((5, 150)):
        ranks = (found.cosine.ids == token).argmax(axis=1) + 1
        assert found.label_ranks[:, column].tolist() == ranks.tolist()


def test_a_label_of_several_pieces_is_their_mean():
    table = np.eye(6, dtype=np.float32)
    table[5] = [0.5, 0.5, 0, 0.1, 0, 0]  # close to the mean of pieces 0 and 1
    mean = nearest.label_vectors(table, [[0, 1]])
    np.testing.assert_array_equal(mean, [[0.5, 0.5, 0, 0, 0, 0]])
    ranks = nearest.find_neighbours(np.stack([mean[0], table[5], table[0]]), table, 1, [[0, 1]])
    assert ranks.label_ranks[:, 0].tolist() == [1, 2, 1]


# --- the whole table


def test_the_survey_has_the_tables_moments(monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 13)
    table = np.random.default_rng(5).normal(2, 3, (100, 7)).astype(np.float32)
    found = nearest.survey(table)
    np.testing.assert_allclose(found.norms, np.linalg.norm(table, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.mean, table.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.spread, table.std(axis=0), rtol=1e-5)


def test_alike_is_what_random_pairs_are_not():
    table = np.random.default_rng(6).normal(0, 1, (1000, 20)).astype(np.float32)
    limit = nearest.alike_from(table)
    assert limit == pytest.approx(4 * 20**-0.5, rel=0.01)  # random cosines' deviation is D ** -0.5
    assert nearest.alike_from(table + 100) == 0.95


def test_memory_is_bounded_by_blocks_not_by_the_vocabulary():
    """The working memory does not grow with the table, nor with how many vectors there are."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(0, 1, (600, 8)).astype(np.float32)

    def peak(rows):
        table = rng.normal(0, 1, (rows, 8)).astype(np.float32)
        tracemalloc.start()
        nearest.find_neighbours(vectors, table, 5, [[1], [2]])
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(5 * nearest.BLOCK) < 1.2 * peak(2 * nearest.BLOCK)
