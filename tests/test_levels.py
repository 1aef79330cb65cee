"""Levels of least squared error for samples: against all cuts, and scikit-learn's."""

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.preprocessing import KBinsDiscretizer

from skvq import BinaryQuantizer, UniformQuantizer
from skvq.learning import levels as module
from skvq.learning.levels import best_levels
from skvq.learning.scalar import distinct


def error(values, weights, levels):
    return float(weights @ np.square(values[:, None] - levels).min(axis=1))


def best_of_all_cuts(values, weights, n_cells):
    """Least squared error of all ways to cut sorted values."""
    best = np.inf
    for cut in combinations(range(1, len(values)), n_cells - 1):
        found = 0.0
        for a, b in zip((0, *cut), (*cut, len(values)), strict=True):
            mean = np.average(values[a:b], weights=weights[a:b])
            found += weights[a:b] @ np.square(values[a:b] - mean)
        best = min(best, found)
    return best


def test_four_values_and_three_levels():
    quantizer = UniformQuantizer(3, levels="lloyd-max").fit([[2.0], [4], [5], [7]])
    assert_array_equal(quantizer.codebooks_[0][:, 0], [2, 4.5, 7])


def test_levels_are_the_best_of_all():
    """Many features at once, with different numbers of values and of levels."""
    rng = np.random.default_rng(0)
    columns, sizes = [], []
    for _ in range(200):
        values = np.unique(np.rint(rng.normal(size=rng.integers(3, 12)) ** 3 * 8))
        columns.append((values, rng.integers(1, 5, len(values)).astype(float)))
        sizes.append(int(rng.integers(1, len(values) + 2)))
    for (values, weights), size, found in zip(
        columns, sizes, best_levels(columns, sizes), strict=True
    ):
        if len(values) <= size:
            assert_array_equal(found, values)
            continue
        assert len(found) == size
        expected = best_of_all_cuts(values, weights, size)
        assert error(values, weights, found) == pytest.approx(expected, abs=1e-9)


def test_more_candidates_than_a_layer_compares_at_once(monkeypatch):
    """The two ways through a layer find the same."""
    rng = np.random.default_rng(1)
    columns = [distinct(rng.normal(size=300) ** 3, None) for _ in range(3)]
    halved = best_levels(columns, [5, 17, 40])
    monkeypatch.setattr(module, "_FEW_CANDIDATES", 1000)
    for one, two in zip(halved, best_levels(columns, [5, 17, 40]), strict=True):
        assert_array_equal(one, two)


def test_best_at_a_thousand_values():
    """Lloyd's iterations lead to nothing better, from any start."""
    values, weights = distinct(stats.t(2).rvs(1000, random_state=0), None)
    (levels,) = best_levels([(values, weights)], [12])
    best = error(values, weights, levels)
    rng = np.random.default_rng(0)
    for _ in range(10):
        start = np.sort(rng.choice(values, 12, replace=False))
        for _ in range(30):
            cell = np.abs(values[:, None] - start).argmin(axis=1)
            used = np.unique(cell)
            start = np.array([values[cell == code].mean() for code in used])
        assert error(values, weights, start) >= best * (1 - 1e-12)


def test_of_equally_good_levels_the_last_cell_begins_lowest():
    ones = np.ones(5)
    assert_array_equal(best_levels([(np.arange(3.0), ones[:3])], [2])[0], [0, 1.5])
    # {0} {1} {2, 3}, {0} {1, 2} {3} and {0, 1} {2} {3} have the same error.
    assert_array_equal(best_levels([(np.arange(4.0), ones[:4])], [3])[0], [0, 1, 2.5])
    assert_array_equal(best_levels([(np.arange(5.0), ones)], [3])[0], [0, 1.5, 3.5])


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6, -1e9])
def test_offsets_cost_no_digits(offset):
    """Two clusters, the inner distances small beside those from zero and each other."""
    inner = np.array([0.0, 1.0, 4.0, 6.0, 7.0, 20.0, 22.0])
    step = 2.0**-20 * abs(offset) if offset else 2.0**-90
    values = np.concatenate([offset + step * inner, offset + 2e6 * step + step * inner])
    found = best_levels([(values, np.ones(14))], [6])[0]
    exact = best_levels([(inner, np.ones(7))], [3])[0]
    assert_array_equal(exact, [0.5, 17 / 3, 21.0])
    assert_allclose(found[:3] - offset, step * exact, rtol=1e-9)
    if offset:  # 1e-9 of the distance from zero is left
        assert_allclose(found[3:] - values[7], step * exact, rtol=1e-6)


def test_tight_clusters_cost_no_digits():
    values = np.array([0.0, 1e-20, 3e-20, 1.0, 1 + 2.0**-50, 1 + 2.0**-48])
    (found,) = best_levels([(values, np.ones(6))], [5])
    assert_array_equal(found, [5e-21, 3e-20, 1, 1 + 2.0**-50, 1 + 2.0**-48])


def test_scales_cost_no_digits():
    for exponent in (-1060, -600, 600, 1000):
        values = np.ldexp(np.arange(9.0), exponent)
        (found,) = best_levels([(values, np.ones(9))], [3])
        assert_array_equal(found, np.ldexp([1.0, 4.0, 7.0], exponent))


