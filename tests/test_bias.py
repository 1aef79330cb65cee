"""Constants of codewords, which are added to distances where the nearest is sought."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import distances, exact_distances, tolerance
from test_numerics import GEOMETRIES, STAGED, Reference, beam, near_borders, staged

from skvq.nearest import Table, Tables, nearest, nearest_best, nearest_product

PRODUCTS = ["sqeuclidean", "cosine", "inner_product"]
METRICS = [*PRODUCTS, "manhattan", "euclidean", "chebyshev"]


def make(seed=0, dtype=np.float32, n_codewords=40):
    """Rows, a table with equal codewords, and constants of the size of distances."""
    rng = np.random.default_rng(seed)
    X = rng.normal(1, 1, (500, 5)).astype(dtype)
    table = rng.normal(1, 1, (n_codewords, 5)).astype(dtype)
    table[n_codewords // 2 :: 3] = table[0 : (n_codewords + 5) // 6]
    return X, table, rng.normal(0, 1, n_codewords)


def biased(X, table, bias, metric="sqeuclidean"):
    """All distances, and what is least where a bias is added."""
    found = distances(X, table, metric)
    return found, (found + bias).argmin(axis=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("prepared", [False, True], ids=["array", "Table"])
def test_nearest(metric, dtype, prepared):
    """In the units of the metric, and not half of it; distances are without."""
    X, table, bias = make(dtype=dtype)
    given = Table(table) if prepared else table
    codes, found = nearest(X, given, metric, bias=bias)
    expected, best = biased(X, table, bias, metric)
    assert_array_equal(codes, best)
    assert_allclose(found, expected[np.arange(len(X)), best], rtol=1e-4, atol=1e-5)
    assert (best != expected.argmin(axis=1)).mean() > 0.1
    only, nothing = nearest(X, given, metric, bias=bias, return_distances=False)
    assert nothing is None
    assert_array_equal(only, codes)
    # The bias is an argument of the call, and stays with no table.
    assert_array_equal(nearest(X, given, metric)[0], nearest(X, table, metric)[0])


@pytest.mark.parametrize("metric", METRICS)
def test_equal_codewords_compete_by_bias_then_by_index(metric):
    X, table, _ = make()
    three = np.concatenate([table, table, table])
    bias = np.concatenate([np.full(40, 2.0), np.full(40, 1.0), np.full(40, 1.0)])
    codes, _ = nearest(X, three, metric, bias=bias)
    assert_array_equal(codes, 40 + nearest(X, table, metric)[0])
    assert_array_equal(nearest(X, three, metric, bias=bias * 0)[0], codes - 40)
    both = nearest_product(np.hstack([X, X]), [three] * 2, bias=[bias, bias])
    assert_array_equal(both[:, 0], 40 + nearest(X, table)[0])
    summed, _ = nearest_best(X, [three], 1, bias=[bias])
    assert_array_equal(summed[:, 0, 0], both[:, 0])


@pytest.mark.parametrize("metric", METRICS)
def test_infinity_is_never_chosen(metric):
    X, table, bias = make()
    never = np.random.default_rng(0).random(40) < 0.5
    bias[never] = np.inf
    codes, _ = nearest(X, table, metric, bias=bias)
    assert not never[codes].any()
    assert_array_equal(codes, biased(X, table, bias, metric)[1])
    one = np.full(40, np.inf)
    one[7] = 3
    assert (nearest(X, table, metric, bias=one)[0] == 7).all()
    assert (nearest_product(X, [table], bias=[one]) == 7).all()
    assert (nearest_best(X, [table], 3, bias=[one])[0] == 7).all()


def test_an_excluded_codeword_leaves_its_equals():
    X, table, _ = make()
    first = np.zeros(40)
    first[:20] = np.inf
    codes, _ = nearest(X, table, bias=first)
    assert codes.min() >= 20
    assert_array_equal(codes, biased(X, table, first)[1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "contains NaN or -inf"),
        (-np.inf, "contains NaN or -inf"),
        (np.inf, r"is \+inf for all codewords"),
    ],
)
@pytest.mark.parametrize("metric", ["sqeuclidean", "manhattan"])
def test_biases_that_are_refused(value, message, metric):
    X, table, good = make()
    bad = np.where(np.arange(40) == 3, value, 0) if value != np.inf else [np.inf] * 40
    with pytest.raises(ValueError, match=f"^bias {message}"):
        nearest(X, table, metric, bias=bad)
    pair = np.hstack([X, X])
    with pytest.raises(ValueError, match=rf"^bias\[1\] {message}"):
        nearest_product(pair, [table] * 2, bias=[good, bad])
    with pytest.raises(ValueError, match=rf"^bias\[1\] {message}"):
        nearest_best(X, [table] * 2, 2, bias=[good, bad])


def test_biases_of_another_shape_are_refused():
    X, table, good = make()
    for bad in (good[:-1], good[:, None], 1.0):
        with pytest.raises(ValueError, match=r"bias has shape .*; expected \(40,\)"):
            nearest(X, table, bias=bad)
    with pytest.raises(ValueError, match="bias has 1 entries for 2 codebooks"):
        nearest_best(X, [table] * 2, 2, bias=[good])
    with pytest.raises(ValueError, match=r"bias\[1\] has shape \(39,\)"):
        nearest_product(np.hstack([X, X]), [table] * 2, bias=[good, good[:-1]])


@pytest.mark.parametrize("metric", PRODUCTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_common_part_changes_nothing(metric, dtype):
    """Only differences of biases count, to the last digit that they have."""
    X, table, bias = make(dtype=dtype)
    bias = np.round(bias * 2**20) / 2**20
    for common in (1e6, -1e6, 2.0**31):
        codes, found = nearest(X, table, metric, bias=bias + common)
        expected, distance = nearest(X, table, metric, bias=bias)
        assert_array_equal(codes, expected)
        assert_allclose(found, distance)
        pair, parts = np.hstack([X, X]), [bias + common, bias]
        both = nearest_product(pair, [table] * 2, bias=parts)
        assert_array_equal(both, nearest_product(pair, [table] * 2, bias=[bias] * 2))
        for beam_size in (1, 4):
            both, _ = nearest_best(X, [table] * 2, beam_size, bias=parts)
            plain, _ = nearest_best(X, [table] * 2, beam_size, bias=[bias] * 2)
            assert_array_equal(both, plain)
    # What all have in common decides nothing.
    assert_array_equal(
        nearest(X, table, metric, bias=np.full(40, 1e30))[0],
        nearest(X, table, metric)[0],
    )


@pytest.mark.parametrize("metric", PRODUCTS)
@pytest.mark.parametrize("size", [1e-6, 1e3, 1e6, 1e30])
def test_biases_of_very_different_sizes(metric, size):
    """Large ones keep their codewords out, and cost the others nothing."""
    X, table, bias = make(1)
    bias[::2] = size * np.abs(bias[::2])
    codes, _ = nearest(X, table, metric, bias=bias)
    expected, best = biased(X, table, bias, metric)
    total = expected + bias
    rows = np.arange(len(X))
    gap = total[rows, codes] - total[rows, best]
    allowed = tolerance(X, table) * (expected[rows, codes] + np.abs(bias[codes]))
    assert (gap <= np.abs(allowed)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e39, 1e300, 1.7e308, -1e39, -1e300, -1.7e308])
@pytest.mark.parametrize("both", [False, True], ids=["one-sided", "both"])
def test_biases_out_of_all_proportion(dtype, size, both):
    """They decide by themselves, and nothing overflows."""
    X, table, _ = make(2, dtype)
    bias = np.zeros(40)
    bias[::3] = size
    if both:
        bias[1::3] = -size
    for metric in METRICS:
        codes, _ = nearest(X, table, metric, bias=bias)
        assert (bias[codes] == bias.min()).all()
    codes = nearest_product(np.hstack([X, X]), [table] * 2, bias=[bias] * 2)
    assert (bias[codes] == bias.min()).all()
    for beam_size in (1, 3, 12):
        codes, found = nearest_best(X, [table] * 2, beam_size, bias=[bias] * 2)
        assert (bias[codes] == bias.min()).all()
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["one-far-1e+05", "tenth-far-1e+05", "two-blobs"])
@pytest.mark.parametrize("borders", [False, True], ids=["", "borders"])
def test_biases_beside_far_codewords(name, borders):
    """The sum of distance and bias is compared as exactly as distances are."""
    rng = np.random.default_rng(0)
    X, table = GEOMETRIES[name](rng)
    X = near_borders(X, table, rng) if borders else X
    bias = rng.uniform(0, 1, len(table)) * (1e-5 if borders else 1)
    exact, rows = exact_distances(X, table), np.arange(len(X))
    total = exact + bias
    pair = np.hstack([X, X])
    for codes in (
        nearest(X, table, bias=bias)[0],
        nearest_product(pair, [table] * 2, bias=[bias] * 2)[:, 1],
        nearest_best(X, [table], 1, bias=[bias])[0][:, 0, 0],
    ):
        gap = total[rows, codes] - total.min(axis=1)
        allowed = tolerance(X, table) * (exact[rows, codes] + bias.max())
        assert (gap <= allowed).all(), f"{(gap / allowed).max():.3g}"


def test_sums_of_distance_and_bias_that_are_nearly_equal():
    """Where scores are too coarse, what is compared has the bias in it."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(30, 6)) + 1e4 * (np.arange(30)[:, None] % 2)
    for X in table[:10, None] + rng.normal(size=(10, 1, 6)):
        exact = exact_distances(X, table)[0]
        # All sums are nearly the same but those of the other blob, without a bias.
        bias = np.where(exact < 1e6, 99 - exact + rng.permutation(30) * 1e-9, 0)
        bias = bias.astype(float)
        expected = (exact + bias).argmin()
        pair = np.hstack([X, X])
        for codes in (
            nearest(X, table, bias=bias)[0],
            nearest_product(pair, [table] * 2, bias=[bias] * 2)[:, 1],
            nearest_best(X, [table], 1, bias=[bias])[0][:, 0, 0],
        ):
            assert_array_equal(codes, [expected])


