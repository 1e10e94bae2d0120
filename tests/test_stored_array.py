"""An array that has not been read: its changes are numpy's, and read no more than they need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prompt_tuning_jax.checkpoints.stored_array import StoredArray, by_source, read_arrays

VALUES = np.arange(4 * 3 * 2 * 5, dtype=np.float32).reshape(4, 3, 2, 5)


@pytest.fixture
def reads():
    """The number of values in every read."""
    return []


@pytest.fixture
def stored(reads):
    def read_part(part):
        reads.append(VALUES[part].size)
        return VALUES[part]

    return StoredArray("kernel", "a file", VALUES.shape, VALUES.dtype, read_part)


CHANGES = {
    "none": (lambda a: a, VALUES),
    "layer": (lambda a: a.layer(2, axis=1), VALUES[:, 2]),
    "joined": (lambda a: a.joined(2), VALUES.reshape(4, 3, 10)),
    "joined first": (lambda a: a.joined(0), VALUES.reshape(12, 2, 5)),
    "transposed": (lambda a: a.transposed(), VALUES.T),
    "floats": (lambda a: a.as_floats(jnp.bfloat16), VALUES.astype(jnp.bfloat16)),
    "all": (
        lambda a: a.layer(1, axis=1).joined(1).as_floats(np.float64).transposed(),
        VALUES[:, 1].reshape(4, 10).T.astype(np.float64),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_numpys(stored, reads, name):
    change, expected = CHANGES[name]
    array = change(stored)
    assert reads == []
    assert (array.name, array.place, array.source) == ("kernel", "a file", stored)
    assert (array.shape, array.dtype, array.nbytes) == (
        expected.shape,
        expected.dtype,
        expected.nbytes,
    )
    np.testing.assert_array_equal(np.asarray(array), expected)
    assert array.read().flags.c_contiguous


@pytest.mark.parametrize("name", CHANGES)
def test_a_part_is_the_values_there(stored, name):
    change, expected = CHANGES[name]
    array = change(stored)
    for start, stop in ((0, 1), (1, 3), (2, None), (None, None)):
        part = (slice(start, stop), slice(1, 2)) + (slice(None),) * (len(array.shape) - 2)
        np.testing.assert_array_equal(array.read(part), expected[part])


def test_only_what_a_part_lies_in_is_read(stored, reads):
    everything = slice(None)
    stored.read((slice(0, 1), everything, everything, everything))
    stored.layer(1, axis=1).transposed().read((everything, everything, slice(0, 1)))
    joined = stored.joined(2)
    joined.read((slice(0, 2), slice(0, 1), slice(1, 3)))  # of the first head
    joined.read((slice(0, 2), slice(0, 1), slice(4, 6)))  # of both
    assert reads == [30, 30, 2 * 1 * 1 * 5, 2 * 1 * 2 * 5]


def test_rows(stored):
    np.testing.assert_array_equal(stored.rows(slice(1, 9)), VALUES[1:9])
    np.testing.assert_array_equal(stored.rows(np.array([3, 0])), VALUES[[3, 0]])


def test_layers_of_one_array_are_read_together(stored, reads):
    layers = {str(number): stored.layer(number, axis=1) for number in range(3)}
    other = StoredArray("other", "a file", (4,), VALUES.dtype, lambda part: np.ones(4)[part])
    assert by_source(layers | {"other": other}) == [["0", "1", "2"], ["other"]]
    for readers in (1, 2):
        reads.clear()
        found = read_arrays(layers | {"other": other}, {}, readers=readers)
        assert reads == [VALUES.size]
        np.testing.assert_array_equal(np.stack([found[n] for n in "012"], axis=1), VALUES)


def test_each_part_is_read_once_and_goes_to_its_devices(stored, reads):
    mesh = jax.make_mesh((2,), ("x",))
    for spec, expected in (("x", [60, 60]), (None, [120])):
        reads.clear()
        place = NamedSharding(mesh, PartitionSpec(spec))
        found = read_arrays({"a": stored}, {"a": place})["a"]
        assert found.sharding == place
        assert reads == expected
        np.testing.assert_array_equal(found, VALUES)


def test_what_replaces_an_array_is_in_its_place(stored):
    def halves(name, values):
        return {f"{name}/low": values / 2, f"{name}/high": values / 2}

    assert sorted(read_arrays({"a": stored}, {}, halves)) == ["a/high", "a/low"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.arange(3), "a file: scale is int64, but weights must be floating-point"),
        (np.array([1, np.nan]), "a file: scale holds NaN"),
        (np.array([1, 1e300]), "a file: scale holds NaN or infinite"),  # infinite in float32
    ],
)
def test_what_no_weight_is_is_refused_when_it_is_read(values, words):
    array = StoredArray("scale", "a file", values.shape, values.dtype, values.__getitem__)
    floats = array.as_floats(np.float32)
    with pytest.raises(ValueError, match=words), np.errstate(over="ignore"):
        floats.read()
