"""The engine against a brute force in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    assert_nearest,
    distances,
    first_argmin,
    paired,
    rounding,
    sums_and_counts,
)
from threadpoolctl import threadpool_limits

from skvq import nearest as engine
from skvq.nearest import (
    METRICS,
    PRODUCT_METRICS,
    DistanceTable,
    accumulate,
    check_metric,
    nearest,
    nearest_product,
    threads,
)

DTYPES = ["float16", "float32", "float64", "uint8", "int16", "int64", "bool"]
# Widths and sizes about the borders of tiles and of the kernels of a matrix product.
SHAPES = [
    (1, 1, 1),
    (2, 3, 1),
    (7, 1, 5),
    (100, 2, 17),
    (513, 3, 255),
    (1030, 8, 256),
    (4097, 5, 9),
    (300, 33, 1000),
    (50, 128, 4099),
]
BOOLEAN_METRICS = {
    "dice",
    "hamming",
    "jaccard",
    "rogerstanimoto",
    "russellrao",
    "sokalsneath",
    "yule",
}


def make(shape, dtype="float32", seed=0):
    n_samples, n_features, n_codewords = shape
    rng = np.random.default_rng([seed, *shape])
    scale = {"bool": 1, "uint8": 40, "int16": 4000, "int64": 1e6}.get(dtype, 1)
    X = rng.normal(1, 1, (n_samples, n_features)) * scale
    table = rng.normal(1, 1, (n_codewords, n_features)) * scale
    if dtype == "bool":
        return X > 1, table > 1
    if dtype == "uint8":
        X, table = np.clip(X, 0, 255), np.clip(table, 0, 255)
    return X.astype(dtype), table.astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", [*sorted(PRODUCT_METRICS), "manhattan"])
def test_shapes(shape, metric, two_threads):
    X, table = make(shape)
    codes, found = nearest(X, table, metric)
    assert codes.dtype == np.intp
    assert found.dtype == np.float64
    assert_nearest(codes, X, table, metric, np.float32)
    best = distances(X, table, metric).min(axis=1)
    atol = rounding(X, table, metric, np.float32)
    atol += 1e-6 * (1 + np.abs(best))
    assert (np.abs(found - best) <= atol).all()
    only_codes, nothing = nearest(X, table, metric, return_distances=False)
    assert nothing is None
    assert_array_equal(only_codes, codes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table_dtype", ["float32", "float64", None])
def test_dtypes(dtype, table_dtype):
    X, table = make((600, 4, 20), dtype)
    if table_dtype is not None:
        table = table.astype(table_dtype)
    codes, found = nearest(X, table)
    narrow = {X.dtype.itemsize, table.dtype.itemsize} <= {1, 2, 4} and "int64" != dtype
    dtype = np.float32 if narrow else np.float64
    assert_nearest(codes, X, table, dtype=dtype)
    best = distances(X, table).min(axis=1)
    assert (np.abs(found - best) <= rounding(X, table, dtype=dtype)).all()


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_every_metric(metric):
    X, table = make((300, 6, 12), "bool" if metric in BOOLEAN_METRICS else "float64")
    X, table = X.astype(float), table.astype(float)
    if metric in BOOLEAN_METRICS:
        X[:, 0], table[:, 1] = 1, 1
    if metric in ("jensenshannon", "braycurtis"):
        X, table = np.abs(X), np.abs(table)
    if metric == "yule":
        X[:, 1], table[:, 0] = 0, 0
    codes, found = nearest(X, table, metric)
    assert_nearest(codes, X, table, metric)
    assert_allclose(found, distances(X, table, metric).min(axis=1), atol=1e-9)
    assert_allclose(
        engine.paired(X, table, metric, codes=codes), found, atol=1e-9, rtol=1e-9
    )


def test_callable_metric():
    X, table = make((40, 3, 5))
    codes, found = nearest(X, table, lambda a, b: np.abs(a - b).max())
    assert_array_equal(codes, first_argmin(X, table, "chebyshev"))
    assert_allclose(found, distances(X, table, "chebyshev").min(axis=1))


@pytest.mark.parametrize("metric", ["mahalanobis", "seuclidean", "nonsense"])
def test_metrics_that_are_refused(metric):
    with pytest.raises(ValueError, match=metric):
        check_metric(metric)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_far_from_the_origin(dtype, offset):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(5000, 8)) + offset).astype(dtype)
    table = X[:64].copy()
    codes, found = nearest(X, table)
    best = distances(X, table)
    # The differences of the given values are exact: only those may decide.
    excess = best[np.arange(len(X)), codes] - best.min(axis=1)
    eps = np.finfo(dtype).eps
    assert excess.max() <= 400 * eps
    assert_allclose(found, best.min(axis=1), atol=400 * eps)
    assert_array_equal(codes[:64], np.arange(64))


def test_offset_of_a_thousand_float32():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(100_000, 16)) + 1000).astype(np.float32)
    table = X[rng.choice(len(X), 256, replace=False)]
    codes, found = nearest(X, table)
    best = np.concatenate([distances(part, table) for part in np.split(X, 20)])
    assert (codes == best.argmin(axis=1)).mean() >= 0.999
    true = best.min(axis=1)
    assert np.abs(found - true).max() <= 1e-3 * true.mean()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64", "uint8"]))
def test_integers_tie_exactly(seed, dtype):
    """Of equally near codewords the first wins, equal codewords included."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (60, rng.integers(1, 9))).astype(dtype)
    table = rng.integers(0, 4, (rng.integers(1, 40), X.shape[1])).astype(dtype)
    codes, found = nearest(X, table)
    assert_array_equal(codes, first_argmin(X, table))
    assert_array_equal(found, distances(X, table).min(axis=1))