@pytest.mark.parametrize("prepared", [False, True], ids=["arrays", "Tables"])
def test_products(prepared):
    """Also where constants leave subspaces with different numbers of codewords."""
    X, table, bias = make()
    X = np.hstack([X, X + 1, X[:, :3]])
    tables = [table, table, table[:, :3]]
    biases = [bias, np.where(bias > 1, np.inf, bias[::-1]), bias * 0]
    given = Tables(tables) if prepared else tables
    codes = nearest_product(X, given, bias=biases)
    for j, (low, part) in enumerate(zip((0, 5, 10), tables, strict=True)):
        x = X[:, low : low + part.shape[1]]
        assert_array_equal(codes[:, j], biased(x, part, biases[j])[1])
    assert_array_equal(nearest_product(X, given), nearest_product(X, tables))


@pytest.mark.parametrize("beam_size", [1, 4, 12])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]], ids=["", "weights"])
@pytest.mark.parametrize("prepared", [False, True], ids=["arrays", "Tables"])
def test_sums(beam_size, weights, prepared):
    """The loss of a sum is its error, and the constants of its codewords."""
    rng = np.random.default_rng(0)
    X, tables = staged(0.0)(rng)
    biases = [rng.uniform(0, 2, len(table)) for table in tables]
    biases[1][::3] = np.inf
    by = Reference(X, tables)
    kept = [np.flatnonzero(np.isfinite(bias)) for bias in biases]
    by.tables = [t[some] for t, some in zip(by.tables, kept, strict=True)]
    finite = [bias[some] for bias, some in zip(biases, kept, strict=True)]
    expected = beam(by, beam_size, weights, finite)
    expected = np.stack([some[c] for some, c in zip(kept, expected.T, strict=True)], 1)
    given = Tables(tables) if prepared else tables
    options = {"stage_weights": weights, "bias": biases}
    codes, found = nearest_best(X, given, beam_size, **options)
    assert by.sure.mean() > 0.9
    assert_array_equal(codes[by.sure, 0], expected[by.sure])
    plain = nearest_best(X, given, beam_size, stage_weights=weights)[0]
    assert (plain != codes).any(axis=(1, 2)).mean() > 0.5
    # What is returned is without the constants.
    weights = [0, 0, 1.0] if weights is None else weights
    left, error = X.astype(float), 0
    for table, column, weight in zip(tables, codes[:, 0].T, weights, strict=True):
        left = left - table[column]
        error = error + weight * (left**2).sum(axis=1)
    assert_allclose(found[:, 0], error, rtol=1e-4, atol=1e-5)


