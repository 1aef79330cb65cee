"""The engine on arrays of every library, against slow computations in float64."""

import numpy as np
import oracles
import pytest
from arrays.libraries import SHAPES, library_name, load, make, put
from numpy.testing import assert_allclose, assert_array_equal

from skvq import nearest as engine
from skvq._arrays import to_host
from skvq.nearest.backends import choice
from skvq.nearest.backends import cupy as of_cupy
from skvq.nearest.backends.base import Backend

METRICS = ["sqeuclidean", "cosine", "inner_product", "manhattan", "chebyshev"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("metric", [*METRICS, "canberra"])
def test_nearest(xp, tiles, shape, metric):
    X, table = make(shape)
    codes, found = engine.nearest(put(xp, X), put(xp, table), metric)
    assert library_name(codes) == library_name(found) == xp.__name__
    oracles.assert_nearest(to_host(codes), X, table, metric, np.float32)
    best = oracles.distances(X, table, metric).min(axis=1)
    atol = oracles.rounding(X, table, metric, np.float32) + 1e-6 * (1 + np.abs(best))
    assert (np.abs(to_host(found) - best) <= atol).all()
    only, nothing = engine.nearest(
        put(xp, X), put(xp, table), metric, return_distances=False
    )
    assert nothing is None
    assert_array_equal(to_host(only), to_host(codes))
    # A table of the host will do.
    assert_array_equal(
        to_host(engine.nearest(put(xp, X), table, metric)[0]), to_host(codes)
    )


@pytest.mark.parametrize("path", ["registers", "product"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (257, 8, 256), (150, 7, 9000), (140, 33, 300), (300, 64, 129)]
)
def test_paths_of_a_flat_search(cupy, monkeypatch, path, dtype, shape):
    if path == "registers" and shape[1] > of_cupy._MAX_WIDTH:
        return
    if path == "product":
        monkeypatch.setattr(of_cupy, "_MAX_WIDTH", 0)
    X, table = make(shape, dtype=dtype)
    X[0] = X[-1] = table[-1]
    for metric in ("sqeuclidean", "cosine", "inner_product"):
        codes, found = engine.nearest(put(cupy, X), table, metric)
        oracles.assert_nearest(to_host(codes), X, table, metric, np.dtype(dtype).type)
        own = engine.paired(X, table[to_host(codes)], metric)
        assert_allclose(to_host(found), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int64"])
def test_dtypes(xp, dtype):
    if xp.__name__ == "array_api_strict" and dtype == "float16":
        dtype = "float32"  # the standard has no float16
    X, table = make((300, 4, 20))
    X, table = (np.rint(10 * np.abs(a)).astype(dtype) for a in (X, table))
    codes, found = engine.nearest(put(xp, X), put(xp, table))
    assert_array_equal(to_host(codes), oracles.first_argmin(X, table))
    assert_array_equal(to_host(found), oracles.distances(X, table).min(axis=1))


def test_scan(xp):
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (500, 3), dtype=np.uint8)
    tables, offset = rng.normal(size=(2, 3 * 256)), rng.normal(size=500)
    sizes = (256,) * 3
    expected = engine.scan(packed, sizes, tables, k=7, offset=offset)
    parts = put(xp, packed), put(xp, tables), put(xp, offset)
    found = engine.scan(parts[0], sizes, parts[1], k=7, offset=parts[2])
    assert library_name(found[0]) == library_name(found[1]) == xp.__name__
    for ours, theirs in zip(found, expected, strict=True):
        assert_array_equal(to_host(ours), theirs)
    # Tables of another library than the codes' are fetched.
    found = engine.scan(packed, sizes, parts[1], k=7, offset=parts[2])
    assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_far_from_the_origin(xp, offset):
    X = (make((2000, 8, 1))[0] + offset).astype(np.float32)
    codes, _ = engine.nearest(put(xp, X), put(xp, X[:64]))
    best = oracles.distances(X, X[:64])
    excess = best[np.arange(len(X)), to_host(codes)] - best.min(axis=1)
    assert excess.max() <= 400 * np.finfo(np.float32).eps
    assert_array_equal(to_host(codes)[:64], np.arange(64))


@pytest.mark.parametrize("exponent", [-100, 100])
def test_scales(xp, exponent):
    X, table = make((200, 5, 9))
    expected = engine.nearest(X, table)[0]
    X, table = (np.ldexp(a, exponent) for a in (X, table))
    assert_array_equal(to_host(engine.nearest(put(xp, X), table)[0]), expected)


def test_equal_codewords_give_the_first(xp, tiles):
    X, table = make((400, 7, 64))
    table = np.concatenate([table, table, table[:1]])
    assert int(to_host(engine.nearest(put(xp, X), table)[0]).max()) < 64
    tables = [table[:, :3], table[:, 3:]]
    assert int(to_host(engine.nearest_product(put(xp, X), tables)).max()) < 64


@pytest.mark.parametrize("widths", [[4, 4], [1, 2, 5], [3, 3, 2], [8]], ids=str)
def test_nearest_product(xp, tiles, widths):
    X, table = make((300, 8, 37))
    tables = np.split(table, np.cumsum(widths)[:-1], axis=1)
    codes = engine.nearest_product(put(xp, X), [put(xp, t) for t in tables])
    assert tuple(codes.shape) == (300, len(widths))
    for j, columns in enumerate(np.split(X, np.cumsum(widths)[:-1], axis=1)):
        found = to_host(codes)[:, j]
        oracles.assert_nearest(found, columns, tables[j], dtype=np.float32)


BEAMS = {
    "greedy": {"beam_size": 1},
    "rounds": {"beam_size": 4, "n_best": 3},
    "sorted": {"beam_size": 12, "n_best": 10},
    "more-than-there-are": {"beam_size": 50, "n_best": 2},
    "weights": {"beam_size": 4, "stage_weights": [1.0, 0.0, 0.5, 2.0]},
}


@pytest.mark.parametrize("options", BEAMS.values(), ids=BEAMS)
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_best(xp, tiles, options, begun, offset):
    X, table = make((30, 5, 45), dtype="float64")
    tables = np.split(table[:40] + [[offset]], 4)
    tables[2] = np.concatenate([tables[2], tables[2][:2]])  # of equals the first
    X = X + 4 * offset
    begin = None
    if begun:
        begin, _ = engine.nearest_best(X, tables[:2], 3, n_best=3)
    expected, distances = engine.nearest_best(X, tables, begin=begin, **options)
    codes, found = engine.nearest_best(
        put(xp, X),
        [put(xp, table) for table in tables],
        begin=None if begin is None else put(xp, begin),
        dtype=np.uint8,
        **options,
    )
    assert library_name(codes) == library_name(found) == xp.__name__
    assert str(codes.dtype).endswith("uint8")
    assert_array_equal(to_host(codes), expected)
    assert_allclose(to_host(found), distances, rtol=1e-6, atol=1e-6)
    only, nothing = engine.nearest_best(
        put(xp, X), tables, begin=begin, return_distances=False, **options
    )
    assert nothing is None
    assert_array_equal(to_host(only), expected)


@pytest.mark.parametrize("n_rounds", [0, 1, 6])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_improve_sums(xp, tiles, n_rounds, offset):
    X, table = make((60, 5, 45), dtype="float64")
    tables = np.split(table[:40] + [[offset]], 4)
    tables[2] = np.concatenate([tables[2], tables[2][:2]])  # of equals the first
    X = X + 4 * offset
    codes = np.random.default_rng(0).integers(0, 10, (60, 4))
    options = {"n_rounds": n_rounds, "n_replaced": 2, "seed": 3}
    expected, distances = engine.improve_sums(X, tables, codes, **options)
    found, errors = engine.improve_sums(
        put(xp, X),
        [put(xp, table) for table in tables],
        put(xp, codes),
        dtype=np.uint8,
        **options,
    )
    assert library_name(found) == library_name(errors) == xp.__name__
    assert str(found.dtype).endswith("uint8")
    assert_array_equal(to_host(found), expected)
    assert_allclose(to_host(errors), distances, rtol=1e-6, atol=1e-6)


def test_sums_that_cannot_be(xp):
    X, table = make((10, 3, 4))
    with pytest.raises(ValueError, match=r"codes has shape \(9, 2\)"):
        codes = put(xp, np.zeros((9, 2), dtype=int))
        engine.improve_sums(put(xp, X), [table, table], codes, n_rounds=1)
    with pytest.raises(ValueError, match=r"begin has shape \(9, 1, 1\)"):
        begin = np.zeros((9, 1, 1), dtype=int)
        engine.nearest_best(put(xp, X), [table, table], 1, begin=put(xp, begin))
    for huge, message in ((3e38, "overflow"), (np.nan, "X contains NaN")):
        with pytest.raises(ValueError, match=message):
            engine.nearest_best(put(xp, X + np.float32(huge)), [table, table], 2)


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("widths", [(2, 3), (3, 1, 2), (4,), (2, 2, 1, 3)], ids=str)
def test_nearest_kronecker(xp, tiles, widths, zeros, turns, monkeypatch):
    rng = np.random.default_rng([*widths, zeros])
    tables = [rng.normal(1, 1, (5, width)) for width in widths]
    tables[0] = np.concatenate([tables[0], tables[0][:2]])  # of equals the first
    if zeros:
        tables[-1][3] = 0
    X = rng.normal(1, 1, (30, np.prod(widths)))
    X[:5] = 0
    expected, distances = engine.nearest_kronecker(X, tables, return_distances=True)
    if turns:
        monkeypatch.setattr("skvq.nearest.searches.kronecker._MAX_AT_ONCE", 1)
        monkeypatch.setattr("skvq.nearest.searches.kronecker._TURN", 7)
    codes, found = engine.nearest_kronecker(
        put(xp, X), [put(xp, table) for table in tables], return_distances=True
    )
    assert library_name(codes) == library_name(found) == xp.__name__
    assert_array_equal(to_host(codes), expected)
    assert_allclose(to_host(found), distances, rtol=1e-9, atol=1e-12)
    only, nothing = engine.nearest_kronecker(put(xp, X), tables)
    assert nothing is None
    assert_array_equal(to_host(only), expected)
    with pytest.raises(ValueError, match="do not multiply"):
        engine.nearest_kronecker(put(xp, X[:, 1:]), tables)


@pytest.mark.parametrize("metric", [*METRICS, "canberra"])
def test_paired(xp, tiles, metric):
    X, table = make((150, 6, 12))
    codes = np.arange(150) % 12
    expected = oracles.paired(X, table[codes], metric)
    for found in (
        engine.paired(put(xp, X), put(xp, table[codes]), metric),
        engine.paired(put(xp, X), table, metric, codes=put(xp, codes)),
    ):
        assert_allclose(to_host(found), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_accumulate(xp, tiles, weighted):
    X, _ = make((300, 5, 9))
    codes = np.random.default_rng(0).integers(0, 8, 300)
    weights = np.random.default_rng(1).random(300) if weighted else None
    sums, counts = engine.accumulate(put(xp, X), put(xp, codes), 9, weights=weights)
    expected = oracles.sums_and_counts(X, codes, 9, weights)
    assert_allclose(to_host(sums), expected[0], rtol=1e-12, atol=1e-12)
    assert_allclose(to_host(counts), expected[1], rtol=1e-12)
    # Cells beside each other do not blur each other.
    X[codes == 3] *= 2.0**100
    again, _ = engine.accumulate(put(xp, X), codes, 9, weights=weights)
    assert_array_equal(
        to_host(again)[codes[codes != 3]], to_host(sums)[codes[codes != 3]]
    )


def test_bad_input(xp):
    X, table = make((10, 3, 4))
    X[6] = 0
    with pytest.raises(ValueError, match="row 6 of X"):
        engine.nearest(put(xp, X), table, "cosine")
    with pytest.raises(ValueError, match="3 features, the codebook has 2"):
        engine.nearest(put(xp, X), table[:, :2])
    with pytest.raises(ValueError, match="two dimensions"):
        engine.nearest(put(xp, X[0]), table)
    with pytest.raises(ValueError, match="overflow"):
        engine.nearest(put(xp, X + np.float32(3e38)), table)
    with pytest.raises(ValueError, match="NaN"):
        engine.nearest(put(xp, X * np.nan), table)
    with pytest.raises(ValueError, match="codes range from 0 to 4"):
        engine.accumulate(put(xp, X[:2]), [0, 4], 4)
    with pytest.raises(ValueError, match="add up to 4"):
        engine.nearest_product(put(xp, X), [table[:, :2], table[:, :2]])


def test_codes_out_of_range_are_refused(other):
    X, table = make((10, 3, 4))
    given, bad = put(other, X), np.full((10, 2), 4)
    with pytest.raises(ValueError, match=r"codes\[..., 0\] ranges from 4 to 4"):
        engine.improve_sums(given, [table, table], put(other, bad), n_rounds=1)
    with pytest.raises(ValueError, match=r"begin\[..., 1\] ranges from 4 to 4"):
        tables = [np.tile(table, (2, 1)), table, table]
        engine.nearest_best(given, tables, 2, begin=put(other, bad[:, None, :]))
    with pytest.raises(ValueError, match="codes"):
        engine.paired(given, table, codes=put(other, bad[:, 0] - 5))


class _Scarce(Backend):
    """A device on which tiles of more than a few rows find no memory."""

    most = 40

    def argmin(self, scores):
        if scores.shape[0] > self.most:
            raise MemoryError("out of memory")
        return super().argmin(scores)


def test_out_of_memory_halves_the_tile(monkeypatch):
    strict = load("array_api_strict")
    monkeypatch.setattr(choice, "Backend", _Scarce)
    X, table = make((1000, 5, 11))
    codes, _ = engine.nearest(put(strict, X), table)
    assert_array_equal(to_host(codes), engine.nearest(X, table)[0])
    monkeypatch.setattr(_Scarce, "most", 0)
    with pytest.raises(MemoryError, match="no memory for one row"):
        engine.nearest(put(strict, X), table)


def test_functions_of_tiles_that_find_no_memory():
    strict = load("array_api_strict")
    X, sizes = put(strict, np.arange(600.0).reshape(200, 3)), []

    def work(rows, beside):
        sizes.append(rows.shape[0])
        if rows.shape[0] > 40:
            raise MemoryError("out of memory")
        return rows * 2, beside + 1

    found = engine.backend_of(X).map_rows(X, 3, work, X[:, 0])
    assert_array_equal(to_host(found[0]), 2 * to_host(X))
    assert_array_equal(to_host(found[1]), to_host(X)[:, 0] + 1)
    assert sizes == [200, 100, 50, *[25] * 8]
    assert engine.backend_of(X).map_rows(X[:0, :], 3, lambda rows: rows + 1).shape == (
        0,
        3,
    )


def test_tiles_that_find_no_memory_are_halved():
    strict = load("array_api_strict")
    X, tried = put(strict, np.arange(400.0).reshape(200, 2)), []

    def work(rows):
        tried.append((rows.start, rows.stop))
        if rows.stop - rows.start > 60:
            raise MemoryError("out of memory")
        return rows.stop

    assert list(engine.backend_of(X).tiles(200, 2, work)) == [50, 100, 150, 200]
    assert tried[:3] == [(0, 200), (0, 100), (0, 50)]
    with pytest.raises(MemoryError, match="one row of 2 numbers"):
        list(engine.backend_of(X).tiles(200, 2, lambda rows: work(slice(0, 100))))

    def within(rows):
        return list(engine.backend_of(X).tiles(1, 5, lambda rows: work(slice(0, 100))))

    with pytest.raises(MemoryError, match="one row of 5 numbers"):
        list(engine.backend_of(X).tiles(200, 2, within))