@pytest.mark.parametrize("n_codewords", [2, 5, 64, 257])
def test_equal_codewords_give_the_first(n_codewords):
    rng = np.random.default_rng(n_codewords)
    distinct = rng.normal(size=(n_codewords, 7)).astype(np.float32)
    table = np.concatenate([distinct, distinct, distinct[:1]])
    table[n_codewords, 0] *= 1  # the same value, another row
    X = rng.normal(size=(2000, 7)).astype(np.float32)
    assert nearest(X, table)[0].max() < n_codewords
    assert nearest_product(X, [table]).max() < n_codewords


def test_minus_zero_is_zero():
    table = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 1.0]])
    assert_array_equal(nearest([[0.0, 1.0], [-0.0, 1.0]], table)[0], [0, 0])


@pytest.mark.parametrize("exponent", [-140, -100, -50, 50, 100, 120])
def test_scales_float32(exponent):
    X, table = make((200, 5, 9))
    X, table = (np.ldexp(a, exponent).astype(np.float32) for a in (X, table))
    codes, found = nearest(X, table)
    scaled = (
        np.ldexp(X.astype(float), -exponent),
        np.ldexp(table.astype(float), -exponent),
    )
    assert_nearest(codes, *scaled, dtype=np.float32)
    expected = np.ldexp(distances(*scaled).min(axis=1), 2 * exponent)
    assert_allclose(found, expected, rtol=1e-3)


def test_values_that_overflow_are_an_error():
    table = np.zeros((2, 3), np.float32)
    table[1] = 1
    with pytest.raises(ValueError, match="overflow"):
        nearest(np.full((4, 3), 3e38, np.float32), table)
    with pytest.raises(ValueError, match="NaN"):
        nearest(np.full((4, 3), np.nan), table)
    with pytest.raises(ValueError, match="too large"):
        nearest(np.zeros((4, 3)), np.array([[1.7e308] * 3, [1.6e308] * 3, [1.0] * 3]))


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "manhattan"])
def test_layouts(metric, tmp_path):
    X, table = make((700, 6, 30))
    expected, _ = nearest(X, table, metric)
    wide = np.repeat(np.repeat(X, 3, axis=0), 2, axis=1)
    np.save(tmp_path / "X.npy", X)
    frozen = X.copy()
    frozen.flags.writeable = False
    for other in (
        np.asfortranarray(X),
        wide[::3, ::2],
        frozen,
        np.load(tmp_path / "X.npy", mmap_mode="r"),
        X[::-1].copy()[::-1],
    ):
        assert_array_equal(nearest(other, table, metric)[0], expected)
    assert_array_equal(nearest(X, np.asfortranarray(table), metric)[0], expected)


def test_zero_rows_have_no_cosine():
    X, table = make((10, 3, 4))
    X[6] = 0
    with pytest.raises(ValueError, match=r"row 6 of X"):
        nearest(X, table, "cosine")
    with pytest.raises(ValueError, match=r"row 6 of the codebook"):
        nearest(table, X, "cosine")


@pytest.mark.parametrize(
    ("X", "table", "message"),
    [
        (np.ones(3), np.ones((2, 3)), "two dimensions"),
        (np.ones((2, 3)), np.ones((2, 4)), "3 features, the codebook has 4"),
        (np.ones((2, 3)), np.ones((0, 3)), "no codewords"),
        (np.full((2, 3), "a"), np.ones((2, 3)), "real numbers"),
        (np.ones((2, 3)) * 1j, np.ones((2, 3)), "real numbers"),
    ],
)
def test_bad_arrays(X, table, message):
    with pytest.raises(ValueError, match=message):
        nearest(X, table)


def test_no_rows():
    codes, found = nearest(np.ones((0, 3)), np.ones((2, 3)))
    assert codes.shape == found.shape == (0,)
    assert nearest_product(np.ones((0, 3)), [np.ones((2, 3))]).shape == (0, 1)


