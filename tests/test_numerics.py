"""Codes are those of exact distances, whatever the rest of the table holds.

Wherever a codeword is nearer than another by more than 2^-18 of the other's distance
(2^-46 in float64), a search does not choose the other.
"""

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    TOLERANCE,
    assert_exact,
    exact_distances,
    first_argmin,
    tolerance,
)

from skvq import MultiScaleQuantizer, ProductQuantizer, ResidualQuantizer
from skvq.nearest import (
    improve_sums,
    native,
    nearest,
    nearest_best,
    nearest_kronecker,
    nearest_product,
    using,
)
from skvq.nearest.backends.host import NumpyBackend
from skvq.nearest.searches import improve
from skvq.nearest.tables import as_tables

N = 600


def normal(rng, *shape, dtype=np.float32):
    return rng.normal(size=shape).astype(dtype)


def with_far(n_far, n_codewords, size, dtype=np.float32):
    """Ordinary rows, and a table of which some are far away."""

    def make(rng):
        X, table = normal(rng, N, 8), normal(rng, n_codewords, 8)
        far = rng.choice(len(table), n_far, replace=False)
        signs = rng.choice([-1, 1], (n_far, 8)) if np.dtype(dtype).kind == "f" else 1
        if np.dtype(dtype).kind != "f":
            X, table = 40 * X + 200, 40 * table + 200
        table[far] = size * signs
        return X.astype(dtype), table.astype(dtype)

    return make


def two_blobs(rng):
    return tuple(
        (normal(rng, n, 8) + 1e4 * (np.arange(n)[:, None] % 2)).astype(np.float32)
        for n in (N, 64)
    )


def sentinels(value, dtype):
    """Rows of one value stand for missing ones, in the data and so in the table."""

    def make(rng):
        X, table = 20 * normal(rng, N, 8) + 100, 20 * normal(rng, 64, 8) + 100
        X[::7], table[3] = value, value
        # ... or entries of rows.
        X[1::7, 2], table[4, 2] = value, value
        return X.astype(dtype), table.astype(dtype)

    return make


def shared(offset, dtype=np.float32):
    """Rows near the mean, and what earlier stages have left of such rows."""

    def make(rng):
        scales = 10.0 ** rng.integers(-2, 1, (N + 64, 1))
        rows = rng.normal(size=(N + 64, 8)) * scales
        rows[::2] += offset
        return rows[:N].astype(dtype), rows[N:].astype(dtype)

    return make


def shape(d, n_codewords, n=N, offset=0.0, dtype=np.float32):
    def make(rng):
        rows = rng.normal(size=(n + n_codewords, d)) + offset
        return rows[:n].astype(dtype), rows[n:].astype(dtype)

    return make


def on_codewords(rng):
    """Rows that equal codewords, or nearly, in a table with near duplicates."""
    table = normal(rng, 40, 6) + 3
    table = np.concatenate([table, np.nextafter(table, np.float32(9)), table[:5]])
    X = np.repeat(table, 6, axis=0)
    X[::3] = np.nextafter(X[::3], np.float32(-9))
    X[1::3, 0] += np.float32(1e-5)
    return X, table


def denormal(exponent, dtype):
    def make(rng):
        rows = np.ldexp(np.rint(rng.normal(size=(N + 32, 5)) * 30), exponent)
        return rows[:N].astype(dtype), rows[N:].astype(dtype)

    return make


def pairs(d, dtype, n=4000):
    """Codewords in pairs, and rows between them, at all shares of their norms."""

    def make(rng):
        a, width = rng.normal(size=(8, d)), rng.uniform(0.05, 0.8, (8, 1))
        b = a + width * rng.normal(size=(8, d))
        k = rng.integers(0, 8, n)
        X = (a + b)[k] / 2 + 0.3 * width[k] * rng.normal(size=(n, d))
        return X.astype(dtype), np.concatenate([a, b]).astype(dtype)

    return make


def in_float64(make):
    return lambda rng: tuple(part.astype(np.float64) for part in make(rng))


