"""The Kronecker scheme: its search, what it recovers, what it leaves fixed."""

from functools import reduce

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import assert_nearest, distances
from sklearn.exceptions import ConvergenceWarning
from table import mixture

from skvq import KroneckerQuantizer, VectorQuantizer
from skvq.codes import token_ids
from skvq.learning import kronecker as learning
from skvq.nearest import kronecker_rows, nearest, nearest_kronecker


def implied(tables):
    """All products of rows in float64, by np.kron, in the order of token ids."""
    sizes = [len(table) for table in tables]
    wide = [np.asarray(table, dtype=np.float64) for table in tables]
    return np.array(
        [
            reduce(np.kron, [t[k] for t, k in zip(wide, index, strict=True)])
            for index in np.ndindex(*sizes)
        ]
    )


def draw(shape, sizes, dtype=np.float64, seed=0):
    rng = np.random.default_rng([seed, *shape, *sizes])
    return [
        (rng.normal(size=(v, d)) + rng.normal()).astype(dtype)
        for d, v in zip(shape, sizes, strict=True)
    ]


def planted(shape, size, n_samples, noise, seed=0):
    """Samples that are products of rows of random tables, plus noise."""
    rng = np.random.default_rng([seed, *shape])
    tables = [rng.normal(size=(size, d)) for d in shape]
    codes = rng.integers(size, size=(n_samples, len(shape)))
    clean = kronecker_rows([t[c] for t, c in zip(tables, codes.T, strict=True)])
    X = clean + noise * rng.normal(size=clean.shape)
    return X, tables


# -- the search ------------------------------------------------------------------------

SEARCHES = [
    ((5,), (7,)),
    ((1, 1), (3, 4)),
    ((1, 6), (4, 5)),
    ((6, 1), (5, 4)),
    ((3, 4), (6, 5)),
    ((4, 3), (1, 9)),
    ((16, 16), (64, 64)),
    ((2, 3, 4), (5, 4, 3)),
    ((3, 1, 2), (2, 7, 4)),
    ((2, 2, 2, 2), (3, 4, 2, 5)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "sizes"), SEARCHES, ids=str)
def test_search_is_the_brute_force(shape, sizes, dtype, two_threads):
    tables = draw(shape, sizes, dtype)
    X = np.random.default_rng(1).normal(size=(530, int(np.prod(shape)))).astype(dtype)
    codes, found = nearest_kronecker(X, tables, return_distances=True)
    table = implied(tables)
    ids = token_ids(codes, sizes).astype(np.intp)
    assert_nearest(ids, X, table, dtype=dtype)
    assert_allclose(found, distances(X, table)[np.arange(len(X)), ids], rtol=1e-9)
    only, nothing = nearest_kronecker(X, tables)
    assert nothing is None
    assert_array_equal(only, codes)


def test_search_far_from_the_origin():
    """All products lie about one point, a thousand times their spread away."""
    rng = np.random.default_rng(0)
    tables = [(30 + 0.01 * rng.normal(size=(16, d))).astype(np.float32) for d in (3, 4)]
    table = implied(tables)
    X = table[rng.integers(256, size=3000)] + 0.1 * rng.normal(size=(3000, 12))
    ids = token_ids(nearest_kronecker(X, tables)[0], (16, 16)).astype(np.intp)
    best = distances(X, table)
    assert (ids == best.argmin(axis=1)).mean() > 0.999
    X = X.astype(np.float32)
    ids = token_ids(nearest_kronecker(X, tables)[0], (16, 16)).astype(np.intp)
    assert_nearest(ids, X, table, dtype=np.float32)


def test_outliers_cost_the_others_no_digits():
    """A product of two outlying rows is 10^9 times as long as the others."""
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(8, d)).astype(np.float32) for d in (3, 2)]
    tables[0][2] *= 30_000
    tables[1][5] *= 30_000
    X = rng.normal(size=(500, 6)).astype(np.float32)
    table = implied(tables)
    ids = token_ids(nearest_kronecker(X, tables)[0], (8, 8)).astype(np.intp)
    best = distances(X, table)
    assert_allclose(best[np.arange(500), ids], best.min(axis=1), rtol=1e-4)


def test_products_in_turns(monkeypatch, two_threads):
    """More products than are scored at once take turns, with the same result."""
    tables = draw((2, 3, 2), (7, 6, 5))
    X = np.random.default_rng(0).normal(size=(300, 12))
    expected = nearest_kronecker(X, tables)[0]
    monkeypatch.setattr("skvq.nearest.searches.kronecker._MAX_AT_ONCE", 64)
    monkeypatch.setattr("skvq.nearest.searches.kronecker._TURN", 40)
    assert_array_equal(nearest_kronecker(X, tables)[0], expected)
    assert_nearest(token_ids(expected, (7, 6, 5)).astype(np.intp), X, implied(tables))


