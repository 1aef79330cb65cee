"""Scalar cells, lengths and angles in other libraries: the bits of NumPy's."""

import numpy as np
import pytest
from arrays.libraries import assert_same, library_name, make, neighbours, put, to_signed
from numpy.testing import assert_allclose

from skvq import FiniteScalarQuantizer, sphere
from skvq._arrays import to_host
from skvq.coding.levels import Grid, Levels
from skvq.coding.radius import Float32Radius
from skvq.nearest import backend_of, row_norms

RANGES = [(0, 1), (-1, 1), (0.1, 0.3), (1e6, 1e6 + 1), (5, 5), (-1e300, 1e300)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 7, 256, 1000, 2**20 + 1, 2**32])
def test_equal_cells_at_their_edges(place, tiles, dtype, size):
    for ends in [*RANGES, (0, 1e-310), (-1.7e308, 1.7e308)]:
        low, high = (np.full(3, float(end)) for end in ends)
        grid = Grid(low, high, (size,) * 3)
        rng = np.random.default_rng(size)
        shares = rng.integers(0, size + 1, 100) / size
        edges = low[0] * (1 - shares) + high[0] * shares
        with np.errstate(over="ignore", invalid="ignore"):
            exact = low[0] + np.rint(shares * size) * (high[0] - low[0]) / size
            x = np.concatenate([neighbours(edges), neighbours(exact), [0.0, 1e30]])
            x = x.astype(dtype)
        x = x[np.isfinite(x)]
        X = np.resize(x, (-(-len(x) // 3), 3))
        codes = grid.encode(X)
        assert_same(grid.encode(put(place, X)), to_signed(codes, place), place)
        with np.errstate(over="ignore"):
            levels = grid.decode(codes.astype(np.intp), dtype)
            found = grid.decode(put(place, codes.astype(np.int64)), dtype)
        assert_same(found, levels, place)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_levels", [1, 2, 9, 256, 1000])
def test_levels_at_their_edges(place, tiles, dtype, n_levels):
    rng = np.random.default_rng(n_levels)
    tables = [np.unique(rng.normal(size=n)) for n in (n_levels, 3, n_levels)]
    levels = Levels(tables)
    edges = [neighbours(edge) if len(edge) else np.zeros(1) for edge in levels.edges]
    X = np.stack([np.resize(edge, 600) for edge in edges], axis=1).astype(dtype)
    codes = levels.encode(X)
    assert_same(levels.encode(put(place, X)), codes, place)
    found = levels.decode(put(place, codes.astype(np.int64)), dtype)
    assert_same(found, levels.decode(codes.astype(np.intp), dtype), place)


def test_lengths_to_the_last_bit(place, tiles):
    rng = np.random.default_rng(0)
    powers = np.ldexp(1.0, np.arange(-1074, 1024))
    ends = np.finfo(np.float32)
    numbers = np.ldexp(rng.random(500), rng.integers(-1070, 1000, 500))
    norms = neighbours(np.concatenate([powers, numbers, [0.0, ends.max, ends.tiny]]))
    norms = np.abs(norms[np.isfinite(norms)])
    given = put(place, norms[:, None])
    scaled, exponents = backend_of(given).scaled_rows(given)
    assert_same(exponents, np.frexp(norms)[1], place)
    assert_same(scaled[:, 0], np.frexp(norms)[0], place)
    assert_same(row_norms(given), norms, place)
    radius = Float32Radius()
    with np.errstate(over="ignore"):
        codes = radius.encode(norms)
    assert_same(radius.encode(row_norms(given)), codes, place)
    found = radius.decode(put(place, codes.astype(np.int64)))
    assert_same(found, radius.decode(codes), place)


@pytest.mark.parametrize("squash", ["tanh", "none", "cdf"])
def test_values_of_finite_scalars(place, tiles, squash):
    X = make((200, 4, 1))[0]
    X[:50] = np.rint(X[:50])
    levels = (8, 5, 2, 7)
    reference = FiniteScalarQuantizer(levels, squash=squash).fit(X)
    quantizer = FiniteScalarQuantizer(levels, squash=squash).fit(put(place, X))
    found = quantizer.bounded_values(put(place, X))
    assert library_name(found) == place.__name__
    assert_allclose(to_host(found), reference.bounded_values(X), rtol=1e-6, atol=1e-6)
    values = quantizer.code_values(quantizer.transform(put(place, X)))
    assert_same(values, reference.code_values(reference.transform(X)), place)


@pytest.mark.parametrize("coordinates", ["standard", "tree"])
@pytest.mark.parametrize("n_features", [1, 2, 3, 7])
def test_coordinates(place, tiles, coordinates, n_features):
    X = make((60, n_features, 1), dtype="float64")[0]
    X[0], X[1] = 0.0, -0.0
    X[2:4] *= 2.0**1000
    X[4:6] *= 2.0**-1000
    lengths, angles = sphere.to_spherical(put(place, X), coordinates)
    expected = sphere.to_spherical(X, coordinates)
    assert library_name(lengths) == library_name(angles) == place.__name__
    assert_allclose(to_host(lengths), expected[0], rtol=1e-14)
    assert_allclose(to_host(angles), expected[1], rtol=1e-14, atol=1e-15)
    back = sphere.from_spherical(lengths, angles, coordinates)
    largest = np.where(X == 0, 1, np.abs(X)).max(axis=1, keepdims=True)
    assert_allclose(to_host(back) / largest, X / largest, atol=1e-14)
    with pytest.raises(ValueError, match="NaN"):
        sphere.to_spherical(put(place, X * np.nan), coordinates)