GEOMETRIES = {
    **{
        f"{name}-{size:.0e}": with_far(*sizes, size)
        for name, sizes in (("one-far", (1, 16)), ("tenth-far", (6, 64)))
        for size in (1e3, 1e4, 1e5, 1e6)
    },
    "far-float16": with_far(1, 16, 65504, np.float16),
    "tenth-far-float16": with_far(6, 64, 65504, np.float16),
    "far-uint16": with_far(1, 16, 65535, np.uint16),
    "tenth-far-uint16": with_far(6, 64, 65535, np.uint16),
    "far-float64": with_far(6, 64, 1e14, np.float64),
    "two-blobs": two_blobs,
    "sentinels-float32": sentinels(-99999, np.float32),
    "sentinels-float16": sentinels(-65504, np.float16),
    "sentinels-uint16": sentinels(65535, np.uint16),
    **{f"shared-{offset:.0e}": shared(offset) for offset in (1e3, 1e4, 3e4)},
    "shared-float64": shared(1e13, np.float64),
    "narrow-1": shape(1, 4096, 400),
    "narrow-2": shape(2, 4096, 300, 30.0),
    "narrow-3": shape(3, 1024, 400),
    "narrow-float64": shape(1, 1024, dtype=np.float64),
    "pairs-2": pairs(2, np.float32),
    "pairs-8": pairs(8, np.float32),
    "pairs-3-float64": pairs(3, np.float64),
    "pairs-17-float64": pairs(17, np.float64, 1000),
    "wide": shape(512, 40, 100),
    "wide-offset": shape(512, 40, 100, 1e3),
    "one-row": shape(8, 300, 1, 100.0),
    "on-codewords": on_codewords,
    "on-codewords-float64": in_float64(on_codewords),
    "denormal-float32": denormal(-147, np.float32),
    "denormal-float64": denormal(-1070, np.float64),
}

every_geometry = pytest.mark.parametrize("make", GEOMETRIES.values(), ids=GEOMETRIES)


def near_borders(X, table, rng):
    """Put rows where two codewords are nearest, and nearly equally so.

    The further one is further by 1 to 16 tolerances, or by what the dtype of the rows
    leaves; so rounding that is a little too large for the bound shows.
    """
    if X.dtype.kind != "f":
        return X
    distances = exact_distances(X, table).astype(float)
    one, other = np.argsort(distances, axis=1, kind="stable")[:, :2].T
    a, b = table[one].astype(float), table[other].astype(float)
    apart = ((b - a) ** 2).sum(axis=1, keepdims=True)
    beside = X - a
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        along = (beside * (b - a)).sum(axis=1, keepdims=True) / apart
        beside = beside - along * (b - a)
        distance = apart / 4 + (beside**2).sum(axis=1, keepdims=True)
        share = tolerance(X, table) * 2.0 ** rng.uniform(0, 4, (len(X), 1))
        rows = a + beside + (0.5 - share * distance / apart / 2) * (b - a)
    good = np.isfinite(rows).all(axis=1)
    return np.where(good[:, None], rows, X).astype(X.dtype)


