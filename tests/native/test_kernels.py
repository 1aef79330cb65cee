"""The compiled kernels, over all shapes at the edges of their blocking."""

import ctypes
import threading
from itertools import cycle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_limits

from skvq.codes import pack, unpack
from skvq.nearest import (
    Columns,
    EqualCells,
    Table,
    Tables,
    accumulate,
    cells_between,
    engine_of,
    equal_cells,
    improve_sums,
    native,
    nearest,
    nearest_best,
    nearest_cells,
    nearest_product,
    paired,
    using,
)
from skvq.nearest.backends.native import NativeBackend
from skvq.nearest.tables import flat_form

pytestmark = pytest.mark.skipif(
    native.library() is None, reason="the compiled engine is not there"
)

N_ROWS = [0, 1, 2, 7, 8, 9, 12, 13, 16, 17, 47, 48, 49, 100]
SIZES = [1, 2, 5, 6, 7, 8, 9, 12, 31, 33, 70]
WIDTHS = [1, 2, 3, 4, 5, 8, 9, 16, 31, 32, 40]
TOLERANCE = {np.dtype(np.float32): 2.0**-18, np.dtype(np.float64): 2.0**-46}


@pytest.fixture(autouse=True)
def compiled():
    with using("native"):
        yield


def make(rng, shape, dtype):
    """Numbers of any dtype, with some equal rows."""
    X = rng.normal(size=shape)
    if np.dtype(dtype).kind in "iu":
        X = np.clip(np.rint(40 * X + 60), 0, 120)
    return X.astype(dtype)


def distances(X, table):
    gaps = X[:, None].astype(np.float64) - table[None].astype(np.float64)
    return (gaps * gaps).sum(axis=2)


def check_codes(codes, D, dtype):
    """A code may be another's only where the distances are the same to the search."""
    if len(codes):
        assert codes.min() >= 0
        assert codes.max() < D.shape[1]
    best = D.min(axis=1)
    own = D[np.arange(len(D)), codes]
    assert (own - best <= TOLERANCE[np.dtype(dtype)] * own).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", WIDTHS)