def test_scales_of_weights_cost_no_digits():
    values, weights = np.arange(9.0) ** 2, np.arange(1.0, 10.0)
    (expected,) = best_levels([(values, weights)], [3])
    for exponent in (-900, 900):
        (found,) = best_levels([(values, np.ldexp(weights, exponent))], [3])
        assert_array_equal(found, expected)


SHAPES = {
    "gaussian": stats.norm(3, 2),
    "uniform": stats.uniform(),
    "laplacian": stats.laplace(),
    "lognormal": stats.lognorm(1.5),
    "heavy": stats.t(2),
}


def table_of(n_samples, seed=0):
    """Columns of all shapes."""
    columns = [
        shape.rvs(n_samples, random_state=seed + j)
        for j, shape in enumerate(SHAPES.values())
    ]
    columns.append(np.append(columns[0][:-1], 1e6))  # an outlier
    columns.append(np.rint(columns[0] * 30))
    return np.column_stack(columns)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n_samples", "n_levels", "weighted"),
    [
        (60, 7, True),
        (800, 4, False),
        (1500, 2, True),
        (1500, 16, True),
        (1300, 50, False),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:Bins whose width:UserWarning")
@pytest.mark.long
def test_never_worse_than_scikit_learn(n_samples, n_levels, weighted, dtype):
    X = table_of(n_samples).astype(dtype)
    weights = None
    if weighted:
        weights = np.random.default_rng(2).gamma(1.0, size=n_samples)
    ours = UniformQuantizer(n_levels, levels="lloyd-max").fit(X, sample_weight=weights)
    bins = KBinsDiscretizer(
        n_levels,
        strategy="kmeans",
        encode="ordinal",
        subsample=None,
        dtype=np.float64,
    ).fit(X, sample_weight=weights)
    weights = np.ones(n_samples) if weights is None else weights
    X = X.astype(np.float64)
    for j, edges in enumerate(bins.bin_edges_):
        cell = np.searchsorted(edges[1:-1], X[:, j], side="right")
        mass = np.bincount(cell, weights)
        means = np.bincount(cell, weights * X[:, j]) / np.maximum(mass, 1e-300)
        theirs = weights @ np.square(X[:, j] - means[cell])
        table = ours.codebooks_[j][:, 0].astype(np.float64)
        assert error(X[:, j], weights, table) <= theirs * (1 + 1e-6)


def test_beyond_a_thousand_values_near_the_best(monkeypatch):
    """Long tails too, of which quantiles would leave too few borders to choose from."""
    columns = [distinct(column, None) for column in table_of(1500).T]
    near = best_levels(columns, [12] * 7)
    monkeypatch.setattr(module, "_MOST_EXACT", 2000)
    exact = best_levels(columns, [12] * 7)
    for column, one, two in zip(columns, near, exact, strict=True):
        best = error(*column, two)
        assert best * (1 - 1e-12) <= error(*column, one) <= 1.02 * best


def test_each_level_is_the_mean_of_its_cell():
    values, weights = distinct(np.random.default_rng(0).standard_cauchy(3000), None)
    for size in (32, 700):
        (levels,) = best_levels([(values, weights)], [size])
        assert len(levels) == size
        nearest = np.abs(values[:, None] - levels).argmin(axis=1)
        for code in range(size):
            mean = values[nearest == code].mean()
            assert levels[code] == pytest.approx(mean, rel=1e-6, abs=1e-9)


def test_features_do_not_depend_on_each_other(monkeypatch):
    X = table_of(1300)
    columns = [distinct(column, None) for column in X.T]
    columns += [distinct(column[:200], None) for column in X.T]
    sizes = [9, 5, 9, 5, 9, 5, 9] * 2
    together = best_levels(iter(columns), sizes)
    monkeypatch.setattr(module, "_ELEMENTS", 1500)  # a few at a time
    for one, two in zip(together, best_levels(columns, sizes), strict=True):
        assert_array_equal(one, two)
    for column, size, found in zip(columns, sizes, together, strict=True):
        assert_array_equal(best_levels([column], [size])[0], found)


def test_lengths_are_matched_exactly_too():
    X = np.array([[2.0, 0], [0, 4], [3, 4], [0, 7]])
    quantizer = BinaryQuantizer(spherical=True, radius="learned", n_radius_levels=3)
    assert_array_equal(quantizer.fit(X).codebooks_[-1][:, 0], [2, 4.5, 7])


@pytest.mark.parametrize(
    "weights",
    [
        np.r_[np.ones(10), np.full(2990, 1e-17)],
        10.0 ** np.random.default_rng(3).uniform(-40, 0, 3000),
    ],
    ids=["a few heavy ones", "of all sizes"],
)
@pytest.mark.parametrize("size", [8, 1500])
def test_weights_of_very_different_size(weights, size):
    X = np.sort(np.random.default_rng(2).normal(size=(3000, 1)), axis=0)
    grid = UniformQuantizer(size, levels="lloyd-max").fit(X, sample_weight=weights)
    equal = UniformQuantizer(size).fit(X, sample_weight=weights)
    (levels,) = grid.codebooks_
    assert np.isfinite(levels).all()
    assert grid.score(X, sample_weight=weights) >= equal.score(X, sample_weight=weights)