def whole(array, bits=1200):
    """Numbers as integers of Python, in units of 2^-bits."""

    def times(value):
        numerator, denominator = float(value).as_integer_ratio()
        return numerator * (2**bits // denominator)

    return np.vectorize(times, otypes=[object])(array)


def squares(gaps):
    return (gaps * gaps).sum(axis=-1)


def as_share(part, of):
    """Return quotients of integers that are too large for floats."""
    return np.array([float(Fraction(*pair)) for pair in zip(part, of, strict=True)])


def assert_none_nearer(codes, others, rows, table, share):
    """No other codeword is nearer by more than a share; all of integers."""
    chosen, other = (squares(rows - table[at]) for at in (codes, others))
    worst = as_share(chosen - other, np.maximum(chosen, 1)).max() / share
    assert worst <= 1, f"one is further by {worst:.3g} times what it may"


def first_of_equals(table):
    """The index of the first codeword that each one equals."""
    _, first, group = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first[group.reshape(-1)]


on_borders = pytest.mark.parametrize("borders", [False, True], ids=["", "borders"])


@every_geometry
@on_borders
def test_nearest(make, borders):
    rng = np.random.default_rng(0)
    X, table = make(rng)
    if borders:
        X = near_borders(X, table, rng)
    codes, found = nearest(X, table)
    exact = exact_distances(X, table)
    assert_exact(codes, exact, tolerance(X, table))
    if np.abs(table).max() >= 1e-100:  # of the smallest numbers there is no square
        least = exact[np.arange(len(X)), codes].astype(float)
        assert_allclose(found, least, rtol=tolerance(X, table) / 4)
    assert_array_equal(nearest(X, table, return_distances=False)[0], codes)
    # Of equal codewords the first.
    assert_array_equal(first_of_equals(table)[codes], codes)


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
@every_geometry
def test_nearest_by_other_products(make, metric):
    X, table = make(np.random.default_rng(1))
    X, table = (rows[rows.any(axis=1)] for rows in (X, table))
    codes, _ = nearest(X, table, metric)
    exact, slack = exact_distances(X, table, metric), 0.0
    if X.dtype == np.float64 and metric == "cosine":
        # Unit rows are rounded,
        slack = 2.0**-50 * (np.sqrt(exact.min(axis=1)) + 2.0**-50)
    elif X.dtype == np.float64:
        # and products of float64.
        lengths = [np.linalg.norm(rows, axis=1) for rows in (X, table)]
        slack = 2.0**-50 * lengths[0] * lengths[1].max()
    assert_exact(codes, exact, tolerance(X, table), slack)
    if metric == "inner_product":
        assert_array_equal(first_of_equals(table)[codes], codes)


@pytest.mark.parametrize("d", [2, 3, 8])
@pytest.mark.parametrize("offset", [10, 1000, 1e4])
def test_directions_that_are_near_each_other(d, offset):
    """Unit rows are rounded; that is no small share of what is between them."""
    for seed in range(5):
        rng = np.random.default_rng([d, seed])
        X, table = shape(d, 200, offset=offset)(rng)
        codes, _ = nearest(X, table, "cosine")
        exact = exact_distances(X, table, "cosine")
        # In float64 they are rounded as well.
        slack = 2.0**-50 * np.sqrt(exact.min(axis=1).astype(float))
        assert_exact(codes, exact, tolerance(X, table), slack)


@on_borders
def test_nearest_product(borders):
    """Each subspace is as exact as if it were alone, whatever is beside it."""
    rng = np.random.default_rng(2)
    for dtype in (np.float32, np.float64):
        parts = [
            make(rng)
            for name, make in GEOMETRIES.items()
            if len(make(np.random.default_rng(0))[0]) == N and "denormal" not in name
        ]
        parts = [each for each in parts if each[0].dtype == dtype]
        assert len(parts) > 2
        if borders:
            parts = [(near_borders(*each, rng), each[1]) for each in parts]
        codes = nearest_product(np.hstack([X for X, _ in parts]), [t for _, t in parts])
        for (X, table), column in zip(parts, codes.T, strict=True):
            assert_exact(column, exact_distances(X, table), tolerance(X, table))


@every_geometry
@on_borders
def test_nearest_product_of_one(make, borders):
    rng = np.random.default_rng(3)
    X, table = make(rng)
    X = near_borders(X, table, rng) if borders else X
    codes = nearest_product(np.hstack([X, X]), [table, table[::-1]])
    exact, share = exact_distances(X, table), tolerance(X, table)
    assert_exact(codes[:, 0], exact, share)
    assert_exact(codes[:, 1], exact[:, ::-1], share)
    assert_array_equal(first_of_equals(table)[codes[:, 0]], codes[:, 0])


class Reference:
    """A search in sums by exact distances, and the rows in which it is sure.

    A row is sure as long as no choice was between distances that differ by less than
    the tolerance, and what residuals lose by being rounded.
    """

    def __init__(self, X, tables):
        self.X = X.astype(np.longdouble)
        self.tables = [table.astype(np.longdouble) for table in tables]
        self.share = tolerance(X, *tables)
        self.sure = np.ones(len(X), bool)
        # What residuals of float64 are off by, as a share of what they are the rest of.
        self.unit = 2.0**-50

    def nearest(self, left, table, most):
        """Return codes of the nearest codewords to what is left; note doubts."""
        found = exact_distances(left, table)
        order = np.argsort(found, axis=1, kind="stable")[:, :2]
        best, second = np.take_along_axis(found, order, axis=1).T
        room = self.share * second + 4 * self.unit * most * np.sqrt(second)
        # Equal codewords are one: the first.
        equal = (table[order[:, 0]] == table[order[:, 1]]).all(axis=1)
        self.sure &= (second - best > room) | equal
        return found.argmin(axis=1)


def staged(offset, dtype=np.float32):
    """Data, and tables of stages: the first near the data, the others finer."""

    def make(rng):
        X = rng.normal(size=(300, 6)) + offset
        tables = [
            rng.normal(size=(48, 6)) * 0.4**j + (offset if j == 0 else 0)
            for j in range(3)
        ]
        return X.astype(dtype), [table.astype(dtype) for table in tables]

    return make


def one_shared(offset, dtype=np.float32):
    """One table for all stages, with rows near the mean and rows near zero."""

    def make(rng):
        X = rng.normal(size=(300, 6)) + offset
        table = rng.normal(size=(120, 6)) * 0.4 ** rng.integers(0, 3, (120, 1))
        table[::2] = rng.normal(size=(60, 6)) + offset
        return X.astype(dtype), [table.astype(dtype)] * 3

    return make


def staged_with_far(size, dtype=np.float32):
    def make(rng):
        X, tables = staged(0.0, dtype)(rng)
        for table in tables:
            table[::10] = size
        X[::9] = size
        return X, tables

    return make


STAGED = {
    "plain": staged(0.0),
    "float64": staged(0.0, np.float64),
    **{f"offset-{offset:.0e}": staged(offset) for offset in (1e3, 3e4)},
    **{f"shared-{offset:.0e}": one_shared(offset) for offset in (0, 1e3, 1e4, 3e4)},
    "shared-float64": one_shared(1e9, np.float64),
    **{f"far-{size:.0e}": staged_with_far(size) for size in (1e3, 1e6)},
    "sentinels-float32": staged_with_far(-99999),
    "far-float64": staged_with_far(1e14, np.float64),
}

every_sum = pytest.mark.parametrize("make", STAGED.values(), ids=STAGED)


@every_sum
def test_greedy_sums(make):
    X, tables = make(np.random.default_rng(0))
    codes, _ = nearest_best(X, tables, beam_size=1)
    by = Reference(X, tables)
    left, most = by.X, np.zeros(len(X))
    for table, column in zip(by.tables, codes[:, 0].T, strict=True):
        expected = by.nearest(left, table, most)
        assert_array_equal(column[by.sure], expected[by.sure])
        left = left - table[expected]
        most = np.maximum(most, np.sqrt((left**2).sum(axis=1)))
    assert by.sure.mean() > 0.9


def beam(by, beam_size, weights=None, biases=None):
    """Return codes as `nearest_best` does, of one sum for each row; note doubts."""
    n, m = len(by.X), len(by.tables)
    weights = np.eye(m)[-1] if weights is None else np.asarray(weights, float)
    biases = [np.zeros(len(table)) for table in by.tables] if biases is None else biases
    left, loss = by.X[:, None, :], np.zeros((n, 1), np.longdouble)
    codes, most = np.zeros((n, 1, 0), int), np.zeros(n)
    for j, table in enumerate(by.tables):
        share = weights[j:].sum()
        found = exact_distances(left.reshape(-1, left.shape[2]), table)
        found = found.reshape(n, -1, len(table))
        costs = found + (loss[:, :, None] + biases[j]) / share
        keep = 1 if j == m - 1 else beam_size
        flat = costs.reshape(n, -1)
        keep = min(keep, flat.shape[1])
        order = np.argsort(flat, axis=1, kind="stable")
        if keep < flat.shape[1]:
            one, other = (order[:, [at]] for at in (keep - 1, keep))
            gap = np.take_along_axis(flat, other, 1) - np.take_along_axis(flat, one, 1)
            # What rounding may be a share of: the distance, and what is added to it.
            size = np.abs(np.take_along_axis(flat, other, 1))[:, 0]
            room = by.share * size + 4 * by.unit * most * np.sqrt(size)
            by.sure &= gap[:, 0] > room
        parent, code = np.divmod(order[:, :keep], len(table))
        rows = np.arange(n)[:, None]
        left = left[rows, parent] - table[code]
        error = (left**2).sum(axis=2)
        loss = loss[rows, parent] + weights[j] * error + biases[j][code]
        codes = np.concatenate([codes[rows, parent], code[:, :, None]], axis=2)
        most = np.maximum(most, np.sqrt(error.max(axis=1)))
    return codes[:, 0]


@every_sum
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]], ids=["", "weights"])
@pytest.mark.parametrize("beam_size", [4, 12])
def test_sums_by_beam(make, beam_size, weights):
    X, tables = make(np.random.default_rng(1))
    # Of one table for all stages, sums would come in every order, and tie.
    tables = [table[j::3] for j, table in enumerate(tables)]
    codes, _ = nearest_best(X, tables, beam_size, stage_weights=weights)
    by = Reference(X, tables)
    expected = beam(by, beam_size, weights)
    assert_array_equal(codes[by.sure, 0], expected[by.sure])
    assert by.sure.mean() > 0.8