def test_equal_rows_and_zero_products_give_the_lowest_codes():
    tables = [np.array([[1.0, 2], [0, 0], [1, 2]]), np.array([[3.0], [0], [3]])]
    codes, found = nearest_kronecker(
        [[3.0, 6], [0, 0], [1e-9, 0]], tables, return_distances=True
    )
    assert_array_equal(codes, [[0, 0], [0, 1], [0, 1]])
    assert_allclose(found, [0, 0, 1e-18])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([np.ones((2, 2)), np.ones((2, 2))], "do not multiply to the 6 features"),
        ([], "codebooks is empty"),
        ([np.ones((2, 2)), np.ones((0, 3))], r"codebooks\[1\] has no codewords"),
        ([np.ones((2, 2)), np.full((2, 3), np.nan)], r"codebooks\[1\] contains NaN"),
        ([np.full((2, 2), 1e200), np.full((2, 3), 1e200)], "too large"),
    ],
)
def test_tables_that_are_refused(tables, message):
    with pytest.raises(ValueError, match=message):
        nearest_kronecker(np.ones((2, 6)), tables)


# -- learning --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "sizes"), [((3, 4), (6, 5)), ((2, 3, 2), (3, 4, 2)), ((1, 12), (4, 6))]
)
def test_codes_are_those_of_the_dense_scheme(shape, sizes):
    X = mixture(600, 12, dtype=np.float64)
    kq = KroneckerQuantizer(shape, sizes, random_state=0).fit(X)
    table = implied(kq.codebooks_)
    assert_allclose(kq.full_codebook(), table, rtol=1e-12)
    test = mixture(400, 12, seed=1, dtype=np.float64)
    ids = token_ids(kq.transform(test), sizes).astype(np.intp)
    assert_nearest(ids, test, table)
    dense = VectorQuantizer(len(table), init=table, learning="fixed").fit(X)
    assert_array_equal(dense.transform(test).ravel(), ids)
    assert kq.score(test) == pytest.approx(dense.score(test))
    assert_allclose(kq.quantize(test), dense.quantize(test))


@pytest.mark.parametrize(
    ("shape", "size", "share"),
    [
        ((4, 5), 8, False),
        ((6, 6), 8, True),
        ((3, 4, 3), 4, False),
        ((2, 12), 6, False),
    ],
)
def test_planted_tables_are_recovered(shape, size, share, seed):
    d, noise = int(np.prod(shape)), 0.05
    X, tables = planted(shape, size, 2000, noise)
    if share:
        rng = np.random.default_rng(0)
        table = rng.normal(size=(size, shape[0]))
        codes = rng.integers(size, size=(2000, 2))
        X = kronecker_rows([table[codes[:, 0]], table[codes[:, 1]]])
        X = X + noise * rng.normal(size=X.shape)
        tables = [table, table]
    kq = KroneckerQuantizer(
        shape, size, share_codebook=share, n_init=4, random_state=seed
    ).fit(X)
    floor = nearest_kronecker(X, tables, return_distances=True)[1].mean()
    assert floor <= d * noise**2 * 1.05
    assert kq.distortion_ <= 1.05 * floor
    # The tables themselves: each true product has a learned one beside it.
    gaps = nearest(implied(tables), kq.full_codebook())[1]
    assert np.median(gaps) < 0.05 * d * noise**2


def test_the_distortion_never_rises():
    X = mixture(200, 12)
    values = [
        KroneckerQuantizer((3, 4), 6, max_iter=k, tol=0, random_state=0)
        .fit(X)
        .distortion_
        for k in range(1, 7)
    ]
    assert (np.diff(values) <= 1e-9 * values[0]).all()
    assert values[-1] < values[0]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_targets_are_the_minimum(shape):
    """The best table for given codes beats every table near it."""
    rng = np.random.default_rng(0)
    X, sizes = rng.normal(size=(200, 12)), (3,) * len(shape)
    weights = rng.integers(1, 4, 200).astype(float)
    tables = draw(shape, sizes)
    codes = rng.integers(3, size=(200, len(shape)))

    def loss(tables):
        rows = [t[c] for t, c in zip(tables, codes.T, strict=True)]
        return weights @ np.square(X - kronecker_rows(rows)).sum(axis=1)

    for j in range(len(shape)):
        goal, mass = learning.targets(X, weights, shape, tables, codes, j)
        best = list(tables)
        best[j] = np.array(
            [
                np.average(
                    goal[codes[:, j] == k], axis=0, weights=mass[codes[:, j] == k]
                )
                for k in range(3)
            ]
        )
        for _ in range(20):
            other = list(best)
            other[j] = best[j] + 1e-3 * rng.normal(size=best[j].shape)
            assert loss(other) > loss(best)


def test_scales_and_signs_are_fixed():
    X, _ = planted((3, 4, 2), 4, 1000, 0.1)
    a = KroneckerQuantizer((3, 4, 2), 4, random_state=0).fit(X)
    roots = [np.sqrt(np.mean(np.square(table))) for table in a.codebooks_]
    assert_allclose(roots, roots[0], rtol=1e-6)
    for table in a.codebooks_[1:]:
        assert table.flat[np.abs(table).argmax()] > 0
    b = KroneckerQuantizer((3, 4, 2), 4, random_state=0).fit(-8 * X)
    assert_allclose(b.full_codebook(), -8 * a.full_codebook(), rtol=1e-6)