def test_sums_that_are_begun():
    """Codes that are given have constants as well."""
    rng = np.random.default_rng(3)
    X, tables = staged(0.0, np.float64)(rng)
    tables = [table[:6] for table in tables]
    biases = [rng.uniform(0, 3, 6) for _ in tables]
    begin = np.tile(np.arange(6)[None, :, None], (len(X), 1, 1))
    codes, _ = nearest_best(X, tables, 99, begin=begin, bias=biases)
    index = np.indices((6, 6, 6)).reshape(3, -1)
    sums = sum(table[i] for table, i in zip(tables, index, strict=True))
    constants = sum(bias[i] for bias, i in zip(biases, index, strict=True))
    total = distances(X, sums) + constants
    expected = np.stack(np.unravel_index(total.argmin(axis=1), (6, 6, 6)), axis=1)
    assert_array_equal(codes[:, 0], expected)


@pytest.mark.parametrize("name", ["shared-1e+04", "far-1e+06", "sentinels-float32"])
def test_sums_beside_far_codewords(name):
    rng = np.random.default_rng(4)
    X, tables = STAGED[name](rng)
    biases = [rng.uniform(0, 1, len(table)) for table in tables]
    by = Reference(X, tables)
    expected = beam(by, 4, None, biases)
    codes, _ = nearest_best(X, tables, 4, bias=biases)
    assert_array_equal(codes[by.sure, 0], expected[by.sure])
    assert by.sure.mean() > 0.5