@every_sum
def test_improved_sums(make):
    """One sweep replaces each code by the nearest to what all the others leave."""
    rng = np.random.default_rng(2)
    X, tables = make(rng)
    given = np.stack([rng.integers(0, len(table), len(X)) for table in tables], axis=1)
    codes, found = improve_sums(X, tables, given, n_rounds=1, n_sweeps=1)
    rows, whole_tables, share = whole(X), [*map(whole, tables)], tolerance(X, *tables)
    parts = [table[column] for table, column in zip(whole_tables, given.T, strict=True)]
    for j, table in enumerate(tables):
        left = rows - sum(parts[:j] + parts[j + 1 :])
        nearest_to = exact_distances(as_floats(left), table).argmin(axis=1)
        assert_none_nearer(codes[:, j], nearest_to, left, whole_tables[j], share)
        parts[j] = whole_tables[j][codes[:, j]]
    error = squares(rows - sum(parts))
    assert_close(found, error, share / 4)


def as_floats(integers, bits=1200):
    return np.vectorize(lambda value: float(Fraction(value, 2**bits)))(integers)


def assert_close(found, exact, share):
    """Distances differ from exact ones, in integers, by no more than a share."""
    off = [abs(whole(a, 2400) - b) for a, b in zip(found, exact, strict=True)]
    assert as_share(off, np.maximum(exact, 1)).max() <= share


