"""Scans of packed codes against sums of all rows, with every backend of the host."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skvq import nearest as engine
from skvq.codes import pack
from skvq.nearest import HOST, Packed, scan
from skvq.nearest.backends import native_scan
from skvq.nearest.searches import scan as search

# Columns of whole and of half bytes, of several in a byte, across bytes, of no bits.
SIZES = [
    (256,),
    (256,) * 8,
    (16,) * 16,
    (16,) * 5,
    (256, 16, 16, 200, 9),
    (2, 4, 8, 1, 16, 2),
    (2,) * 11,
    (8, 8, 4),
    (1, 256, 1, 1),
    (5, 300, 256, 7, 2),
    (70_000, 3),
    (1, 1),
]


def using(name):
    """Return a context in which a backend computes, where it is there."""
    if name not in engine.BACKENDS:
        pytest.skip("there is no compiled engine")
    try:
        engine.check_backend(name, HOST)
    except ImportError as error:
        pytest.skip(str(error))
    return engine.using(name)


@pytest.fixture(params=["numpy", "native"])
def backend(request):
    with using(request.param):
        yield


def make(sizes, n, n_queries=2, seed=0, dtype="float32"):
    rng = np.random.default_rng([seed, n, *sizes])
    codes = np.stack([rng.integers(0, size, n) for size in sizes], axis=1)
    tables = rng.chisquare(2, (n_queries, sum(sizes))).astype(dtype)
    return codes, tables


def brute_force(codes, sizes, tables, k, factor=None, offset=None):
    """Score all rows as `scan` says that scores are computed, and sort them."""
    given = [tables, *(term for term in (factor, offset) if term is not None)]
    dtype = np.result_type(*(engine.compute_dtype(a.dtype) for a in given))
    tables = tables.astype(dtype)
    scores = np.zeros((len(tables), len(codes)), dtype)
    start = 0
    for column, size in zip(codes.T, sizes, strict=True):
        scores += tables[:, start + column]
        start += size
    if factor is not None:
        scores *= factor.astype(dtype)
    if offset is not None:
        scores += offset.astype(dtype)
    order = np.argsort(scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1).astype(np.float64) + 0.0


def assert_scans(codes, sizes, tables, k, factor=None, offset=None):
    packed = pack(codes, sizes)
    indices, scores = brute_force(codes, sizes, tables, k, factor, offset)
    prepared = Packed(packed, sizes, factor=factor, offset=offset)
    for found in (
        scan(packed, sizes, tables, k=k, factor=factor, offset=offset),
        scan(prepared, sizes, tables, k=k),
        scan(prepared, None, tables, k=k),
    ):
        assert found[0].dtype == np.intp
        assert_array_equal(found[0], indices)
        # The same bits, of zeros as well.
        assert found[1].dtype == np.float64
        assert found[1].tobytes() == scores.tobytes()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_columns(backend, sizes, dtype):
    codes, tables = make(sizes, 1500, dtype=dtype)
    for k in (1, 10, 2000):
        assert_scans(codes, sizes, tables, k)


@pytest.mark.parametrize("sizes", [(256, 256), (16, 16, 16)], ids=str)
def test_every_number_of_rows(backend, sizes):
    codes, tables = make(sizes, 270, n_queries=1)
    for n in (*range(70), 127, 128, *range(250, 270)):
        packed = pack(codes[:n], sizes)
        for k in (1, 3, 300):
            indices, scores = brute_force(codes[:n], sizes, tables, k)
            found = scan(packed, sizes, tables, k=k)
            assert_array_equal(found[0], indices)
            assert_array_equal(found[1], scores)


@pytest.mark.parametrize("n_columns", range(1, 21))
def test_every_number_of_columns(backend, n_columns):
    rng = np.random.default_rng(n_columns)
    for pool in ((256,), (16,), (256, 16, 2)):
        sizes = tuple(int(size) for size in rng.choice(pool, n_columns))
        codes, tables = make(sizes, 3000, n_queries=1)
        assert_scans(codes, sizes, tables, 7)


@pytest.mark.parametrize("k", [1, 50, 1000, 20_000])
def test_many_are_asked_for(backend, k):
    sizes = (256,) * 4
    codes, tables = make(sizes, 20_000)
    assert_scans(codes, sizes, tables, k)


@pytest.mark.parametrize("sizes", [(256,) * 3, (16,) * 6, (7, 300)], ids=str)
def test_of_equals_the_first(backend, two_threads, monkeypatch, sizes):
    monkeypatch.setattr(search, "_CHUNK_ROWS", 512)
    codes, tables = make(sizes, 5000)
    for k in (1, 20, 1000):
        assert_scans(codes % 2, sizes, np.rint(tables), k)
        assert_scans(codes, sizes, np.zeros_like(tables), k)
        assert_scans(codes, sizes, np.full_like(tables, -3.7), k)
    # Better and better ones.
    order = np.argsort(-codes[:, 0], kind="stable")
    tables[:] = np.arange(tables.shape[1])
    assert_scans(codes[order], sizes, tables, 20)


def test_zeros_have_no_sign(backend):
    sizes = (256, 256)
    codes, tables = make(sizes, 600)
    tables[:] = -0.0
    assert_scans(codes, sizes, tables, 5)
    ones = np.ones(600, np.float32)
    assert_scans(codes, sizes, tables, 5, -ones, -0.0 * ones)
    assert_scans(codes, sizes, tables, 5, None, -0.0 * ones)
    tables[:, ::2] = 0.0
    assert_scans(codes, sizes, tables, 5)


@pytest.mark.parametrize("sizes", [(256,) * 6, (16,) * 12, (100, 300)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [("float32", (-148, -130, -60, 115)), ("float64", (-1070, -300, 1000))],
)
def test_scales(backend, sizes, dtype, exponents):
    codes, tables = make(sizes, 3000, dtype=dtype)
    tables -= tables.dtype.type(1.5)
    for exponent in exponents:
        scaled = np.ldexp(tables, exponent)
        assert_scans(codes, sizes, scaled, 10)
        offset = np.ldexp(np.linspace(-9, 9, 3000, dtype=dtype), exponent)
        assert_scans(codes, sizes, scaled, 10, None, offset)


@pytest.mark.parametrize("sizes", [(256,) * 6, (16,) * 12, (100, 300)], ids=str)
@pytest.mark.parametrize(("dtype", "large"), [("float32", 2e9), ("float64", 1e18)])
def test_digits_that_are_rounded_away(backend, sizes, dtype, large):
    n = 3000
    codes, tables = make(sizes, n, dtype=dtype)
    tables = (300 * (tables - 2)).astype(dtype)
    ones = np.ones(n, dtype)
    offset = (large * ones).astype(dtype)
    for k in (1, 10):
        assert_scans(codes, sizes, tables, k, None, offset)
        assert_scans(codes, sizes, tables, k, ones / 3, -offset)
        assert_scans(codes, sizes, tables, k, 1e-30 * ones, -ones)
    # The sums are off by more than they differ; the first rounds them already.
    shifted = tables.copy()
    shifted[:, : sizes[0]] += shifted.dtype.type(large)
    shifted[:, -sizes[-1] :] -= shifted.dtype.type(large)
    for k in (1, 10):
        assert_scans(codes, sizes, shifted, k)
        assert_scans(codes, sizes, shifted, k, ones / 3, tables[0, 0] * ones)


@pytest.mark.parametrize("sizes", [(256,) * 6, (16,) * 12, (100, 300)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_terms(backend, sizes, dtype):
    n = 4000
    codes, tables = make(sizes, n, dtype=dtype)
    rng = np.random.default_rng(0)
    normal = rng.normal(size=n).astype(dtype)
    positive, ones = rng.chisquare(2, n).astype(dtype), np.ones(n, dtype)
    for sign in (1, -1):
        own = sign * tables
        assert_scans(codes, sizes, own, 10, None, 5 * normal)
        assert_scans(codes, sizes, own, 10, positive)
        assert_scans(codes, sizes, own, 10, positive, normal)
        assert_scans(codes, sizes, own, 10, normal, 100 * normal)
        assert_scans(codes, sizes, own, 10, -positive, normal)
        few = np.where(np.arange(n) % 1000 == 999, 0, positive)
        assert_scans(codes, sizes, own, 10, few, positive)
        whole = rng.integers(-1, 2, n).astype(np.int8)
        assert_scans(codes, sizes, own, 300, whole, whole)
        assert_scans(codes, sizes, own, 10, positive.astype(np.float64), None)
        assert_scans(codes, sizes, own, 10, positive * np.float32(1e-30), normal)
        # Scores of two or three bits.
        least = np.finfo(dtype).smallest_subnormal * 2.0**40
        assert_scans(codes, sizes, own * tables.dtype.type(2.0**-40), 10, least * ones)


def test_memory_of_any_kind(backend, tmp_path):
    sizes = (256, 16, 16, 256)
    codes, tables = make(sizes, 1000)
    packed, expected = pack(codes, sizes), brute_force(codes, sizes, tables, 9)
    wide = np.zeros((1000, 7), np.uint8)
    wide[:, 2:5] = packed
    spread = np.zeros((2000, 9), np.uint8)
    spread[::2, ::3] = packed
    packed.tofile(tmp_path / "codes")
    for each in (
        np.asfortranarray(packed),
        wide[:, 2:5],
        spread[::2, ::3],
        np.ascontiguousarray(packed[::-1])[::-1],
        np.ascontiguousarray(packed[:, ::-1])[:, ::-1],
        np.memmap(tmp_path / "codes", np.uint8, "r", shape=packed.shape),
    ):
        each.flags.writeable = False
        for codes in (each, Packed(each, sizes)):
            found = scan(codes, sizes, tables, k=9)
            assert_array_equal(found[0], expected[0])
            assert_array_equal(found[1], expected[1])
    foreign = tables.astype(tables.dtype.newbyteorder())
    assert_array_equal(scan(packed, sizes, foreign, k=9)[0], expected[0])
    found = scan(packed, sizes, np.asfortranarray(tables), k=9)
    assert_array_equal(found[0], expected[0])


def test_memory_is_that_of_a_tile(backend):
    sizes = (256,) * 8
    packed = np.random.default_rng(0).integers(0, 256, (2**20, 8), dtype=np.uint8)
    _, tables = make(sizes, 1, n_queries=3)
    scan(packed[:10], sizes, tables, k=10)
    tracemalloc.start()
    scan(packed, sizes, tables, k=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < packed.nbytes / 2


def test_no_rows_and_no_queries(backend):
    sizes = (256, 256)
    packed, tables = np.zeros((0, 2), np.uint8), np.zeros((3, 512))
    for found in scan(packed, sizes, tables, k=5):
        assert found.shape == (3, 0)
    for found in scan(np.zeros((9, 2), np.uint8), sizes, tables[:0], 5):
        assert found.shape == (0, 5)


def test_calls_are_short(backend, monkeypatch):
    sizes = (256, 16, 16)
    codes, tables = make(sizes, 3000, n_queries=3)
    monkeypatch.setattr(native_scan, "_CALL_WORK", 2**16)
    assert_scans(codes, sizes, tables, 25, None, codes[:, 0].astype(np.float32))
    monkeypatch.setattr(native_scan, "_CALL_WORK", 1)
    assert_scans(codes, sizes, tables, 25)


def test_any_threads_and_chunks(backend, two_threads, monkeypatch):
    sizes = (256, 256, 16)
    codes, tables = make(sizes, 9000, n_queries=5)
    offset = codes[:, 0].astype(np.float32)
    for chunk in (256, 1024, 2**17):
        monkeypatch.setattr(search, "_CHUNK_ROWS", chunk)
        assert_scans(codes, sizes, tables, 25)
        assert_scans(codes, sizes, tables, 25, None, offset)


@pytest.mark.parametrize("where", [0, 700, 1499])
@pytest.mark.parametrize(
    ("sizes", "column", "code"),
    [((256, 200), 1, 200), ((9, 16), 0, 15), ((3, 300), 1, 511), ((2, 5), 1, 7)],
    ids=str,
)
def test_codes_out_of_range(backend, sizes, column, code, where):
    codes, tables = make(sizes, 1500)
    codes[where, column] = code
    packed = pack(codes, [1 << (size - 1).bit_length() for size in sizes])
    for make_scan in (
        lambda: scan(packed, sizes, tables, k=3),
        lambda: Packed(packed, sizes),
    ):
        with pytest.raises(ValueError, match=f"code {code} in row {where}, column"):
            make_scan()


def test_padding_bits(backend):
    sizes = (16, 4)
    codes, tables = make(sizes, 600)
    packed = pack(codes, sizes)
    packed[431, 0] |= 1
    with pytest.raises(ValueError, match="padding bits at the end of row 431"):
        scan(packed, sizes, tables, k=3)
    with pytest.raises(ValueError, match="padding bits at the end of row 431"):
        Packed(packed, sizes)


GOOD = {
    "packed": np.zeros((10, 2), np.uint8),
    "sizes": (256, 256),
    "tables": np.zeros((1, 512), np.float32),
    "k": 3,
}
NUMBERS = np.zeros(10, np.float32)


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"packed": np.zeros((10, 2))}, TypeError, "packed has dtype float64"),
        ({"packed": np.zeros((10, 2), np.int8)}, TypeError, "packed has dtype int8"),
        ({"packed": np.zeros(20, np.uint8)}, ValueError, "packed has shape"),
        ({"packed": np.zeros((10, 3), np.uint8)}, ValueError, "expected .*, 2"),
        ({"sizes": (256,)}, ValueError, "expected .*, 1"),
        ({"sizes": ()}, ValueError, "sizes is empty"),
        ({"sizes": None}, ValueError, "sizes is empty"),
        ({"sizes": (256, 0)}, ValueError, "sizes holds 0"),
        ({"sizes": (256, 256.0)}, ValueError, "sizes holds 256.0"),
        ({"tables": np.zeros(512)}, ValueError, "tables has shape"),
        ({"tables": np.zeros((1, 511))}, ValueError, "511 columns; expected 512"),
        ({"tables": np.zeros((1, 512), complex)}, ValueError, "tables has dtype"),
        ({"tables": np.full((1, 512), np.nan)}, ValueError, "tables contains NaN"),
        ({"tables": np.full((1, 512), -np.inf)}, ValueError, "tables contains NaN"),
        (
            {"tables": np.full((1, 512), -3e37, "f4")},
            ValueError,
            "might reach 6e.37; expected at most 4.25e.37 in float32",
        ),
        ({"tables": np.full((1, 512), 1e308)}, ValueError, "might reach"),
        ({"k": 0}, ValueError, "k=0"),
        ({"k": 2.5}, ValueError, "k=2.5"),
        ({"factor": NUMBERS[:9]}, ValueError, r"factor has shape \(9,\)"),
        ({"offset": NUMBERS[:, None]}, ValueError, "offset has shape"),
        ({"offset": NUMBERS.astype(str)}, ValueError, "offset has dtype"),
        ({"factor": NUMBERS + np.nan}, ValueError, "factor contains NaN"),
        ({"offset": NUMBERS - np.inf}, ValueError, "offset contains NaN"),
        ({"offset": NUMBERS + np.float32(1e38)}, ValueError, "might reach 1e.38"),
        ({"offset": np.ma.array(NUMBERS, mask=True)}, ValueError, "offset is a masked"),
        *(
            ({"sizes": value}, ValueError, "sizes")
            for value in (16, 16.0, "16", {16}, np.array(16), [256, True], [256, None])
        ),
        *(
            ({name: [[1], [1, 2]]}, ValueError, name)
            for name in ("packed", "tables", "factor", "offset")
        ),
        *(
            ({name: value}, (TypeError, ValueError), name)
            for name in ("packed", "tables", "factor", "offset")
            for value in ("abc", 16.5, np.nan, np.float32, {}, np.zeros((2, 2, 2)))
        ),
        *(
            ({"k": value}, ValueError, "k=")
            for value in (None, "3", 3.0, np.float64(3), True, np.nan, [3], -1)
        ),
    ],
    ids=str,
)
def test_refused(changed, error, match):
    scan(**GOOD)
    with pytest.raises(error, match=match):
        scan(**{**GOOD, **changed})
    if not changed.keys() & {"tables", "k"} and "might reach" not in match:
        given = {**GOOD, **changed}
        del given["tables"], given["k"]
        with pytest.raises(error, match=match.replace(" is empty", "")):
            Packed(**given)


def test_what_a_packed_has_is_not_given_beside_it():
    codes = Packed(GOOD["packed"], (256, 256), offset=NUMBERS)
    with pytest.raises(ValueError, match=r"sizes=\(256, 255\)"):
        scan(codes, (256, 255), GOOD["tables"], k=3)
    with pytest.raises(ValueError, match="sizes=16"):
        scan(codes, 16, GOOD["tables"], k=3)
    with pytest.raises(ValueError, match="given to Packed"):
        scan(codes, None, GOOD["tables"], k=3, offset=NUMBERS)


def test_packed_is_pickled_with_its_terms(backend):
    sizes = (256, 16, 16)
    codes, tables = make(sizes, 700)
    offset = codes[:, 0].astype(np.float32)
    prepared = Packed(pack(codes, sizes), sizes, offset=offset)
    found = scan(prepared, None, tables, k=5)
    again = scan(pickle.loads(pickle.dumps(prepared)), None, tables, 5)
    assert_array_equal(again[0], found[0])
    assert_array_equal(again[1], found[1])


@st.composite
def scans(draw):
    size = draw(
        st.sampled_from(
            [
                st.just(256),
                st.just(16),
                st.integers(129, 256),
                st.sampled_from([1, 2, 4, 16, 256]),
                st.integers(1, 600),
            ]
        )
    )
    sizes = tuple(draw(st.lists(size, min_size=1, max_size=20)))
    n, seed = draw(st.integers(0, 2000)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    dtype = draw(st.sampled_from(["float32", "float64"]))
    codes, tables = make(sizes, n, draw(st.integers(1, 3)), seed, dtype)
    kind = draw(st.sampled_from(["plain", "few", "signed", "skewed"]))
    if kind == "few":
        tables = np.rint(tables)
    if kind == "signed":
        tables -= tables.dtype.type(2)
    if kind == "skewed":
        tables **= tables.dtype.type(8)
    terms = []
    for _ in range(2):
        term = rng.normal(size=n) * draw(st.sampled_from([1.0, 30.0]))
        term = {"any": term, "positive": np.abs(term), "whole": np.rint(term)}.get(
            draw(st.sampled_from(["any", "positive", "whole", "none"]))
        )
        terms.append(None if term is None else term.astype(dtype))
    k = draw(st.sampled_from([1, 2, 10, 500, 3000]))
    return codes, sizes, tables, k, *terms


@pytest.mark.parametrize("name", ["numpy", "native"])
@given(case=scans())
def test_fuzz(name, case):
    with using(name):
        assert_scans(*case)