def test_search(dtype, d):
    rng = np.random.default_rng(d)
    for size in SIZES:
        table = make(rng, (size, d), dtype)
        prepared = Table(table)
        X = make(rng, (max(N_ROWS), d), dtype)
        D = distances(X, table)
        for n in N_ROWS:
            codes, found = nearest(X[:n], prepared)
            check_codes(codes, D[:n], dtype)
            assert_allclose(found, D[np.arange(n), codes], rtol=1e-5, atol=1e-12)
        # Alone or among others, a row has its code.
        one_by_one = [nearest(X[[i]], prepared)[0][0] for i in range(len(X))]
        assert_array_equal(nearest(X, prepared)[0], one_by_one)


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
@pytest.mark.parametrize("d", [2, 8, 33])
def test_other_products(metric, d):
    rng = np.random.default_rng(d)
    X, table = make(rng, (100, d), np.float32), make(rng, (37, d), np.float32)
    x, w = X.astype(np.float64), table.astype(np.float64)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        D = distances(x, w) / 2
    else:
        D = -x @ w.T
    for n in N_ROWS:
        codes, found = nearest(X[:n], table, metric)
        assert_allclose(found, D[:n].min(axis=1), rtol=1e-4, atol=1e-5)
        assert_allclose(found, D[np.arange(n), codes], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_rows(dtype):
    rng = np.random.default_rng(0)
    ends = np.finfo(dtype)
    for d in WIDTHS:
        X = rng.normal(size=(100, d))
        X[X == 0] = 1
        X /= np.abs(X).max(axis=1, keepdims=True)
        # Squares overflow or vanish; the last row is of denormals, but for one column.
        magnitudes = np.ldexp(1.0, rng.integers(ends.minexp, ends.maxexp - 1, (100, 1)))
        X = (X * magnitudes).astype(dtype)
        X[-1] = 0
        X[-1, 0] = ends.smallest_subnormal
        exact = X / np.abs(X).max(axis=1, keepdims=True).astype(np.longdouble)
        exact /= np.sqrt((exact * exact).sum(axis=1, keepdims=True))
        for n in N_ROWS:
            units = engine_of(X).unit_rows(X[:n])
            assert units.dtype == dtype
            assert_allclose(units, exact[:n], rtol=2 * ends.eps, atol=ends.tiny)
        for name, given in strided(X[:40]):
            found = engine_of(X).unit_rows(given)
            assert_array_equal(found, engine_of(X).unit_rows(np.array(given)), name)
    zeros = np.zeros((2, 3), dtype)
    assert np.isnan(engine_of(X).unit_rows(zeros)).all()


@pytest.mark.parametrize("widths", [[1], [1, 1, 1], [2, 2], [3, 5, 4], [8, 8], [16, 1]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_product(widths, dtype):
    rng = np.random.default_rng(len(widths))
    for size in (1, 6, 17, 300):
        tables = [make(rng, (size, width), dtype) for width in widths]
        X = make(rng, (100, sum(widths)), dtype)
        for n in N_ROWS:
            for wanted in (np.intp, np.uint16):
                codes = nearest_product(X[:n], Tables(tables), dtype=wanted)
                assert codes.dtype == wanted
                start = 0
                for j, table in enumerate(tables):
                    stop = start + widths[j]
                    check_codes(
                        codes[:, j].astype(np.intp),
                        distances(X[:n, start:stop], table),
                        dtype,
                    )
                    start = stop


@pytest.mark.parametrize("dtype", "u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8 ? >f4 >i2".split())
def test_types(dtype):
    """Every type that has one of its own, and those that have not."""
    rng = np.random.default_rng(0)
    X = (
        make(rng, (50, 11), np.float64) > 0
        if dtype == "?"
        else make(rng, (50, 11), "i2")
    )
    X = X.astype(dtype)
    table = X[:9].astype(np.float64) + 0.25
    codes, _ = nearest(X, table.astype(np.float32))
    assert_array_equal(codes, distances(X, table).argmin(axis=1))
    sums, counts = accumulate(X, codes, 9)
    assert_array_equal(counts, np.bincount(codes, minlength=9))
    assert_allclose(sums, [X[codes == k].sum(axis=0, dtype=float) for k in range(9)])


def strided(X):
    """The same rows in memory of all kinds."""
    yield "columns", np.asfortranarray(X)
    yield "negative", X[::-1].copy()[::-1]
    yield "backwards", X[:, ::-1].copy()[:, ::-1]
    wide = np.zeros((len(X) * 2, X.shape[1] * 3), X.dtype)
    wide[::2, ::3] = X
    yield "steps", wide[::2, ::3]
    odd = np.zeros(X.nbytes + 1, np.uint8)[1:].view(X.dtype).reshape(X.shape)
    odd[...] = X
    yield "unaligned", odd
    packed = np.zeros(len(X), np.dtype([("tag", "u1"), ("x", X.dtype, X.shape[1])]))
    packed["x"] = X
    yield "odd strides", packed["x"]
    fixed = X.copy()
    fixed.flags.writeable = False
    yield "read-only", fixed
    yield "repeated", np.broadcast_to(X[:1], X.shape)
    yield "repeated columns", np.broadcast_to(X[:, :1], X.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_strides(dtype):
    rng = np.random.default_rng(0)
    X, table = make(rng, (40, 9), dtype), make(rng, (13, 9), np.float32)
    tables = [table[:, :4], table[:, 4:]]
    for name, given in strided(X):
        plain = np.array(given)
        assert_array_equal(nearest(given, table)[0], nearest(plain, table)[0], name)
        assert_array_equal(
            nearest_product(given, tables), nearest_product(plain, tables), name
        )
        codes = np.arange(40) % 5
        assert_array_equal(
            accumulate(given, codes, 5)[0], accumulate(plain, codes, 5)[0], name
        )


def test_equal_codewords_give_the_first():
    rng = np.random.default_rng(0)
    for size in (12, 13, 40):
        table = make(rng, (size, 5), np.float32)
        table[size // 2] = table[3]
        table[-1] = table[1]
        assert_array_equal(nearest(table, table)[0][[-1, size // 2]], [1, 3])
        assert_array_equal(nearest_product(table, [table])[[-1, size // 2], 0], [1, 3])


def test_ties_of_different_codewords_give_the_first():
    X = np.zeros((60, 3), np.float32)
    table = np.zeros((14, 3), np.float32)
    table[:, 0] = np.where(np.arange(14) % 2, 1, -1) * 2.0
    table[0, 0] = 9
    for n in (1, 60):
        assert_array_equal(nearest(X[:n], table)[0], np.full(n, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 3, 8, 19])
def test_beam(dtype, d):
    """What is left of rows by the sums found is as little as NumPy's engine leaves."""
    rng = np.random.default_rng(d)
    for size in (1, 3, 17, 70):
        tables = [make(rng, (size, d), dtype) / 2**j for j in range(3)]
        X = make(rng, (30, d), dtype)
        for n in (0, 1, 5, 30):
            for beam_size, n_best in ((1, 1), (4, 1), (4, 3), (33, 20)):
                codes, found = nearest_best(X[:n], tables, beam_size, n_best=n_best)
                with using("numpy"):
                    expected = nearest_best(X[:n], tables, beam_size, n_best=n_best)
                assert codes.shape == expected[0].shape
                assert_allclose(found, expected[1], rtol=1e-3, atol=1e-6)


def best_sums(x, tables, beam_size, n_best):
    """The best sums of a row, by all candidates; of equals the first by their codes."""
    paths, left = np.zeros((1, 0), int), x[None].astype(np.float64)
    for j, table in enumerate(tables):
        last = j == len(tables) - 1
        gaps = left[:, None] - table.astype(np.float64)
        errors = np.square(gaps).sum(axis=2).ravel()
        best = np.argsort(errors, kind="stable")[: n_best if last else beam_size]
        if not last:
            best.sort()
        parent, code = np.divmod(best, len(table))
        paths = np.concatenate([paths[parent], code[:, None]], axis=1)
        left = gaps[parent, code]
    return paths, errors[best]


@pytest.fixture
def ways(monkeypatch):
    """Beam searches by look-up wherever there are products, or not at all."""

    def search(way, *args, **options):
        cost = {"look-up": -(10**9), "direct": 10**9}[way]
        monkeypatch.setattr("skvq.nearest.backends.native._LOOK_UP", cost)
        return nearest_best(*args, **options)

    return search


@pytest.mark.parametrize("way", ["look-up", "direct"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 3, 8, 19])
def test_beam_finds_the_best_of_all_candidates(way, dtype, d, ways):
    rng = np.random.default_rng(d)
    for sizes in ((1, 1), (3, 5, 2, 4), (16, 17, 31), (63, 64, 65), (129, 7, 70)):
        tables = [make(rng, (size, d), dtype) / 2**j for j, size in enumerate(sizes)]
        # The last row is far from all.
        X = make(rng, (14, d), dtype)
        X[-1] *= 1000
        for beam_size in (1, 2, 5, 8, 33, 40):
            most = min(beam_size, np.prod(np.minimum(sizes[:-1], beam_size)))
            for n_best in {1, min(3, most * sizes[-1])}:
                codes, found = ways(way, X, tables, beam_size, n_best=n_best)
                expected = [best_sums(x, tables, beam_size, n_best) for x in X]
                errors = np.array([error for _, error in expected])
                assert_allclose(found, errors, rtol=1e-4)
                same = [
                    (own == best).all()
                    for own, (best, _) in zip(codes, expected, strict=True)
                ]
                assert np.mean(same) > 0.9


@pytest.mark.parametrize("way", ["look-up", "direct"])
@pytest.mark.parametrize("beam_size", [2, 7, 40])
def test_beam_of_equal_sums_takes_the_first(way, beam_size, ways):
    """Numbers so small that everything is exact, and many sums are equal."""
    rng = np.random.default_rng(0)
    tables = [rng.integers(-2, 3, (12, 3)).astype(np.float32) for _ in range(4)]
    # Of equal codewords only the first is a candidate.
    tables = [np.unique(table, axis=0) for table in tables]
    # Something is left of every row: others are settled by another search.
    X = rng.integers(-4, 5, (60, 3)).astype(np.float32) + np.float32(0.5)
    codes, found = ways(way, X, tables, beam_size, n_best=2)
    expected = [best_sums(x, tables, beam_size, 2) for x in X]
    assert_array_equal(found, [errors for _, errors in expected])
    assert_array_equal(codes, [best for best, _ in expected])


def test_beams_by_look_up_do_not_depend_on_other_rows(ways):
    rng = np.random.default_rng(0)
    tables = Tables([make(rng, (70, 16), np.float32) / 2**j for j in range(5)])
    X = make(rng, (60, 16), np.float32)
    for beam_size in (2, 5, 33):
        codes, found = ways("look-up", X, tables, beam_size)
        for i in range(len(X)):
            for own, alone in zip(
                (codes, found),
                ways("look-up", X[i:][:1], tables, beam_size),
                strict=True,
            ):
                assert_array_equal(own[i : i + 1], alone)


def test_what_is_looked_up_follows_from_the_tables(monkeypatch):
    rng = np.random.default_rng(0)
    made = []
    products = NativeBackend._products

    def noted(*args):
        made.append(args)
        return products(*args)

    monkeypatch.setattr(NativeBackend, "_products", noted)

    def looks_up(d, beam_size, **options):
        made.clear()
        tables = [make(rng, (40, d), np.float32) / 2**j for j in range(3)]
        X = make(rng, (3, d), np.float32)
        nearest_best(X, tables, beam_size, **options)
        return bool(made)

    assert looks_up(64, 5)
    assert looks_up(64, 5, stage_weights=[1.0, 1.0, 1.0])
    assert not looks_up(64, 1)
    assert not looks_up(8, 5)
    assert not looks_up(64, 5, bias=[np.zeros(40)] * 3)
    monkeypatch.setattr("skvq.nearest.backends.native._PRODUCT_BYTES", 0)
    assert not looks_up(64, 5)


@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 2.0, 1.0]])
def test_beams_by_look_up_with_an_offset_and_weights(weights, ways):
    rng = np.random.default_rng(0)
    for offset in (0, 100):
        tables = [rng.normal(size=(40, 12)) * 0.5**j + offset for j in range(4)]
        tables = [table.astype(np.float32) for table in tables]
        X = (rng.normal(size=(50, 12)) + 4 * offset).astype(np.float32)
        options = {"n_best": 2, "stage_weights": weights}
        one, other = (
            ways(way, X, tables, 6, **options) for way in ("look-up", "direct")
        )
        assert_allclose(one[1], other[1], rtol=1e-4)
        assert (one[0] == other[0]).mean() > 0.98


@pytest.mark.parametrize("way", ["look-up", "direct"])
def test_rows_near_the_first_codeword_are_searched_once(way, ways, monkeypatch):
    """Of which it leaves a thousandth: their order is settled by distances."""
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(40, 32)) * 0.03 * 0.9**j for j in range(4)]
    tables[0] = rng.normal(size=(40, 32))
    X = tables[0][rng.integers(40, size=200)] + 0.03 * rng.normal(size=(200, 32))
    tables = [table.astype(np.float32) for table in tables]

    def again(*args):
        raise AssertionError("Rows are searched twice.")

    monkeypatch.setattr("skvq.nearest.searches.beam._again", again)
    X = X.astype(np.float32)
    codes = ways(way, X, tables, 6, return_distances=False)[0]
    assert_array_equal(codes, [best_sums(x, tables, 6, 1)[0] for x in X])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_improve(dtype):
    rng = np.random.default_rng(0)
    tables = [make(rng, (size, 7), dtype) for size in (5, 17, 1)]
    X = make(rng, (60, 7), dtype)
    codes = np.zeros((60, 3), int)
    found = improve_sums(X, tables, codes, n_rounds=3)
    with using("numpy"):
        expected = improve_sums(X, tables, codes, n_rounds=3)
    assert_array_equal(found[0], expected[0])
    assert_allclose(found[1], expected[1], rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_sums(weighted):
    rng = np.random.default_rng(0)
    for n in N_ROWS:
        for d in WIDTHS:
            X = make(rng, (n, d), np.float32)
            codes = rng.integers(7, size=n)
            weights = rng.random(n) if weighted else None
            sums, counts = accumulate(X, codes, 7, weights=weights)
            w = np.ones(n) if weights is None else weights
            chosen = (codes == np.arange(7)[:, None]) * w
            assert_allclose(sums, chosen @ X.astype(float), atol=1e-12)
            assert_allclose(counts, chosen.sum(axis=1))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_a_search(weighted, dtype, monkeypatch):
    """They are those of `accumulate`, to the bit, and found in one pass."""
    rng = np.random.default_rng(0)
    shapes = [(n, d) for n in N_ROWS for d in (1, 2, 5, 32, 40)] + [(70_000, 8)]
    passes = []
    inner = NativeBackend.nearest_cells

    def noted(*args):
        passes.append(inner(*args))
        return passes[-1]

    monkeypatch.setattr(NativeBackend, "nearest_cells", noted)
    for n, d in shapes:
        X, table = make(rng, (n, d), dtype), make(rng, (70, d), dtype)
        table[60] = table[2]
        weights = rng.random(n) if weighted else None
        bias = rng.random(70) if d == 5 else None
        given = Table(table)
        dtypes = (np.uint8, np.uint16, np.intp)
        for rows, code in zip([X, X[::-1], np.asfortranarray(X)], dtypes, strict=True):
            own = None if weights is None else weights[::-1]
            codes, sums, counts = nearest_cells(
                rows, given, bias=bias, weights=own, dtype=code
            )
            assert codes.dtype == code
            expected, _ = nearest(rows, given, bias=bias, return_distances=False)
            assert_array_equal(codes, expected)
            expected = accumulate(rows, codes, 70, weights=own)
            assert sums.tobytes() == expected[0].tobytes()
            assert counts.tobytes() == expected[1].tobytes()
    assert len(passes) == 3 * len(shapes)


@pytest.mark.parametrize("biased", [False, True])
def test_sums_of_rows_that_are_searched_again(biased, monkeypatch):
    """A row that float32 cannot square is added to the code that is right."""
    rng = np.random.default_rng(0)
    X, table = make(rng, (50, 6), np.float32), make(rng, (9, 6), np.float32)
    X[7] = 3e19 * table[4]
    bias = rng.random(9) if biased else None
    expected, _ = nearest(X, table, bias=bias, return_distances=False)
    # Only such rows are searched again.
    monkeypatch.setattr("skvq.nearest.nearest", None)
    codes, sums, counts = nearest_cells(X, Table(table), bias=bias, dtype=np.uint8)
    assert codes.dtype == np.uint8
    assert_array_equal(codes, expected)
    expected = accumulate(X, codes, 9)
    assert_array_equal(sums, expected[0])
    assert_array_equal(counts, expected[1])


def test_bias_of_sums_is_checked():
    X = np.ones((5, 3), np.float32)
    with pytest.raises(ValueError, match="bias contains NaN"):
        nearest_cells(X, Table(X[:2] * [[1], [2]]), bias=[0, np.nan])


def test_few_sums_do_not_hold_threads_back(monkeypatch):
    """Sums are cut into fewer parts than searches, which more threads can share."""
    rng = np.random.default_rng(0)
    X, table = make(rng, (20_000, 32), np.float32), make(rng, (4096, 32), np.float32)
    found, passes = [], []
    inner = NativeBackend.nearest_cells

    def noted(*args):
        passes.append(args)
        return inner(*args)

    monkeypatch.setattr(NativeBackend, "nearest_cells", noted)
    for limit in (2, 64):
        monkeypatch.setattr("skvq.nearest.backends.native.n_threads", lambda n=limit: n)
        found.append(nearest_cells(X, Table(table)))
        assert len(passes) == 1
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("n", [1, 50])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_infinite_rows_are_refused(n, value, size):
    """Their codes are in the table until then."""
    table = np.resize(np.eye(3, dtype=np.float32), (size, 3))
    table[-1] = table[0]  # equal codewords
    X = np.zeros((n, 3), np.float32)
    X[-1, 1] = value
    searches = [
        lambda: nearest(X, table),
        lambda: nearest(X, table, "inner_product"),
        lambda: nearest_product(X, [table[:, :2], table[:, 2:]]),
        lambda: nearest_best(X, [table, table], 1),
        lambda: nearest_best(X, [table, table], 4, n_best=min(2, size)),
        lambda: improve_sums(X, [table, table], np.zeros((n, 2), int), n_rounds=1),
    ]
    for search in searches:
        with pytest.raises(ValueError):
            search()
    with pytest.raises(ValueError, match="zero"):
        nearest(np.zeros((n, 3), np.float32), np.ones((size, 3), np.float32), "cosine")


def test_tables_stored_by_columns():
    rng = np.random.default_rng(0)
    X = make(rng, (30, 5), np.float32)
    tables = [make(rng, (7, 5), np.float32) for _ in range(3)]
    codes = rng.integers(7, size=(30, 3))

    def found(tables):
        yield nearest(X, tables[0])
        yield nearest_product(np.hstack([X, X]), tables[:2])
        yield nearest_best(X, tables, 2)
        yield nearest_best(X, tables, 2, begin=codes[:, None, :1])
        yield improve_sums(X, tables, codes, n_rounds=2)

    by_columns = [np.asfortranarray(table) for table in tables]
    for one, other in zip(found(tables), found(by_columns), strict=True):
        for a, b in zip(one, other, strict=True):
            assert_array_equal(a, b)


@pytest.mark.parametrize("d", [1, 2])
def test_narrow_rows_of_many_magnitudes(d):
    """Squares of small differences leave the range of float32."""
    rng = np.random.default_rng(d)
    for size in (64, 256):
        table = rng.normal(size=(size, d)) * 10.0 ** rng.uniform(-26, 2, (size, 1))
        table = table.astype(np.float32)
        X = (table[rng.integers(size, size=400)] * 1.001).astype(np.float32)
        for n in (1, 400):
            check_codes(nearest(X[:n], table)[0], distances(X[:n], table), np.float32)
            codes = nearest_product(X[:n], [table])[:, 0]
            check_codes(codes, distances(X[:n], table), np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, ">f4"])
def test_distances_of_pairs(dtype):
    rng = np.random.default_rng(0)
    for d in (1, 5, 8, 33):
        X, table = make(rng, (40, d), dtype), make(rng, (13, d), np.float32)
        codes = rng.integers(0, 13, 40)
        for name, given in strided(X):
            expected = distances(given, table)[np.arange(40), codes]
            found = paired(given, table, codes=codes)
            assert_allclose(found, expected, rtol=1e-13, err_msg=name)
            assert_array_equal(paired(given, table[codes]), found, name)
            # In a table of more rows than there are samples, too.
            long = np.concatenate([table, np.zeros((99, d), np.float32)])
            assert_array_equal(paired(given, long, codes=codes), found, name)
            assert (
                paired(given, table, codes=codes[::-1])[3]
                == (paired(given[[3]], table, codes=codes[::-1][[3]])[0])
            )


def hard_cases():
    """Rows and tables that integers of 16 bits hardly tell apart, or do not."""
    for seed in range(90):
        rng = np.random.default_rng(seed)
        d = int(rng.choice([1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 64]))
        size, n = int(rng.choice([32, 33, 47, 64, 100])), int(rng.choice([13, 49, 300]))
        table = rng.normal(size=(size, d))
        if seed % 9 == 1:
            table *= 10.0 ** rng.integers(-12, 1, (size, 1))
        elif seed % 9 == 2:
            table = 1e-3 * table + 5
        elif seed % 9 == 3:
            table = np.round(4 * table)
        elif seed % 9 == 4:
            table[0] *= 1e4
        elif seed % 9 == 5:
            table = table[rng.integers(0, size // 3, size)]
            table += 1e-5 * rng.normal(size=table.shape)
        elif seed % 9 == 6:
            table *= rng.choice([1e18, 1e-18])
        one, other = table[rng.integers(0, size, (2, n))]
        size_of_noise = rng.choice([0, 1e-6, 0.1, 1, 3]) * np.abs(table).mean()
        X = one + size_of_noise * rng.normal(size=one.shape)
        if seed % 9 == 7:
            X[::2] = 0.5 * (one[::2] + other[::2])
        elif seed % 9 == 8:
            X[::2] *= 100
        yield X.astype(np.float32), table.astype(np.float32)


def test_integers_find_the_codes_of_floats(monkeypatch):
    cases = list(hard_cases())
    half = [X.shape[1] // 2 for X, _ in cases]

    def codes():
        for (X, table), at in zip(cases, half, strict=True):
            for metric in ("sqeuclidean", "cosine", "inner_product"):
                if metric == "cosine" and not (
                    X.any(axis=1).all() and table.any(1).all()
                ):
                    continue
                yield nearest(X, Table(table), metric)
                yield nearest(X, Table(table), metric, return_distances=False)
            slices = [table[:, :at], table[:, at:]] if at else [table]
            yield (nearest_product(X, Tables(slices)),)
            yield nearest_best(X, Tables([table, 0.5 * table]), beam_size=1)[:2]

    found = list(codes())
    monkeypatch.setattr(NativeBackend, "_integers", lambda *_: None)
    for some, others in zip(found, codes(), strict=True):
        for one, other in zip(some, others, strict=True):
            assert_array_equal(one, other)


def test_rows_near_the_centre():
    """Some units of the integers away, among codewords that become the same."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        for d in (1, 2, 5):
            every = rng.normal(size=(370, d)) * 10.0 ** rng.integers(-9, 1, (370, 1))
            table, X = np.split(every.astype(np.float32), [70])
            check_codes(nearest(X, table)[0], distances(X, table), np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6])
def test_rows_out_of_reach(bad):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(64, 6)).astype(np.float32)
    X = rng.normal(size=(100, 6)).astype(np.float32)
    expected = nearest(X, table)[0]
    X[17, 3] = bad
    if np.isfinite(bad):
        others = np.arange(100) != 17
        assert_array_equal(nearest(X, table)[0][others], expected[others])
        assert nearest(X, table)[0][17] == distances(X, table)[17].argmin()
    else:
        with pytest.raises(ValueError, match=r"NaN|inf"):
            nearest(X, table)


def test_which_tables_become_integers():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(64, 6)).astype(np.float32)
    backend = engine_of(table)
    if native.status().level not in ("v3", "v4"):
        pytest.skip("floats are as fast here")

    def packed(*arguments):
        (form,) = arguments
        return bool(backend.sent(form, "flat").packed.codebook.words)

    def form(table, metric="sqeuclidean", dtype=np.float32, bias=None):
        return flat_form(Table(table), metric, np.dtype(dtype), bias)

    assert packed(form(table))
    assert packed(form(table, "cosine"))
    assert not packed(form(table, dtype=np.float64))
    assert not packed(form(table, bias=np.arange(64.0)))
    assert not packed(form(table + 1, "inner_product"))
    assert not packed(form(table[:20]))
    assert not packed(form(table[:, :1]))
    assert not packed(form(np.zeros((64, 6), np.float32)))


def test_steps_without_look_up(monkeypatch):
    """Of tables whose products are too many to keep."""
    rng = np.random.default_rng(0)
    X, tables = make(rng, (60, 7), np.float32), make(rng, (3, 17, 7), np.float32)
    codes = np.zeros((60, 3), int)
    expected = improve_sums(X, list(tables), codes, n_rounds=3)
    monkeypatch.setattr("skvq.nearest.backends.native._PRODUCT_BYTES", 0)
    found = improve_sums(X, list(tables), codes, n_rounds=3)
    assert_array_equal(found[0], expected[0])
    assert_allclose(found[1], expected[1], rtol=1e-6)


class Flushing:
    """Denormal numbers are zeros to this thread, as some libraries leave it."""

    def __enter__(self):
        self.library = ctypes.CDLL(None)
        self.before = (ctypes.c_char * 32)()
        self.library.fegetenv(self.before)
        changed = bytearray(bytes(self.before))
        # MXCSR is the last word of x86-64's environment; both switches of flushing.
        changed[28:32] = (int.from_bytes(changed[28:32], "little") | 0x8040).to_bytes(
            4, "little"
        )
        self.library.fesetenv((ctypes.c_char * 32).from_buffer(changed))

    def __exit__(self, *_):
        self.library.fesetenv(self.before)


@pytest.mark.skipif(native.status().level == "neon", reason="the switch is x86's")
def test_flush_to_zero_changes_nothing():
    """Codewords that a denormal number tells apart."""
    table = Table(np.array([[0.0], [2e-40], [1.0]], np.float32))
    X = np.full((20, 1), 2e-40, np.float32)
    expected = nearest(X, table, return_distances=False)[0]
    assert_array_equal(expected, np.ones(20))
    edges = [np.arange(1, 50, dtype=np.float32) * np.float32(1e-42)]
    cells = cells_between(X, edges)
    with Flushing():
        # Or the test says nothing.
        assert np.float32(1e-30) * np.float32(1e-10) == 0
        found = nearest(X, table, return_distances=False)[0]
        found_cells = cells_between(X, edges)
        assert np.float32(1e-30) * np.float32(1e-10) == 0
    assert_array_equal(found, expected)
    assert_array_equal(found_cells, cells)


def test_threads_change_nothing(monkeypatch):
    """As many are used as there may be, each of which takes a part."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60_000, 32)).astype(np.float32)
    table, codes = X[:40], np.arange(len(X)) % 40
    memory = NativeBackend.memory
    searches = [
        lambda: nearest(X, table),
        lambda: (nearest_product(X, [table[:, :16], table[:, 16:]]),),
        lambda: accumulate(X, codes, 40),
    ]
    for search in searches:
        found = []
        for limit in (1, 2):
            used, together = set(), threading.Barrier(limit)

            def noted(n_bytes, used=used, together=together):
                if threading.get_ident() not in used:
                    used.add(threading.get_ident())
                    # Or one might have done everything before another begins.
                    together.wait(timeout=60)
                return memory(n_bytes)

            monkeypatch.setattr(NativeBackend, "memory", staticmethod(noted))
            with threadpool_limits(limit):
                found.append(search())
            assert len(used) == limit
        for one, two in zip(*found, strict=True):
            assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("dtype", "exponent"), [("f4", -110), ("f4", 55), ("f8", -900), ("f8", 450)]
)
def test_distances_in_scaled_tables(dtype, exponent, monkeypatch):
    """They come from the kernel, whatever the scale, and of equal codewords as well."""
    monkeypatch.setattr(NativeBackend, "distances_of", None)
    rng = np.random.default_rng(0)
    for d in (1, 3, 16):
        X, table = make(rng, (60, d), np.float32), make(rng, (40, d), np.float32)
        table[30:] = table[:10]
        D = distances(X, table)
        X, table = (np.ldexp(each.astype(dtype), exponent) for each in (X, table))
        for n in (5, 60):
            codes, found = nearest(X[:n], table)
            assert_array_equal(codes, D[:n].argmin(axis=1))
            expected = np.ldexp(D[:n].min(axis=1), 2 * exponent)
            assert_allclose(found, expected, rtol=1e-12, atol=0)
            codes = nearest_product(np.hstack([X[:n]] * 2), [table] * 2)
            assert_array_equal(codes, D[:n].argmin(axis=1)[:, None].repeat(2, axis=1))


@pytest.mark.parametrize("name", ["numpy", "native"])
def test_cosines_of_nearly_parallel_codewords(name):
    """They are closer to each other than unit rows in float32 are to themselves."""
    # Eighths, of which the table's scale is that of the last column.
    table = np.full((4, 6), (1, 1, 1, 5, 6, 0), np.float32)
    table[:, -1] = [1e-11, 3e-11, 1e-11, 7e-11]
    X = np.float32(1.1) * table[[0, 1, 3]]
    X[:, -1] *= np.float32(1.2)
    x, w = (
        each / np.linalg.norm(each, axis=1, keepdims=True)
        for each in (X.astype(np.longdouble), table.astype(np.longdouble))
    )
    with using(name):
        codes, found = nearest(np.repeat(X, 20, axis=0), table, "cosine")
    D = ((x[:, None] - w[None]) ** 2).sum(axis=2).astype(float) / 2
    assert_array_equal(codes, np.repeat(D.argmin(axis=1), 20))
    assert_allclose(found, np.repeat(D.min(axis=1), 20), rtol=1e-3)


@pytest.mark.parametrize("scaled", [False, True])
def test_inner_products_with_equal_codewords(scaled):
    rng = np.random.default_rng(0)
    X, table = make(rng, (60, 5), np.float32), make(rng, (40, 5), np.float32)
    table[30:] = table[:10]
    table *= np.float32(1e-30 if scaled else 1)
    table, expected = Table(table), X.astype(float) @ table.T.astype(float)
    for _ in range(2):
        codes, found = nearest(X, table, "inner_product")
        assert_array_equal(codes, expected.argmax(axis=1))
        assert_allclose(found, -expected.max(axis=1), rtol=1e-5)


# -- cells of scalar levels ------------------------------------------------------------


def beside(values, dtype):
    """The finite numbers of a dtype at values, and next to them."""
    with np.errstate(over="ignore"):
        x = np.asarray(values, np.float64).astype(dtype)
        x = np.concatenate([x, np.nextafter(x, -np.inf), np.nextafter(x, np.inf)])
    return x[np.isfinite(x)]


def columns_of(values, n, rng):
    """Rows of which each column has numbers of its own, over and over."""
    parts = [rng.permutation(np.resize(rng.permutation(x), n)) for x in values]
    return np.stack(parts, axis=1)


def reached(X, edges):
    pairs = zip(edges, X.T.astype(np.float64), strict=True)
    found = [np.searchsorted(edge, x, side="right") for edge, x in pairs]
    return np.stack(found, axis=1)


# Numbers of edges of the columns in turn: none, counted, looked up; one long column.
N_EDGES = [[0], [1, 0, 3], [32, 5], [33, 1, 0, 40], [299], [0, 0, 0, 70]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 8, 9, 40])
def test_cells_between(dtype, d):
    rng = np.random.default_rng(d)
    for n_edges in N_EDGES:
        # Some are equal, and of several magnitudes: all in one bucket but a few.
        scales = 10.0 ** rng.uniform(-9, 4, 2)
        edges = [
            np.sort(np.rint(rng.normal(size=size) * 200) * rng.choice(scales, size))
            for size in np.resize(n_edges, d)
        ]
        X = columns_of([beside([*edge, 0, 1], dtype) for edge in edges], 100, rng)
        expected = reached(X, edges)
        prepared = Columns(edges)
        for n, wanted in zip(N_ROWS, cycle([np.uint16, np.uint32, np.intp])):
            codes = cells_between(X[:n], prepared, wanted)
            assert codes.dtype == wanted
            assert_array_equal(codes, expected[:n])
        if max(n_edges) < 256:
            assert_array_equal(cells_between(X, prepared, np.uint8), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 8, 9, 40])
def test_equal_cells(dtype, d):
    rng = np.random.default_rng(d)
    low = np.resize([-3.0, 0.0, 0.1, 5.0, -1e5, 1e6], d)
    high = low + np.resize([6.0, 256.0, 0.2, 0.0, 3e5, 1.0], d)
    for sizes in ([1], [7, 256], [300, 2, 1], [2**18 + 1, 5, 1000]):
        cells = EqualCells(low, high, tuple(map(int, np.resize(sizes, d))))
        edges = [
            a + np.arange(1, size) * (b - a) / size if b > a else np.zeros(0)
            for a, b, size in zip(low, high, cells.sizes, strict=True)
        ]
        some = [beside([*rng.permutation(edge)[:50], 0, 1e4], dtype) for edge in edges]
        X = columns_of(some, 100, rng)
        expected = reached(X, edges)
        for n, wanted in zip(N_ROWS, cycle([np.uint32, np.intp])):
            assert_array_equal(equal_cells(X[:n], cells, wanted), expected[:n])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cells_of_rows_in_memory_of_all_kinds(dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 9)).astype(dtype)
    cells = EqualCells(np.full(9, -2.0), np.full(9, 2.0), (5, 16, 300) * 3)
    for size in (3, 60):
        edges = Columns([np.sort(rng.normal(size=size)) for _ in range(9)])
        for name, given in [*strided(X), ("swapped", X.astype(X.dtype.newbyteorder()))]:
            plain = np.array(given, dtype)
            codes = cells_between(given, edges, ">u2")
            assert_array_equal(codes, reached(plain, edges.arrays), name)
            codes = equal_cells(given, cells)
            assert_array_equal(codes, equal_cells(plain, cells), name)


def test_cells_at_the_ends_of_the_dtype():
    """Of ranges that overflow, or are denormal; and of more cells than are compiled."""
    for low, high in [(-1.7e308, 1.7e308), (0.0, 1e-310), (-3e38, 3e38), (0.0, 4e-45)]:
        for size in (7, 2**32):
            cells = EqualCells(np.full(2, low), np.full(2, high), (size, 3))
            shares = np.linspace(0, 1, 30)
            X = np.stack([low * (1 - shares) + high * shares] * 2, axis=1)
            for dtype in (np.float32, np.float64):
                with np.errstate(over="ignore"):
                    x = X.astype(dtype)
                x = x[np.isfinite(x).all(axis=1)]
                found = equal_cells(x, cells)
                with using("numpy"):
                    assert_array_equal(found, equal_cells(x, cells))
        for size in (3, 60):
            edges = [np.linspace(low / 2, high / 2, size)] * 2
            assert_array_equal(cells_between(X, edges), reached(X, edges))


# -- packed codes ----------------------------------------------------------------------


def packed_plainly(codes, sizes, row_aligned):
    """The bits as text, then as bytes."""
    widths = [(size - 1).bit_length() for size in sizes]
    rows = []
    for row in codes.tolist():
        pairs = zip(row, widths, strict=True)
        rows.append("".join(f"{code:0{width}b}" for code, width in pairs if width))
    if not row_aligned:
        rows = ["".join(rows)]
    text = "".join(row + "0" * (-len(row) % 8) for row in rows)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


@pytest.mark.parametrize("row_aligned", [True, False])
@pytest.mark.parametrize("most", [2, 300, 2**16, 2**32])
def test_packed_codes(row_aligned, most):
    rng = np.random.default_rng(most)
    for m in (1, 2, 3, 8, 40):
        bits = rng.integers(0, most.bit_length(), size=m)
        sizes = [*(1 + rng.integers(0, 2**bits)).tolist()[1:], most]
        codes = np.stack([rng.integers(0, size, 100) for size in sizes], axis=1)
        for n in N_ROWS:
            expected = packed_plainly(codes[:n], sizes, row_aligned)
            packed = pack(codes[:n], sizes, row_aligned=row_aligned)
            assert_array_equal(packed.ravel(), expected)
            found = unpack(packed, sizes, row_aligned=row_aligned, n_samples=n)
            assert_array_equal(found, codes[:n])
        for name, given in strided(codes):
            if not name.startswith("repeated"):
                packed = pack(given, sizes, row_aligned=row_aligned)
                assert_array_equal(packed.ravel(), expected, name)


@pytest.mark.parametrize("dtype", "u1 i1 u2 i2 u4 i4 u8 i8 >u2 >i8".split())
def test_packed_codes_of_all_types(dtype):
    rng = np.random.default_rng(0)
    sizes = (120, 1, 5, 100, 2)
    codes = np.stack([rng.integers(0, size, 60) for size in sizes], axis=1)
    for method in ("columns", "radix"):
        with using("numpy"):
            expected = pack(codes, sizes, method=method)
        found = pack(codes.astype(dtype), sizes, method=method)
        assert_array_equal(found, expected)
        for name, given in strided(found):
            if not name.startswith("repeated"):
                assert_array_equal(unpack(given, sizes, method=method), codes, name)


# -- both engines of the host ----------------------------------------------------------


@pytest.fixture(params=["numpy", "native"])
def engine(request):
    with using(request.param):
        yield request.param


def test_more_edges_than_float32_tells_apart(engine):
    n = 2**22
    X = np.array([[5e6, 5e6], [0, n - 1]], np.float32)
    edges = np.arange(n, dtype=np.float32)
    assert_array_equal(cells_between(X, [edges, edges]), [[n, n], [1, n]])


def test_cells_of_what_may_be_given(engine):
    assert cells_between([[1], [2]], [[0.5, 2]]).tolist() == [[1], [2]]
    assert cells_between(np.zeros((3, 0)), []).shape == (3, 0)
    with pytest.raises(ValueError, match=r"edges\[1\] are not in ascending order"):
        cells_between(np.zeros((2, 2)), [[1.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match=r"edges\[0\] has shape \(1, 1\)"):
        cells_between(np.zeros((2, 1)), [[[1.0]]])


def test_sums_of_rows_without_features(engine):
    sums, counts = accumulate(np.zeros((3, 0)), [0, 1, 1], 2)
    assert sums.shape == (2, 0)
    assert_array_equal(counts, [1, 2])


def test_products_beyond_the_dtype(engine):
    x = np.array([[1e20]], np.float32)
    codes, found = nearest(x, x, "inner_product")
    assert_array_equal(codes, [0])
    assert_allclose(found, [-1e40], rtol=1e-6)


def test_a_table_that_is_exact_beside_one_that_is_not(engine):
    """The codes of the first are those of it alone."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(4000, 4)) + 300).astype(np.float32)
    table = (rng.normal(size=(64, 4)) + 300).astype(np.float32)
    rough = table.copy()
    rough[0] = -300
    tables = Tables([Table(rough, exact=False), Table(rough)])
    codes = nearest_product(np.hstack([X, X]), tables)
    assert_array_equal(codes[:, 1], distances(X, rough).argmin(axis=1))


@pytest.mark.parametrize("far", [1e20, 1e22, 1e23, 1e25])
def test_several_sums_beside_a_far_codeword(engine, far):
    rng = np.random.default_rng(0)
    table = make(rng, (16, 20), np.float32)
    X, table[-1] = make(rng, (5, 20), np.float32), far
    codes, found = nearest_best(X, [table], 8, n_best=2)
    expected = np.sort(distances(X, table), axis=1)[:, :2]
    assert_allclose(found, expected, rtol=1e-5)
    assert_array_equal(codes[:, 0, 0], distances(X, table).argmin(axis=1))


def test_weights_of_stages_are_checked(engine):
    X, tables = np.ones((2, 3)), [np.eye(3), np.eye(3)]
    for weights in ([1, 0], [1], [1, 1, 1], [np.nan, 1], [-1, 1], ["a", 1]):
        with pytest.raises(ValueError, match="stage_weights"):
            nearest_best(X, tables, 2, stage_weights=weights)
    with pytest.raises(ValueError, match="at least one sum"):
        nearest_best(X, tables, 2, begin=np.zeros((2, 0, 1), int))
    for search in (
        lambda: nearest_best(X, [], 2),
        lambda: nearest_product(X, []),
        lambda: improve_sums(X, [], np.zeros((2, 0), int), n_rounds=1),
    ):
        with pytest.raises(ValueError, match="codebooks is empty"):
            search()


def test_sums_of_tiny_numbers_are_improved(engine):
    """Until none of the codes alone can be better."""
    rng = np.random.default_rng(0)
    tables = [1e-22 * rng.normal(size=(7, 3)) for _ in range(3)]
    for table in tables:
        table[0] = 1
    tables = [table.astype(np.float32) for table in tables]
    X = (1e-22 * rng.normal(size=(300, 3))).astype(np.float32)
    codes = rng.integers(1, 7, (300, 3))
    codes, _ = improve_sums(X, tables, codes, n_rounds=1, n_sweeps=12)
    left = X.astype(float) - sum(
        t[codes[:, j]].astype(float) for j, t in enumerate(tables)
    )
    for j, table in enumerate(tables):
        others = left + table[codes[:, j]].astype(float)
        assert_array_equal(distances(others, table).argmin(axis=1), codes[:, j])