def factors(change, dtype=np.float32, offset=0.0):
    """Rows near Kronecker products of two tables, which something may change."""

    def make(rng):
        tables = [rng.normal(size=(9, 4)) + offset, rng.normal(size=(7, 3)) + offset]
        change(tables)
        tables = [table.astype(dtype) for table in tables]
        products = np.einsum("ai,bj->abij", *(t.astype(float) for t in tables))
        X = products.reshape(63, 12)[rng.integers(0, 63, 400)]
        return (X + 0.3 * rng.normal(size=X.shape)).astype(dtype), tables

    return make


def one_far(size):
    def change(tables):
        tables[0][2], tables[1][4] = size, -size

    return change


def near_each_other(tables):
    tables[0][3:] = tables[0][:6] * (1 + 1e-6)


def zero_beside_far(tables):
    tables[0][0], tables[0][2], tables[1][1] = 0, 1e5, 0


def multiples(tables):
    """Products that are the same, or nearly, of other factors."""
    powers = np.random.default_rng(1).uniform(-1, 1, (4, 1))
    tables[0][5:] = tables[0][1:5] * 2**powers
    tables[1][4:6] = tables[1][2:4] / 2 ** powers[:2]


KRONECKER = {
    "plain": factors(lambda tables: None),
    "float64": factors(lambda tables: None, np.float64),
    **{f"far-{size:.0e}": factors(one_far(size)) for size in (1e2, 1e4, 1e6)},
    "far-float64": factors(one_far(1e9), np.float64),
    "offset": factors(lambda tables: None, offset=100.0),
    "duplicates": factors(near_each_other),
    "offset-float64": factors(lambda tables: None, np.float64, 1e6),
    "zero-beside-far": factors(zero_beside_far, offset=3.0),
    "multiples": factors(multiples, offset=100.0),
    "multiples-float64": factors(multiples, np.float64, 1e6),
}