# -- products --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "widths", [[4] * 8, [1], [3, 3, 2], [1, 1, 1, 1, 5], [2, 7, 2], [16, 16]], ids=str
)
@pytest.mark.parametrize("sizes", [[256], [2, 5, 300], [1, 16]], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_product(widths, sizes, dtype, two_threads):
    rng = np.random.default_rng([sum(widths), sum(sizes)])
    X = (rng.normal(size=(1500, sum(widths))) * 20 + 50).clip(0, 255).astype(dtype)
    tables = [
        X[rng.integers(0, 1500, sizes[j % len(sizes)]), :w] + np.float32(j)
        for j, w in enumerate(widths)
    ]
    codes = nearest_product(X, tables)
    begin = 0
    for column, table in zip(codes.T, tables, strict=True):
        x = X[:, begin : begin + table.shape[1]]
        assert_nearest(column, x, table, dtype=np.float32)
        begin += table.shape[1]


def test_product_equals_nearest_on_integers():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, (3000, 12)).astype(np.float32)
    tables = [rng.integers(0, 3, (50, 4)).astype(np.float32) for _ in range(3)]
    codes = nearest_product(X, tables, dtype=np.uint8)
    assert codes.dtype == np.uint8
    for j, table in enumerate(tables):
        assert_array_equal(codes[:, j], first_argmin(X[:, 4 * j : 4 * j + 4], table))


def test_product_of_scaled_and_repeated_tables():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4)).astype(np.float32) * [[1, 1, 1e-30, 1e-30]]
    X = X.astype(np.float32)
    tables = [X[:20, :2], np.concatenate([X[:10, 2:], X[:10, 2:]])]
    codes = nearest_product(X, tables)
    assert_nearest(codes[:, 0], X[:, :2], tables[0], dtype=np.float32)
    big = X[:, 2:].astype(float) * 1e30, tables[1].astype(float) * 1e30
    assert_nearest(codes[:, 1], *big, dtype=np.float32)
    assert codes[:, 1].max() < 10


def test_product_widths_must_add_up():
    with pytest.raises(ValueError, match="add up to 4, but X has 3"):
        nearest_product(np.ones((2, 3)), [np.ones((2, 2))] * 2)
    with pytest.raises(ValueError, match="NaN"):
        nearest_product(np.full((2, 2), np.nan), [np.ones((2, 2))])


# -- sums, tables, pairs ---------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
def test_accumulate(weighted, dtype):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(999, 3)) * 30 + 100).clip(0, 255).astype(dtype)
    codes = rng.integers(0, 7, 999)
    weights = rng.random(999) if weighted else None
    sums, counts = accumulate(X, codes, 9, weights=weights)
    expected = sums_and_counts(X, codes, 9, weights)
    assert sums.dtype == counts.dtype == np.float64
    assert_allclose(sums, expected[0], rtol=1e-12)
    assert_allclose(counts, expected[1], rtol=1e-12)


def test_sums_of_parts_add_up():
    X, _ = make((100_000, 4, 1))
    codes = np.random.default_rng(0).integers(0, 32, len(X))
    whole = accumulate(X, codes, 32)
    parts = [accumulate(X[i::3], codes[i::3], 32) for i in range(3)]
    assert_allclose(whole[0], sum(part[0] for part in parts), rtol=1e-10, atol=1e-9)
    assert_array_equal(whole[1], sum(part[1] for part in parts))


def test_sums_are_the_same_bits_on_one_and_two_threads(two_threads):
    X, _ = make((100_000, 4, 1))
    codes = np.random.default_rng(0).integers(0, 32, len(X))
    two = accumulate(X, codes, 32)
    with threadpool_limits(1, user_api="blas"):
        one = accumulate(X, codes, 32)
    assert one[0].tobytes() == two[0].tobytes()


@pytest.mark.parametrize(
    ("codes", "weights", "message"),
    [
        ([0, 1], None, r"expected \(3,\)"),
        ([0, 1, 4], None, "range from 0 to 4"),
        ([0, -1, 3], None, "range from -1 to 3"),
        ([0, 1, 2], [1, 1], "weights has shape"),
    ],
)
def test_accumulate_refuses(codes, weights, message):
    with pytest.raises(ValueError, match=message):
        accumulate(np.ones((3, 2)), codes, 4, weights=weights)