def test_fixed_factors():
    X, tables = planted((3, 4), 5, 2000, 0.05)
    given = tables[1].copy()
    kq = KroneckerQuantizer(
        (3, 4), 5, fixed_factors=[None, given], n_init=4, random_state=0
    ).fit(X)
    assert_array_equal(kq.codebooks_[1], given)
    floor = nearest_kronecker(X, tables, return_distances=True)[1].mean()
    assert kq.distortion_ <= 1.05 * floor
    order = distances(tables[0], kq.codebooks_[0])
    assert_allclose(order.min(axis=1), 0, atol=0.01)
    both = KroneckerQuantizer((3, 4), fixed_factors=tables).fit(X)
    assert both.codebook_sizes_ == (5, 5)
    assert both.distortion_ == pytest.approx(floor)
    assert_array_equal(given, tables[1])


def test_given_start():
    X, tables = planted((3, 4), 5, 1000, 0.05)
    start = [table + 0.01 for table in tables]
    kq = KroneckerQuantizer((3, 4), 5, init=start).fit(X)
    floor = nearest_kronecker(X, tables, return_distances=True)[1].mean()
    assert kq.distortion_ <= floor * (1 + 1e-6)


def test_sample_weights_count(seed):
    X = mixture(300, 12, seed, dtype=np.float64)
    weights = np.where(np.arange(300) < 150, 1e-6, 1.0)
    light = KroneckerQuantizer((3, 4), 4, random_state=seed)
    light.fit(X, sample_weight=weights)
    heavy = KroneckerQuantizer((3, 4), 4, random_state=seed).fit(X[150:])
    assert -light.score(X[150:]) <= 1.05 * heavy.distortion_


@pytest.mark.parametrize(
    ("n_features", "expected"), [(12, (3, 4)), (7, (1, 7)), (1, (1, 1)), (64, (8, 8))]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_default_factors_are_the_squarest_pair(n_features, expected):
    kq = KroneckerQuantizer(random_state=0).fit(mixture(60, n_features))
    assert kq.factor_sizes_ == expected


def test_shared_table_is_one_object():
    kq = KroneckerQuantizer((3, 3), 4, share_codebook=True, random_state=0)
    kq.fit(mixture(200, 9))
    assert kq.codebooks_[0] is kq.codebooks_[1]


def test_few_samples_are_their_best_products():
    X = mixture(5, 12, dtype=np.float64)
    with pytest.warns(ConvergenceWarning, match="5 distinct samples"):
        kq = KroneckerQuantizer((3, 4), 8).fit(X)
    best = np.linalg.svd(X.reshape(5, 3, 4), compute_uv=False)[:, 1:]
    assert_allclose(
        np.square(X - kq.quantize(X)).sum(axis=1), np.square(best).sum(axis=1)
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"factor_sizes": (3, 5)}, "multiply to 15, but X has 12 features"),
        ({"factor_sizes": (3, 4.0)}, "one or more integers"),
        ({"factor_sizes": (-3, -4)}, "one or more integers"),
        ({"factor_sizes": ()}, "one or more integers"),
        ({"n_codewords": [4, 4, 4]}, "n_codewords has 3 entries"),
        ({"n_codewords": [2**20, 2**20]}, "multiply to more than"),
        ({"share_codebook": True}, "factors of equal sizes"),
        ({"init": [np.ones((4, 3))]}, "init has 1 entries"),
        ({"init": [np.ones((4, 3)), np.ones((4, 3))]}, r"init\[1\] has shape \(4, 3\)"),
        ({"fixed_factors": [None]}, "fixed_factors has 1 entries"),
        (
            {"fixed_factors": [np.ones((4, 4)), None]},
            r"fixed_factors\[0\] has shape",
        ),
        (
            {"fixed_factors": [np.ones((3, 3)), None], "n_codewords": [4, 4]},
            r"fixed_factors\[0\] has 3 rows",
        ),
    ],
)
def test_bad_parameters(parameters, message):
    parameters = {"factor_sizes": (3, 4), "n_codewords": 4, **parameters}
    with pytest.raises(ValueError, match=message):
        KroneckerQuantizer(**parameters).fit(mixture(50, 12))


def test_shared_table_takes_no_fixed_factor_and_one_start():
    parameters = {"factor_sizes": (3, 3), "n_codewords": 2, "share_codebook": True}
    one, other = np.ones((2, 3)), np.zeros((2, 3))
    with pytest.raises(ValueError, match="takes no fixed_factors"):
        KroneckerQuantizer(**parameters, fixed_factors=[one, None]).fit(mixture(50, 9))
    with pytest.raises(ValueError, match="m equal tables"):
        KroneckerQuantizer(**parameters, init=[one, other]).fit(mixture(50, 9))