@pytest.mark.parametrize("make", KRONECKER.values(), ids=KRONECKER)
@on_borders
def test_kronecker(make, borders):
    rng = np.random.default_rng(0)
    X, tables = make(rng)
    products = np.einsum("ai,bj->abij", *(t.astype(np.longdouble) for t in tables))
    products = products.reshape(63, 12)
    if borders:
        X = near_borders(X, products.astype(float), rng).astype(X.dtype)
    codes, found = nearest_kronecker(X, tables, return_distances=True)
    nearest_to = exact_distances(X, products).argmin(axis=1)
    index, rows = codes[:, 0] * 7 + codes[:, 1], whole(X)
    a, b = (whole(table, 600) for table in tables)
    whole_products = (a[:, None, :, None] * b[None, :, None, :]).reshape(63, 12)
    share = tolerance(X, *tables)
    assert_none_nearer(index, nearest_to, rows, whole_products, share)
    assert_close(found, squares(rows - whole_products[index]), share / 4)
    assert_array_equal(nearest_kronecker(X, tables)[0], codes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_are_those_of_the_stored_values(dtype):
    """However near rows are to what they are compared with, beside their norms."""
    rng, share = np.random.default_rng(0), TOLERANCE[np.dtype(dtype)] / 4
    tables = [(rng.normal(size=(12, 3)) * 0.3**j).astype(dtype) for j in range(3)]
    codes = rng.integers(0, 12, (200, 3))
    gaps = rng.normal(size=(200, 3)) * 10.0 ** rng.uniform(-5, 0, (200, 1))
    X = sum(table[codes[:, j]] for j, table in enumerate(tables))
    X = (X + gaps).astype(dtype)
    rows, whole_tables = whole(X), [*map(whole, tables)]
    for beam_size in (1, 4):
        for used, weights in ((1, None), (3, None), (3, [1.0, 0.5, 2.0])):
            codes, found = nearest_best(
                X, tables[:used], beam_size, n_best=2, stage_weights=weights
            )
            left, error = rows[:, None, :], 0
            for j in range(used):
                left = left - whole_tables[j][codes[:, :, j]]
                # Twice the weights are integers.
                weight = int(2 * weights[j]) if weights else 2 * (j == used - 1)
                error = error + weight * squares(left)
            assert_close(2 * found.ravel(), error.ravel(), share)
    # Unit rows are rounded in float64, not in float32.
    if dtype == np.float32:
        codes, found = nearest(X, tables[0], "cosine")
        exact = exact_distances(X, tables[0], "cosine")[np.arange(200), codes]
        assert_allclose(found, exact.astype(float), rtol=4 * share)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ratio", [0.4, 0.02])
@pytest.mark.parametrize("far", [None, 1e5])
def test_steps_between_near_ties(dtype, ratio, far):
    """Of sums begun with a far codeword, and of tables that are ever finer."""
    rng, share = np.random.default_rng(0), TOLERANCE[np.dtype(dtype)]
    tables = [rng.normal(size=(16, 4)) * ratio**j for j in range(4)]
    given = rng.integers(1, 16, (150, 4))
    # Halfway between two codewords of the last table, but for few tolerances.
    one, other = tables[3][given[:, 3]], tables[3][rng.integers(0, 16, 150)]
    place = 0.5 - share * 2.0 ** rng.uniform(-3, 2, (150, 1))
    X = sum(table[given[:, j]] for j, table in enumerate(tables[:3]))
    X = (X + one + place * (other - one)).astype(dtype)
    if far is not None:
        tables[0][0] = far
        given[::2, 0] = 0
    tables = [table.astype(dtype) for table in tables]
    codes, _ = improve_sums(X, tables, given, n_rounds=1, n_sweeps=1)
    rows, tables = whole(X), [*map(whole, tables)]
    for j, table in enumerate(tables):
        others = sum(tables[i][given[:, i]] for i in range(4) if i != j)
        found = np.array([squares(left - table).argmin() for left in rows - others])
        assert_none_nearer(codes[:, j], found, rows - others, table, share)
        given[:, j] = codes[:, j]


def test_rows_that_come_in_parts_keep_their_codes():
    """What is searched again has the codes of its own row, wherever the part begins."""
    part = NumpyBackend()
    part.first_row = 10**6
    X, tables = one_shared(1e4)(np.random.default_rng(0))
    tables, given = as_tables(tables), np.arange(900).reshape(300, 3) % 120
    options = improve.Options(1, 1, 1, 0, np.intp)
    codes, _ = improve.improve_sums(part, X, given, tables, options)
    assert_array_equal(codes, improve_sums(X, tables, given, n_rounds=1, n_sweeps=1)[0])


# -- integers, and end to end ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int16])
@pytest.mark.parametrize("far", [0, 100])
def test_integers_tie_exactly(dtype, far):
    rng = np.random.default_rng(far)
    X = rng.integers(0, 4, (500, 5)).astype(dtype)
    table = rng.integers(0, 4, (30, 5)).astype(dtype)
    table[rng.integers(0, 30, far // 50)] = far
    expected = first_argmin(X, table)
    assert_array_equal(nearest(X, table)[0], expected)
    both = nearest_product(np.hstack([X, X]), [table, table])
    assert_array_equal(both, np.stack([expected] * 2, axis=1))
    assert_array_equal(nearest_best(X, [table], 1)[0][:, 0, 0], expected)
    codes, _ = improve_sums(X, [table], expected[:, None] * 0, n_rounds=1)
    assert_array_equal(codes[:, 0], expected)


def distortions(estimator, X):
    """Squared errors of a fit and search in float32, and of one in float64."""
    narrow = X.astype(np.float32)
    wide = narrow.astype(np.float64)
    return [
        (wide - estimator.fit(rows).quantize(rows).astype(np.float64)) ** 2
        for rows in (narrow, wide)
    ]


def test_product_of_data_with_missing_values():
    """Rows of -99999 stand for missing ones; they cost the others nothing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 8))
    X[::500] = -99999
    narrow, wide = distortions(ProductQuantizer(2, 16, random_state=0), X)
    ordinary = X[:, 0] > -99999
    assert narrow[ordinary].mean() <= 1.05 * wide[ordinary].mean()
    assert narrow[ordinary].mean() < 0.4
    assert narrow[~ordinary].mean() < 1


@pytest.mark.parametrize(
    ("estimator", "offset"),
    [
        (ResidualQuantizer(2, 64, share_codebook=True, random_state=0), 1e4),
        (ResidualQuantizer(2, 64, share_codebook=True, random_state=0), 3e4),
        (
            ResidualQuantizer(2, 64, share_codebook=True, beam_size=2, random_state=0),
            3e4,
        ),
        (MultiScaleQuantizer((2, 4), n_codewords=64, random_state=0), 1e4),
        (MultiScaleQuantizer((2, 4), n_codewords=64, random_state=0), 3e4),
    ],
)
def test_one_table_for_all_stages_far_from_zero(estimator, offset):
    X = np.random.default_rng(0).normal(size=(2000, 8)) + offset
    narrow, wide = distortions(estimator, X)
    assert narrow.mean() <= 1.05 * wide.mean()


# -- what it costs ---------------------------------------------------------------------


@pytest.fixture
def searched_again(monkeypatch):
    """Numbers of rows that were searched again with care."""
    from skvq.nearest.searches import flat

    counts, own = [], flat.searched_again

    def counted(be, X, rows, outputs, again):
        # And not only their distances.
        if outputs[0].dtype.kind in "iu":
            counts.append(len(rows))
        return own(be, X, rows, outputs, again)

    monkeypatch.setattr(flat, "searched_again", counted)
    return counts


@pytest.mark.parametrize("far", [None, 1e3, 1e6])
@pytest.mark.parametrize("d", [2, 8, 64])
def test_ordinary_rows_are_not_searched_again(searched_again, d, far):
    """Nor are they because of one codeword that is far away."""
    rng = np.random.default_rng(d)
    X, table = normal(rng, 10_000, d), normal(rng, 16, d)
    if far is not None:
        table[3] = far
    nearest(X, table)
    nearest_product(np.hstack([X, X]), [table, table])
    nearest_best(X, [table], 1)
    assert sum(searched_again) <= 0.002 * 4 * len(X)


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("d", [1, 3, 8, 20])
def test_rows_of_many_magnitudes(backend, d):
    """Squares of small differences leave the range of float32."""
    if backend == "native" and native.library() is None:
        pytest.skip("the compiled engine is not there")
    rng = np.random.default_rng(d)
    table = rng.normal(size=(64, d)) * 10.0 ** rng.uniform(-26, 2, (64, 1))
    table = table.astype(np.float32)
    X = (table[rng.integers(64, size=400)] * 1.001).astype(np.float32)
    start = np.zeros((len(X), 1), int)
    one = np.ones((1, 1), np.float32)
    with using(backend):
        found = {
            "nearest": nearest(X, table)[0],
            "a few rows": np.concatenate(
                [nearest(X[[i]], table)[0] for i in range(40)]
            ),
            "product": nearest_product(np.hstack([X, X]), [table] * 2)[:, 1],
            "beam of one": nearest_best(X, [table], 1)[0][:, 0, 0],
            "beam": nearest_best(X, [table], 3)[0][:, 0, 0],
            "kronecker": nearest_kronecker(X, [table, one])[0][:, 0],
            "improve": improve_sums(X, [table], start, n_rounds=1)[0][:, 0],
        }
    gaps = X[:, None].astype(np.float64) - table[None]
    D = (gaps * gaps).sum(axis=2)
    for name, codes in found.items():
        own, best = D[np.arange(len(codes)), codes], D.min(axis=1)[: len(codes)]
        assert (own - best <= TOLERANCE[np.dtype(np.float32)] * own).all(), name