@pytest.mark.parametrize("metric", [*sorted(PRODUCT_METRICS), "cityblock", "euclidean"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distance_table(metric, dtype):
    X, table = make((80, 5, 6), dtype)
    found = DistanceTable(X, metric)(table)
    atol = rounding(X, table, metric, dtype).max() * 4
    assert_allclose(found, distances(X, table, metric).T, atol=atol)
    if metric != "inner_product":
        assert (found >= 0).all()


@pytest.mark.parametrize("metric", [*sorted(PRODUCT_METRICS), "manhattan", "canberra"])
def test_paired(metric):
    X, _ = make((70_000, 2, 1))
    Y, table = make((70_000, 2, 5), seed=1)
    some = slice(0, 70_000, 1000)
    assert_allclose(
        engine.paired(X, Y, metric)[some], paired(X[some], Y[some], metric), atol=1e-12
    )
    codes = np.arange(70_000) % 5
    assert_allclose(
        engine.paired(X, table, metric, codes=codes),
        engine.paired(X, table[codes], metric),
    )
    with pytest.raises(ValueError, match="shape"):
        engine.paired(X, Y[:3], metric)


# -- threads ---------------------------------------------------------------------------


def test_codes_are_the_same_on_one_and_two_threads(two_threads):
    X, table = make((30_000, 16, 256))
    two = nearest(X, table)
    with threadpool_limits(1, user_api="blas"):
        one = nearest(X, table)
    assert_array_equal(one[0], two[0])
    assert one[1].tobytes() == two[1].tobytes()


def test_an_error_in_a_thread_reaches_the_caller(two_threads):
    X, table = make((50_000, 4, 16))
    X[-1, -1] = np.nan
    for _ in range(5):
        with pytest.raises(ValueError, match="NaN"):
            nearest(X, table)
    X[-1, -1] = 0
    assert_nearest(nearest(X, table)[0], X, table, dtype=np.float32)


class TestJobs:
    """Independent jobs, each on a thread of its own where there are enough."""

    def test_each_runs_once_with_the_callers_flags(self, two_threads):
        flags = []

        def job(i):
            flags.append((i, np.geterr()["divide"]))

        with np.errstate(divide="raise"):
            engine.map_jobs(job, 5)
        assert sorted(flags) == [(i, "raise") for i in range(5)]

    def test_they_share_the_threads(self, two_threads):
        seen = []
        engine.map_jobs(lambda i: seen.append(threads._share.most), 5)
        engine.map_jobs(lambda i: seen.append(threads._share.most), 1)
        assert seen == [1] * 5 + [2]
        assert threads._share.most > 2

    def test_an_error_reaches_the_caller(self, two_threads):
        def job(i):
            if i == 3:
                raise KeyError(i)

        with pytest.raises(KeyError, match="3"):
            engine.map_jobs(job, 5)
        assert threads._share.most > 2


TABLES = [np.arange(300.0)[:, None], np.arange(4.0)[:, None]]
INTEGERS = {
    "nearest_product": lambda **kw: nearest_product(np.ones((9, 2)), TABLES, **kw),
    "nearest_best": lambda **kw: engine.nearest_best(np.ones((9, 1)), TABLES, 3, **kw)[
        0
    ],
    "improve_sums": lambda **kw: engine.improve_sums(
        np.ones((9, 1)), TABLES, np.ones((9, 2), int), n_rounds=1, **kw
    )[0],
    "equal_cells": lambda **kw: engine.equal_cells(
        np.ones((9, 1)), engine.EqualCells(np.zeros(1), np.ones(1), (300,)), **kw
    ),
    "cells_between": lambda **kw: engine.cells_between(
        np.ones((9, 1)), [np.arange(299.0)], **kw
    ),
}


@pytest.mark.parametrize("search", INTEGERS.values(), ids=INTEGERS)
def test_dtypes_of_codes(search):
    expected = search()
    for dtype in ("uint16", np.int32, np.dtype(">i4"), "uint64"):
        found = search(dtype=dtype)
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        assert_array_equal(found, expected)
    for dtype in ("uint8", "int8", bool, float, None, object, "U3", "no dtype", 16):
        with pytest.raises(ValueError, match=r"dtype=.*integer dtype .* up to 299"):
            search(dtype=dtype)


@pytest.mark.parametrize(
    "codes", [[[0.5, 1]] * 9, [[0.0, 1]] * 9, [[np.nan] * 2] * 9, [["0", "1"]] * 9]
)
def test_codes_are_integers(codes):
    X = np.ones((9, 1))
    searches = {
        "codes": lambda c: engine.improve_sums(X, TABLES, c, n_rounds=1),
        "begin": lambda c: engine.nearest_best(X, TABLES, 3, begin=c[:, None, :]),
    }
    for name, search in searches.items():
        with pytest.raises(ValueError, match=f"{name} has dtype .*integers"):
            search(np.array(codes))
    with pytest.raises(ValueError, match=r"codes has dtype .*integers"):
        engine.paired(X, X, codes=np.array(codes)[:, 0])
    with pytest.raises(ValueError, match=r"codes has shape \(2,\); expected \(9,\)"):
        engine.paired(X, X, codes=[0, 1])
