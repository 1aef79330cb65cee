"""Arrays of other libraries: the engine, the contract, and the choice of a backend.

With SKVQ_NEEDS_ARRAYS=1, as in CI, a test fails that would skip for want of a library.
"""

import importlib
import os
import pickle
import re
import subprocess
import sys
import threading
import types
import unittest
from contextlib import contextmanager
from pathlib import Path

import emulator
import numpy as np
import oracles
import pytest
from emulator import CudaCompiler, emulated_cupy, find_compiler
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import clone, config_context
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator
from table import BY_NAME, DEFAULTS, TABLE, BinaryQuantizer, aq, each, kq, msq, rq, vq

from skvq import (
    FiniteScalarQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    UniformQuantizer,
    VectorQuantizer,
    _array_api,
    metrics,
    sphere,
)
from skvq import codes as codes_module
from skvq import nearest as engine
from skvq._array_api import (
    array_namespace,
    device_of,
    is_foreign,
    library_name,
    to_host,
)
from skvq.binary import hamming_distances
from skvq.learning import scalar_arrays
from skvq.learning.scalar import Grid, Levels
from skvq.nearest import _backend, _cupy, _generic, _kernels
from skvq.radius import Float32Radius, row_norms

NEEDED = os.environ.get("SKVQ_NEEDS_ARRAYS") == "1"
OTHERS = ["array_api_strict", "torch"]
# CuPy, in an emulation for which no device is needed, and on a device.
EMULATED = "cupy"
DEVICE = pytest.param("device", marks=pytest.mark.gpu)


def load(name):
    if NEEDED:
        return importlib.import_module(name)
    return pytest.importorskip(name)


def _forget_cupy():
    """Forget what was found out about the CuPy there was."""
    _backend.cupy_has_device.cache_clear()
    _kernels.kernel.cache_clear()


@contextmanager
def loaded(name):
    """Give a library, or skip."""
    if name == EMULATED:
        # Minutes of a suite that runs the other libraries also, with the same switch.
        if os.environ.get("SCIPY_ARRAY_API") != "1":
            assert not NEEDED
            pytest.skip("SCIPY_ARRAY_API=1 is not set")
        if find_compiler() is None:
            assert not NEEDED
            pytest.skip("the emulation of CUDA kernels needs a C++ compiler")
        if _array_api._compat is None:
            assert not NEEDED
            pytest.skip("no array-api-compat, without which CuPy has no namespace")
        with emulated_cupy() as library:
            _forget_cupy()
            yield library
        _forget_cupy()
    elif name == "device":
        library = pytest.importorskip("cupy")
        if not _backend.cupy_has_device():
            pytest.skip("CuPy sees no device")
        yield library
    else:
        yield load(name)


@contextmanager
def followed(name):
    """Give a library, or skip, and switch scikit-learn's dispatch on."""
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        assert not NEEDED
        pytest.skip("SCIPY_ARRAY_API=1 is not set")
    with loaded(name) as library, config_context(array_api_dispatch=True):
        yield library


@pytest.fixture(params=["numpy", *OTHERS, EMULATED])
def xp(request):
    """Every library; called, NumPy's arrays become its own."""
    with loaded(request.param) as library:
        yield library


@pytest.fixture(params=[*OTHERS, EMULATED])
def other(request):
    """A library that is not NumPy, with scikit-learn's dispatch switched on."""
    with followed(request.param) as library:
        yield library


@pytest.fixture(params=[*OTHERS, EMULATED, DEVICE])
def place(request):
    """The same, and CuPy on a device."""
    with followed(request.param) as library:
        yield library


@pytest.fixture(params=[EMULATED, DEVICE])
def cupy(request):
    """CuPy, in the emulation and on a device; its arrays are followed always."""
    with loaded(request.param) as library:
        yield library


def put(xp, array):
    return xp.asarray(np.array(array))


def make(shape, seed=0, dtype="float32"):
    n_samples, n_features, n_codewords = shape
    rng = np.random.default_rng([seed, *shape])
    X = rng.normal(1, 1, (n_samples, n_features)).astype(dtype)
    return X, rng.normal(1, 1, (n_codewords, n_features)).astype(dtype)


@pytest.fixture(params=[2**21, 257], ids=["one-tile", "many-tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr("skvq.nearest._generic._TILE_ELEMENTS", request.param)


# -- the engine ------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (7, 1, 5), (100, 2, 17), (257, 8, 256), (40, 33, 300)]
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


@pytest.mark.parametrize("path", ["registers", "product", "fused"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (257, 8, 256), (150, 7, 9000), (140, 33, 300), (300, 64, 129)]
)
def test_paths_of_a_flat_search(cupy, monkeypatch, path, dtype, shape):
    if path == "registers" and shape[1] > _cupy._MAX_WIDTH:
        return
    monkeypatch.setattr(_cupy, "flat_path", lambda width: path)
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
    X, table = make((60, 5, 45), dtype="float64")
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
    X = rng.normal(1, 1, (70, np.prod(widths)))
    X[:5] = 0
    expected, distances = engine.nearest_kronecker(X, tables, return_distances=True)
    if turns:
        monkeypatch.setattr("skvq.nearest._kronecker._MAX_AT_ONCE", 1)
        monkeypatch.setattr("skvq.nearest._kronecker._TURN", 7)
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
    sums, counts = engine.accumulate(put(xp, X), put(xp, codes), 9, weights)
    expected = oracles.sums_and_counts(X, codes, 9, weights)
    assert_allclose(to_host(sums), expected[0], rtol=1e-12, atol=1e-12)
    assert_allclose(to_host(counts), expected[1], rtol=1e-12)
    # Cells beside each other do not blur each other.
    X[codes == 3] *= 2.0**100
    again, _ = engine.accumulate(put(xp, X), codes, 9, weights)
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


class _Scarce(_generic.Library):
    """A device on which tiles of more than a few rows find no memory."""

    most = 40

    def smallest(self, scores):
        if scores.shape[0] > self.most:
            raise MemoryError("out of memory")
        return super().smallest(scores)


def test_out_of_memory_halves_the_tile(monkeypatch):
    strict = load("array_api_strict")
    monkeypatch.setattr(_generic, "library_of", _Scarce)
    X, table = make((1000, 5, 11))
    codes, _ = engine.nearest(put(strict, X), table)
    assert_array_equal(to_host(codes), engine.nearest(X, table)[0])
    monkeypatch.setattr(_Scarce, "most", 0)
    with pytest.raises(MemoryError, match="no memory for one row"):
        engine.nearest(put(strict, X), table)


# -- the contract ----------------------------------------------------------------------

FOLLOWING = [
    row
    for row in TABLE
    if row.codes and row.make().__sklearn_tags__().array_api_support
]
every_following_row = each(FOLLOWING)

# Where a code that rounding lets fall otherwise leads learning elsewhere.  Many
# codewords for tokens of one number: residuals of residuals are near rounding.  A table
# that serves three times: the beam of its start holds every order of a sum.
AMPLIFYING = {"multiscale-defaults", "aq-shared"}


def learned_with(row, given, **fit_parameters):
    """Fit a row on an array of another library.

    Where rounding decides what is learned, go on with what NumPy has learned, so that
    codes can be compared; the error must still be the same share of the variance.
    """
    estimator = row.make().fit(given, **fit_parameters)
    if row.name not in AMPLIFYING:
        return estimator
    X = to_host(given)
    reference = row.make().fit(X, **fit_parameters)
    variance = float(X.var(axis=0).sum())
    assert abs(estimator.distortion_ - reference.distortion_) <= 2e-4 * variance
    reference._move(array_namespace(given), device_of(given))
    return reference


def test_the_schemes_follow():
    names = {row.name for row in FOLLOWING}
    assert {"vq-defaults", "vq-cosine-ema", "pq-defaults"} < names
    assert {"uniform-defaults", "uniform-quantile", "fsq-defaults"} < names
    assert {"binary-defaults", "binary-spherical-float32", "pq-of-fsq"} < names
    assert {"spherical-defaults", "spherical-float32-radius"} < names
    assert {"rq-of-pq-beam-refined", "kronecker-shared"} < names
    assert {"multiscale-smooth", "pq-of-multiscale"} < names
    assert {"aq-searched", "aq-independent"} < names


@every_following_row
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_as_numpy_does(other, row):
    X, reference = row.data(), row.fitted()
    given = put(other, X)
    estimator = learned_with(row, given)
    codes = estimator.transform(given)
    decoded = estimator.quantize(given)
    assert {library_name(a) for a in (codes, decoded, *estimator.codebooks_)} == {
        other.__name__
    }
    assert_array_equal(to_host(codes), reference.transform(X))
    wide = {"uint16": "int32", "uint32": "int64"} if other.__name__ == "torch" else {}
    expected = str(reference.transform(X).dtype)
    assert str(codes.dtype).endswith(wide.get(expected, expected))
    assert_allclose(to_host(decoded), reference.quantize(X), rtol=1e-5, atol=1e-5)
    assert estimator.distortion_ == pytest.approx(reference.distortion_, rel=1e-5)
    assert estimator.score(given) == pytest.approx(reference.score(X), rel=1e-5)
    for some in (codes, to_host(codes), to_host(codes).tolist()):
        again = estimator.inverse_transform(some)
        assert library_name(again) == other.__name__
        assert_array_equal(to_host(again), to_host(decoded))
    with pytest.raises(ValueError, match=r"codes\[0, 0\]"):
        estimator.inverse_transform(put(other, to_host(codes).astype(float) - 999))


# Rows for what is slow in the emulation of CuPy, and in it no other than in libraries
# that run at full speed: each scheme, and each learner, once.
FEW = {
    *(row.name for row in FOLLOWING if row.name.endswith("-defaults")),
    *("vq-cosine-ema", "vq-splitting", "pq-of-multiscale", "rq-refined", "rq-of-pq"),
    *("kronecker-3", "multiscale-smooth", "aq-searched", "aq-independent"),
}


def skip_most_in_emulation(library, row):
    if library.__name__ == EMULATED and row.name not in FEW:
        pytest.skip("one row of each kind is enough in the emulation")


@every_following_row
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_as_numpy_does(other, row):
    skip_most_in_emulation(other, row)
    X = row.data()
    weights = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    reference = row.make().fit(X, sample_weight=weights)
    given = put(other, X)
    for some in (weights, put(other, weights)):
        estimator = learned_with(row, given, sample_weight=some)
        if row.name != "vq-n-init":
            # Two of its starts end in one table, in different order; which of them is
            # better is a matter of rounding.
            codes = to_host(estimator.transform(given))
            assert_array_equal(codes, reference.transform(X))
        assert estimator.score(given, sample_weight=some) == pytest.approx(
            reference.score(X, sample_weight=weights), rel=1e-5
        )


@each([row for row in FOLLOWING if row.streams])
def test_streams_as_numpy_does(other, row):
    X = row.data()
    reference, estimator = row.make(), row.make()
    for begin, end in [(0, 1), (1, 3), (3, 150), (150, 320)]:
        reference.partial_fit(X[begin:end])
        estimator.partial_fit(put(other, X[begin:end]))
    assert library_name(estimator.codebooks_[0]) == other.__name__
    assert_array_equal(
        to_host(estimator.transform(put(other, X))), reference.transform(X)
    )


@every_following_row
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_pickles_are_of_the_host(other, row, monkeypatch):
    skip_most_in_emulation(other, row)
    X = row.data()
    given = put(other, X)
    estimator = row.make().fit(given)
    data = pickle.dumps(estimator)
    expected = to_host(estimator.transform(given))
    with monkeypatch.context() as patch:
        # Loading does not need the library, nor does use without it.
        patch.setattr("skvq.base.import_namespace", lambda name: None)
        copy = pickle.loads(data)
        assert not any(is_foreign(value) for value in vars(copy).values())
        assert_array_equal(copy.transform(X), expected)
        assert isinstance(copy.codebooks_[0], np.ndarray)
    copy = pickle.loads(data)
    assert library_name(copy.codebooks_[0]) == other.__name__
    assert_array_equal(to_host(copy.transform(given)), expected)


@each([row for row in FOLLOWING if hasattr(row.make(), "staged_score")])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_stages_as_numpy_does(other, row):
    X, reference = row.data(), row.fitted()
    weights = np.random.default_rng(0).random(len(X))
    given = put(other, X)
    estimator = learned_with(row, given)
    codes = estimator.transform(given)
    sums = list(estimator.staged_inverse_transform(codes))
    expected = list(reference.staged_inverse_transform(to_host(codes)))
    assert {library_name(found) for found in sums} == {other.__name__}
    for found, wanted in zip(sums, expected, strict=True):
        assert_allclose(to_host(found), wanted, rtol=1e-5, atol=1e-5)
    for some in (None, weights):
        assert_allclose(
            list(estimator.staged_score(given, sample_weight=some)),
            list(reference.staged_score(X, sample_weight=some)),
            rtol=1e-5,
        )
    with pytest.raises(ValueError, match="must use the same namespace"):
        next(estimator.staged_score(X))


SMALL_TILES = ["rq-of-pq-beam-refined", "kronecker-3", "multiscale-smooth"]


@each([row for row in FOLLOWING if row.name in SMALL_TILES])
def test_learners_take_rows_in_tiles(other, row, monkeypatch):
    X = row.data()
    library = _generic.TorchLibrary if other.__name__ == "torch" else _generic.Library
    library = _cupy.CupyLibrary if other.__name__ == "cupy" else library
    monkeypatch.setattr(library, "tile_elements", lambda self: 500)
    given = put(other, X)
    codes = row.make().fit(given).transform(given)
    assert_array_equal(to_host(codes), row.fitted().transform(X))


@each([row for row in FOLLOWING if hasattr(row.make(), "next_scale_input")])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_next_scales_as_numpy_does(other, row):
    X, reference = row.data(), row.fitted()
    if len(reference.scales_) == 1:
        return
    estimator = learned_with(row, put(other, X))
    n_codes = reference._decodable_widths()[0]
    codes = reference.transform(X)[:, :n_codes]
    for some in (codes, put(other, codes)):
        found = estimator.next_scale_input(some)
        assert library_name(found) == other.__name__
        expected = reference.next_scale_input(codes)
        assert_allclose(to_host(found), expected, rtol=1e-5, atol=1e-5)


def test_order_of_checks(other):
    X = make((40, 5, 1))[0]
    bad = put(other, X * np.nan)
    with pytest.raises(NotFittedError):
        vq().transform(bad)
    fitted = vq().fit(X)
    for method in ("transform", "quantize", "score"):
        message = rf"VectorQuantizer\.{method}\(\) must use the same namespace"
        with pytest.raises(ValueError, match=message):
            getattr(fitted, method)(bad)
    fitted = vq().fit(put(other, X))
    with pytest.raises(ValueError, match="must use the same namespace"):
        fitted.transform(X)
    with pytest.raises(ValueError, match="contains NaN"):
        fitted.transform(bad)
    with pytest.raises(ValueError, match="is expecting 5 features"):
        fitted.transform(put(other, X[:, :4]))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        vq().fit(put(other, X[:1]))
    with pytest.raises(ValueError, match="2D array"):
        vq().fit(put(other, X[0]))


def test_without_dispatch_numpy_answers():
    torch = load("torch")
    X = make((40, 5, 1))[0]
    for quantizer in (vq(), vq(backend="numpy")):
        codes = quantizer.fit(put(torch, X)).transform(put(torch, X))
        assert isinstance(codes, np.ndarray)


def test_functions_of_tiles_that_find_no_memory():
    strict = load("array_api_strict")
    X, sizes = put(strict, np.arange(600.0).reshape(200, 3)), []

    def work(rows, beside):
        sizes.append(rows.shape[0])
        if rows.shape[0] > 40:
            raise MemoryError("out of memory")
        return rows * 2, beside + 1

    found = engine.map_rows(X, 3, work, X[:, 0])
    assert_array_equal(to_host(found[0]), 2 * to_host(X))
    assert_array_equal(to_host(found[1]), to_host(X)[:, 0] + 1)
    assert sizes == [200, 100, 50, *[25] * 8]
    assert engine.map_rows(X[:0, :], 3, lambda rows: rows + 1).shape == (0, 3)


class _OnTheHost(BinaryQuantizer):
    """A scheme whose hooks take NumPy's arrays alone."""

    _follows_namespace = False


def test_schemes_that_stay_on_the_host(other):
    X = make((40, 6, 1))[0]
    quantizer = _OnTheHost()
    features = QuantizedFeatures(quantizer)
    for estimator in (quantizer, features):
        assert not estimator.__sklearn_tags__().array_api_support
    if other.__name__ == "torch":
        codes = quantizer.fit(put(other, X)).transform(put(other, X))
        assert_array_equal(codes, BinaryQuantizer().fit_transform(X))
        decoded = features.fit(put(other, X)).transform(put(other, X))
        assert_array_equal(decoded, BinaryQuantizer().fit(X).quantize(X))


FEATURES = each(
    [r for r in TABLE if not r.codes and r.make().__sklearn_tags__().array_api_support]
)


@FEATURES
def test_features_as_numpy_does(other, row):
    X, reference = row.data(), row.fitted()
    given = put(other, X)
    estimator = row.make().fit(given)
    found = estimator.transform(given)
    assert library_name(found) == other.__name__
    assert_allclose(to_host(found), reference.transform(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="must use the same namespace"):
        estimator.transform(X)
    with pytest.raises(ValueError, match="must use the same namespace"):
        reference.transform(given)
    copy = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(to_host(copy.transform(given)), to_host(found))


SCHEMES = {
    "vq": vq,
    "pq": lambda **p: ProductQuantizer(2, 4, **p),
    "rq": lambda **p: rq(beam_size=2, **p),
    "kronecker": lambda **p: kq((2, 3), 4, **p),
    "multiscale": lambda **p: msq((3, 2), n_codewords=4, **p),
    "additive": aq,
}
every_scheme = pytest.mark.parametrize("make_it", SCHEMES.values(), ids=SCHEMES)


@every_scheme
def test_a_failure_on_the_device_changes_nothing(other, make_it, monkeypatch):
    X = put(other, make((60, 6, 1))[0])
    fresh, fitted = make_it(), make_it().fit(X)
    before = dict(vars(fitted))

    def lost(*args, **kwargs):
        raise RuntimeError("the context is lost")

    monkeypatch.setattr(_generic.Library, "smallest", lost)
    if other.__name__ == "cupy":
        monkeypatch.setattr(other.RawKernel, "__call__", lost)
    for estimator in (fresh, fitted):
        with pytest.raises(RuntimeError, match="context is lost"):
            estimator.fit(X)
    assert not hasattr(fresh, "codebook_sizes_")
    assert vars(fitted) == before
    monkeypatch.undo()
    assert fitted.transform(X).shape[0] == 60


@every_scheme
def test_a_device_without_memory_changes_nothing(make_it):
    with loaded(EMULATED) as cupy:
        memory = emulator.device.MEMORY
        X = put(cupy, make((60, 6, 1))[0])
        fresh, fitted = make_it(), make_it().fit(X)
        before = dict(vars(fitted))
        for left in (0, 500):
            memory.limit = memory.used + left
            for estimator in (fresh, fitted):
                with pytest.raises(MemoryError, match=r"no memory|Out of memory"):
                    estimator.fit(X)
            assert not hasattr(fresh, "codebook_sizes_")
            assert vars(fitted) == before
        emulator.device.reset()
        assert fitted.transform(X).shape[0] == 60


@every_scheme
def test_a_failure_with_rows_of_the_host_changes_nothing(make_it, monkeypatch):
    def lost(*args, **kwargs):
        raise RuntimeError("the context is lost")

    X = make((60, 6, 1))[0]
    monkeypatch.setattr(_cupy, "_CHUNK_BYTES", 200)
    with loaded(EMULATED) as cupy:
        fresh = make_it(backend="cupy")
        fitted = make_it(backend="cupy").fit(X)
        before = dict(vars(fitted))
        expected = fitted.transform(X)
        with monkeypatch.context() as patch:
            patch.setattr(cupy.RawKernel, "__call__", lost)
            for estimator in (fresh, fitted):
                with pytest.raises(RuntimeError, match="context is lost"):
                    estimator.fit(X)
        assert not hasattr(fresh, "codebook_sizes_")
        assert vars(fitted) == before
        assert_array_equal(fitted.transform(X), expected)
        # A copy that fails is as good a reason.
        with monkeypatch.context() as patch:
            patch.setattr(cupy.ndarray, "set", lost)
            with pytest.raises(RuntimeError, match="context is lost"):
                fitted.transform(X)
    assert not any(t.name.startswith("skvq-copy") for t in threading.enumerate())


# -- scalar cells, lengths and codes ---------------------------------------------------


def assert_same(found, expected, library):
    assert library_name(found) == library.__name__
    assert_array_equal(to_host(found), expected)


def neighbours(values):
    """The values, and the numbers right below and above each."""
    return np.concatenate(
        [values, np.nextafter(values, -np.inf), np.nextafter(values, np.inf)]
    )


RANGES = [(0, 1), (-1, 1), (0.1, 0.3), (1e6, 1e6 + 1), (5, 5), (-1e300, 1e300)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 7, 256, 1000, 2**20 + 1, 2**32])
@pytest.mark.parametrize("ends", [*RANGES, (0, 1e-310), (-1.7e308, 1.7e308)], ids=str)
def test_equal_cells_at_their_edges(place, tiles, dtype, size, ends):
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


def to_signed(codes, library):
    """Codes in the dtype that the library has for them."""
    wide = {"uint16": np.int32, "uint32": np.int64}
    return codes.astype(wide.get(str(codes.dtype), codes.dtype))


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
    scaled, exponents = scalar_arrays.scaled_rows(given)
    assert_same(exponents, np.frexp(norms)[1], place)
    assert_same(scaled[:, 0], np.frexp(norms)[0], place)
    assert_same(row_norms(given), norms, place)
    radius = Float32Radius()
    with np.errstate(over="ignore"):
        codes = radius.encode(norms)
    assert_same(radius.encode(row_norms(given)), codes, place)
    found = radius.decode(put(place, codes.astype(np.int64)))
    assert_same(found, radius.decode(codes), place)


@pytest.mark.parametrize("bound", ["tanh", "none", "cdf"])
def test_values_of_finite_scalars(place, tiles, bound):
    X = make((200, 4, 1))[0]
    X[:50] = np.rint(X[:50])
    levels = (8, 5, 2, 7)
    reference = FiniteScalarQuantizer(levels, bound=bound).fit(X)
    quantizer = FiniteScalarQuantizer(levels, bound=bound).fit(put(place, X))
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


SIZES = [(2,) * 9, (5, 5, 5), (256, 4, 1), (300, 7, 65536), (1, 1), (2**32,) * 3]


@pytest.mark.parametrize("n_samples", [0, 1, 77])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_functions_of_codes(place, monkeypatch, sizes, n_samples):
    monkeypatch.setattr("skvq.codes._FOREIGN_TILE_BITS", 2**9)
    rng = np.random.default_rng(n_samples)
    columns = [rng.integers(0, size, n_samples) for size in sizes]
    wide = np.stack(columns, axis=1)
    own = wide.astype(codes_module.smallest_dtype(max(sizes)))
    given = put(place, wide)
    for method in ("columns", "radix"):
        for row_aligned in (True, False):
            how = {"method": method, "row_aligned": row_aligned}
            packed = codes_module.pack(given, sizes, **how)
            assert_same(packed, codes_module.pack(own, sizes, **how), place)
            back = codes_module.unpack(packed, sizes, n_samples=n_samples, **how)
            assert_same(back, own, place)
    if max(sizes) > 2**16:
        return
    for order in ("C", "F"):
        ids = codes_module.token_ids(given, sizes, order)
        assert_same(ids, codes_module.token_ids(own, sizes, order), place)
        assert_same(codes_module.from_token_ids(ids, sizes, order), own, place)
    dense = codes_module.one_hot(given, sizes, np.float32, sparse=False)
    expected = codes_module.one_hot(own, sizes, np.float32, sparse=False)
    assert_same(dense, expected, place)
    assert_array_equal(codes_module.one_hot(given, sizes).toarray(), expected)


def test_what_is_no_code(place):
    def expect(message, function, array, *arguments, error=ValueError):
        with pytest.raises(error, match=message):
            function(put(place, np.array(array)), *arguments)

    expect(r"codes\[0, 1\] is 9", codes_module.pack, [[0, 9]], (2, 3))
    expect(r"codes\[0, 1\] is -1", codes_module.token_ids, [[0, -1]], (2, 3))
    expect("integers", codes_module.one_hot, [[0.0, 1.0]], (2, 3), error=TypeError)
    expect(r"ids\[1\] is 99", codes_module.from_token_ids, [6, 99], (5, 5))
    expect(r"codes\[0, 1\] = -1 is negative", metrics.code_entropy, [[0, -1]])
    expect("not an integer", metrics.collision_rate, [[0, 0.5]])
    expect("goes up to 3", metrics.code_usage, [[0], [3]], (2,))
    byte = np.array([[255]], dtype=np.uint8)
    expect("is corrupt", codes_module.unpack, byte, (5, 5))
    expect("holds code 7", codes_module.unpack, byte - 1, (5, 5, 2))
    expect("expected 2-d uint8", hamming_distances, [[1, 2]])


def test_hamming_distances(place, tiles):
    rng = np.random.default_rng(0)
    X, Y = (rng.integers(0, 256, (n, 5)).astype(np.uint8) for n in (20, 7))
    for some in ((X, Y), (X,)):
        found = hamming_distances(*(put(place, array) for array in some))
        assert_same(found, hamming_distances(*some), place)
    with pytest.raises(ValueError, match="5 bytes in a row, packed_Y 4"):
        hamming_distances(put(place, X), put(place, Y[:, :4]))


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_reconstructions(place, weighted):
    X = make((50, 7, 1), dtype="float64")[0]
    X_quant = np.rint(X)
    weights = np.random.default_rng(0).integers(0, 3, 50) if weighted else None
    for function, how in [
        (metrics.distortion, {"metric": "manhattan"}),
        (metrics.sqnr, {}),
        (metrics.sqnr, {"center": True}),
        (metrics.psnr, {"data_range": 2.0}),
    ]:
        expected = function(X, X_quant, sample_weight=weights, **how)
        for given in [(put(place, X), put(place, X_quant)), (put(place, X), X_quant)]:
            found = function(*given, sample_weight=weights, **how)
            assert isinstance(found, float)
            assert found == pytest.approx(expected, rel=1e-12)
    image = np.array([[0, 255], [128, 64]], dtype=np.uint8)
    found = metrics.psnr(put(place, image), put(place, image + 1.0))
    assert found == pytest.approx(metrics.psnr(image, image + 1.0))
    made = (UniformQuantizer(4), QuantizedFeatures(BinaryQuantizer()))
    there = [clone(quantizer).fit(put(place, X)) for quantizer in made]
    here = [clone(quantizer).fit(X) for quantizer in made]
    assert_allclose(
        metrics.rate_distortion_curve(there, put(place, X), sample_weight=weights),
        metrics.rate_distortion_curve(here, X, sample_weight=weights),
    )
    for bad in (X * np.nan, X[:, :0], X[0]):
        with pytest.raises(ValueError, match="X "):
            metrics.distortion(put(place, bad), put(place, bad))


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_codes(place, weighted):
    rng = np.random.default_rng(0)
    sizes = (4, 9, 300)
    codes = np.stack([rng.integers(0, size, 60) for size in sizes], axis=1)
    codes[30:] = codes[rng.integers(0, 30, 30)]
    weights = rng.integers(0, 3, 60).astype(float) if weighted else None
    given = put(place, codes)
    for function, more in [
        (metrics.code_entropy, ()),
        (metrics.perplexity, ()),
        (metrics.code_usage, (sizes,)),
        (metrics.imbalance_factor, (sizes,)),
    ]:
        found = function(given, *more, sample_weight=weights)
        assert library_name(found) == place.__name__
        expected = function(codes, *more, sample_weight=weights)
        assert_allclose(to_host(found), expected, rtol=1e-12)
    found = metrics.collision_rate(given, sample_weight=weights)
    expected = metrics.collision_rate(codes, sample_weight=weights)
    assert found == pytest.approx(expected, rel=1e-12)
    assert 0 < found < 1


def test_functions_without_dispatch():
    torch = load("torch")
    codes = put(torch, np.array([[0, 1], [2, 4]]))
    assert isinstance(codes_module.token_ids(codes, (3, 5)), np.ndarray)
    assert isinstance(metrics.code_entropy(codes), np.ndarray)


# -- scikit-learn's own checks ---------------------------------------------------------


# Their codes are uint16, and in torch int32: only there dtypes are not NumPy's.
TWO_BYTES = {
    "vq-two-bytes",
    "uniform-two-bytes",
    "binary-spherical-float32",
    "spherical-float32-radius",
}


def _checks():
    """Those of the libraries and devices that this suite needs, and no others."""
    named = [(type(estimator).__name__, estimator) for estimator in DEFAULTS]
    named += [(r.name, r.make()) for r in FOLLOWING if r.sklearn_checks and r.zeros]
    for name, estimator in named:
        if not estimator.__sklearn_tags__().array_api_support:
            continue
        for instance, check in estimator_checks_generator(estimator):
            keywords = getattr(check, "keywords", {})
            places = [
                (keywords.get("array_namespace"), keywords.get("device_name")),
                keywords.get("X_ns_and_device"),
                keywords.get("other_ns_and_device"),
            ]
            asked = [tuple(place) for place in places if place and place[0]]
            here = all(
                name in ("numpy", *OTHERS)
                and str(device) in ("None", "cpu", "CPU_DEVICE", "device1")
                for name, device in asked
            )
            if name in TWO_BYTES and "torch" in dict(asked):
                continue  # codes are int32: torch cannot compare in uint16
            if asked and here and check.func.__name__.startswith("check_array_api"):
                yield pytest.param(instance, check, id=f"{name}-{asked}")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("estimator", "check"), list(_checks()))
def test_sklearn_checks(estimator, check):
    try:
        check(estimator)
    except unittest.SkipTest as skipped:
        if NEEDED:
            pytest.fail(f"skipped: {skipped}")
        raise


# -- the choice of a backend -----------------------------------------------------------


@pytest.fixture
def fake_cupy(monkeypatch):
    """CuPy as far as the choice looks: it is there, and sees so many devices."""

    # It has no arrays, with which it could be tried out.
    monkeypatch.setattr(_backend, "_computes", lambda: True)

    def install(n_devices):
        module = types.ModuleType("cupy")
        module.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        # Whoever asks whether an array is one of CuPy's looks for its class.
        module.ndarray = module.generic = type("ndarray", (), {})
        module.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDeviceCount=lambda: n_devices)
        )
        monkeypatch.setitem(sys.modules, "cupy", module)
        _backend.cupy_has_device.cache_clear()

    yield install
    _backend.cupy_has_device.cache_clear()


@pytest.mark.parametrize("n_devices", [0, 1])
def test_auto_takes_large_searches_to_a_device(fake_cupy, n_devices):
    fake_cupy(n_devices)
    X = np.zeros((2, 2))
    large, small = _backend.GPU_WORK, _backend.GPU_WORK / 2
    expected = "_cupy" if n_devices else "_host"
    assert _backend.backend_module(X, large).__name__.endswith(expected)
    assert _backend.backend_module(X, small).__name__.endswith("_host")
    with engine.using("numpy"):
        assert _backend.backend_module(X, large).__name__.endswith("_host")
    with engine.using("cupy"):
        assert _backend.backend_module(X, small).__name__.endswith("_cupy")
    assert _backend.backend_module([[0.0]], small).__name__.endswith("_host")


def test_a_device_that_cannot_compute_is_none(monkeypatch):
    with loaded(EMULATED) as cupy:
        assert _backend.cupy_has_device()
        _backend.cupy_has_device.cache_clear()
        _kernels.kernel.cache_clear()

        def no_compiler(*args, **kwargs):
            raise ImportError("libnvrtc.so cannot be opened")

        monkeypatch.setattr(cupy, "RawKernel", no_compiler)
        assert not _backend.cupy_has_device()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forks_have_no_device():
    with loaded(EMULATED):
        assert _backend.cupy_has_device()
        child = os.fork()
        if child == 0:
            os._exit(int(_backend.cupy_has_device()))
        assert os.waitpid(child, 0)[1] == 0
        assert _backend.cupy_has_device()


def test_large_matrices_go_to_the_device_as_a_whole(monkeypatch):
    X = make((900, 8, 1))[0]
    quantizer = VectorQuantizer(16, random_state=0).fit(X)
    monkeypatch.setattr("skvq.base._BLOCK_ELEMENTS", 80)
    monkeypatch.setattr(_cupy, "_CHUNK_BYTES", 100 * 32)
    expected = quantizer.transform(X)
    with loaded(EMULATED):
        launches = emulator.device.RUNTIME.n_launches
        monkeypatch.setattr(_backend, "GPU_WORK", 900.0 * 8 * 16 + 1)
        quantizer.transform(X)
        assert "product" not in launches
        monkeypatch.setattr(_backend, "GPU_WORK", 900.0 * 8 * 16)
        before = launches.get("product", 0)
        assert_array_equal(quantizer.transform(X), expected)
        # One search, nine chunks.
        assert launches["product"] - before == 9


def test_rows_of_another_device_than_the_one_in_use():
    X = make((40, 6, 1))[0]
    with loaded(EMULATED) as cupy:
        with cupy.cuda.Device(1):
            given = put(cupy, X)
            there = vq().fit(given)
            codes = there.transform(given)
            assert codes.device.id == 1
            assert_array_equal(to_host(codes), vq().fit_transform(X))
        for call in (vq().fit, there.transform, there.score):
            with pytest.raises(ValueError, match=r"X is on .* 1>, but .* 0> is in use"):
                call(given)
        with cupy.cuda.Device(1):
            quantizer = ProductQuantizer(2, 4, backend="cupy", random_state=0)
            again = quantizer.fit(X).transform(X)
        assert_array_equal(again, quantizer.set_params(backend="numpy").transform(X))


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


def test_searches_that_are_large_enough(fake_cupy, monkeypatch):
    fake_cupy(1)
    X, table = make((10, 4, 6))
    factors, sums = [table[:, :2], table[:3, :2]], [table, table]
    more, begin = [table, table, table[:2], table], np.zeros((10, 2, 1), dtype=int)
    codes = np.zeros((10, 2), dtype=int)
    searches = {
        6 * 4: lambda: engine.nearest(X, table),
        6 * 2 + 3 * 2: lambda: engine.nearest_product(X, factors),
        (1 + 3) * 6 * 4: lambda: engine.nearest_best(X, sums, 3),
        # Two sums are begun, then as many as there are, eight at most.
        (2 * 6 + 8 * 2 + 8 * 6) * 4: lambda: engine.nearest_best(
            X, more, 8, begin=begin
        ),
        5 * 2 * 2 * 6 * 4: lambda: engine.improve_sums(X, sums, codes, n_rounds=5),
        6 * 3 * 2: lambda: engine.nearest_kronecker(X, factors),
    }
    for per_row, search in searches.items():
        monkeypatch.setattr(_backend, "GPU_WORK", 10.0 * per_row + 1)
        search()
        monkeypatch.setattr(_backend, "GPU_WORK", 10.0 * per_row)
        with pytest.raises(AttributeError):  # so far the CuPy that is there goes
            search()


@every_scheme
def test_cupy_that_is_not_there(make_it, fake_cupy, monkeypatch):
    X = make((40, 6, 1))[0]
    fake_cupy(0)
    with pytest.raises(RuntimeError, match="finds no device"):
        make_it(backend="cupy").fit(X)
    monkeypatch.setitem(sys.modules, "cupy", None)
    estimator = make_it(backend="cupy")
    with pytest.raises(ImportError, match=r"skvq\[cupy\]"):
        estimator.fit(X)
    assert not hasattr(estimator, "n_features_in_")
    assert make_it().fit(X).codebook_sizes_  # "auto" says nothing


def test_backends_that_do_not_take_an_array(other):
    X = put(other, make((40, 6, 1))[0])
    for backend in {"numpy", "cupy"} - {other.__name__}:
        with pytest.raises(ValueError, match=f"backend='{backend}'"):
            VectorQuantizer(4, backend=backend).fit(X)


def test_numpy_users_import_nothing_else():
    program = (
        "import sys, numpy as np, skvq\n"
        "X = np.random.default_rng(0).normal(size=(500, 8))\n"
        "schemes = [skvq.VectorQuantizer(8), skvq.ProductQuantizer(2, 8),\n"
        "    skvq.UniformQuantizer(), skvq.FiniteScalarQuantizer(),\n"
        "    skvq.BinaryQuantizer(), skvq.SphericalQuantizer(),\n"
        "    skvq.ResidualQuantizer(2, 8, beam_size=2, n_refine=1),\n"
        "    skvq.KroneckerQuantizer((2, 4), 4),\n"
        "    skvq.MultiScaleQuantizer((4, 2), n_codewords=8),\n"
        "    skvq.AdditiveQuantizer(2, 8, max_iter=1)]\n"
        "for q in schemes:\n"
        "    q.fit(X).score(X)\n"
        "found = {'cupy', 'torch', 'array_api_strict', 'skvq.nearest._cupy',\n"
        "         'skvq.nearest._generic'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


# -- CuPy ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*SHAPES, (5000, 24, 256)], ids=str)
def test_kernels_on_a_device(cupy, shape):
    X, table = make(shape)
    for given in (cupy.asarray(X), X):
        with engine.using("cupy"):
            codes, found = engine.nearest(given, table)
        oracles.assert_nearest(to_host(codes), X, table, dtype=np.float32)
        assert_allclose(
            to_host(found),
            engine.paired(X, table, codes=to_host(codes)),
            rtol=1e-4,
            atol=1e-5,
        )
        tables = np.array_split(table, min(3, shape[1]), axis=1)
        with engine.using("cupy"):
            product = engine.nearest_product(given, tables)
        for j, columns in enumerate(np.array_split(X, len(tables), axis=1)):
            found_j = to_host(product)[:, j]
            oracles.assert_nearest(found_j, columns, tables[j], dtype=np.float32)
        sums = [table, table[::-1] / 2]
        best, errors = engine.nearest_best(cupy.asarray(X), sums, 3, n_best=2)
        wanted = engine.nearest_best(X, sums, 3, n_best=2)[1]
        assert_allclose(to_host(errors), wanted, rtol=1e-3, atol=1e-4)
        assert library_name(best) == "cupy"
        better, errors = engine.improve_sums(
            cupy.asarray(X), sums, best[:, 0, :], n_rounds=3
        )
        wanted = engine.improve_sums(X, sums, to_host(best)[:, 0], n_rounds=3)[1]
        assert_allclose(to_host(errors), wanted, rtol=1e-3, atol=1e-4)
        assert library_name(better) == "cupy"
        wide = np.repeat(X, 2, axis=1)
        factors = [table, np.array([[1.0, 2.0], [0.5, -1.0]], table.dtype)]
        pairs, errors = engine.nearest_kronecker(
            cupy.asarray(wide), factors, return_distances=True
        )
        wanted = engine.nearest_kronecker(wide, factors, return_distances=True)[1]
        assert_allclose(to_host(errors), wanted, rtol=1e-3, atol=1e-4)
        assert library_name(pairs) == "cupy"
    weights = np.random.default_rng(0).random(len(X))
    for w in (None, weights):
        sums, counts = engine.accumulate(cupy.asarray(X), codes, len(table), w)
        expected = oracles.sums_and_counts(X, to_host(codes), len(table), w)
        assert_allclose(to_host(sums), expected[0], rtol=1e-10, atol=1e-10)
        assert_allclose(to_host(counts), expected[1], rtol=1e-10)


def test_tiles_that_find_no_memory_are_halved():
    strict = load("array_api_strict")
    X, tried = put(strict, np.arange(400.0).reshape(200, 2)), []

    def work(rows):
        tried.append((rows.start, rows.stop))
        if rows.stop - rows.start > 60:
            raise MemoryError("out of memory")
        return rows.stop

    assert list(engine.row_tiles(X, 2, work)) == [50, 100, 150, 200]
    assert tried[:3] == [(0, 200), (0, 100), (0, 50)]
    with pytest.raises(MemoryError, match="one row of 2 numbers"):
        list(engine.row_tiles(X, 2, lambda rows: work(slice(0, 100))))

    def within(rows):
        return list(engine.row_tiles(X[:1, :], 5, lambda rows: work(slice(0, 100))))

    with pytest.raises(MemoryError, match="one row of 5 numbers"):
        list(engine.row_tiles(X, 2, within))


FLOATS = ["float32", "float64"]
KERNELS = [
    *(("smallest", dtype, {"GROUP": n}) for n in (32, 256) for dtype in FLOATS),
    *((name, dtype, {}) for name in ("few", "gaps") for dtype in FLOATS),
    *((name, dtype, {}) for name in ("add_pieces", "add_cells") for dtype in FLOATS),
    *(("flat", "float32", {"FOURS": fours}) for fours in (0, 1)),
    *(
        ("product", dtype, _cupy.product_constants(width, dtype, code) | {"ALIGNED": 0})
        for width in (1, 3, 4, 8, 16, 32)
        for dtype in FLOATS
        for code in ("uint8", "int64")
    ),
    (
        "product",
        "float32",
        _cupy.product_constants(8, "float32", "uint8") | {"ALIGNED": 1},
    ),
]


@pytest.mark.parametrize(
    ("name", "dtype", "constants"), KERNELS, ids=lambda each: str(each)
)
def test_kernels_compile_for_devices(name, dtype, constants):
    """By NVIDIA's own compiler, so that all of a thread's numbers are in registers."""
    compiler = CudaCompiler.find()
    if compiler is None:
        assert not (NEEDED and sys.platform == "linux")
        pytest.skip("needs the package nvidia-cuda-nvrtc")
    for architecture in ("sm_75", "sm_90"):
        source = _kernels.source(name, dtype, **constants)
        said = compiler.compile(source, architecture)
        spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", said)]
        assert spilled
        # That of 128 x 128 tiles is held to half of the registers: it spills some.
        assert max(spilled) <= (512 if name == "flat" else 0)


def test_the_benchmark_runs(cupy, capsys, monkeypatch):
    if not hasattr(cupy, "random"):  # the emulation has no generator of its own
        rng = np.random.default_rng(0)
        monkeypatch.setattr(
            cupy,
            "random",
            types.SimpleNamespace(
                standard_normal=lambda *args, **kwargs: cupy.asarray(
                    rng.standard_normal(*args, **kwargs)
                )
            ),
            raising=False,
        )
    folder = Path(__file__).parents[1] / "benchmarks"
    if not folder.is_dir():
        pytest.skip("the benchmarks are not beside the tests")
    monkeypatch.syspath_prepend(str(folder))
    benchmark = importlib.import_module("gpu")
    # Torch does not take arrays of the emulation.
    monkeypatch.setattr(benchmark, "load_torch", lambda: None)
    benchmark.main(["--quick", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert printed.count("argmin 300 x") == 3
    assert "product 300 x 128" in printed
    assert "k-means iteration 2400 x 128" in printed
    assert printed.count("multiply-adds") == 2


SCARCE = [
    "vq-progressive",
    "vq-cosine",
    "pq-one-subspace",
    "rq-refined",
    "rq-of-pq-beam-refined",
    "kronecker-3",
    "multiscale-smooth",
    "aq-searched",
    "uniform-defaults",
    "fsq-defaults",
    "spherical-defaults",
    "binary-defaults",
]


@each([BY_NAME[name] for name in SCARCE])
def test_a_device_that_refuses_memory(row, monkeypatch):
    X = row.data()
    # The device says that all is free, so that nothing but its refusal tells.
    monkeypatch.setattr(_cupy.CupyLibrary, "free_bytes", lambda self: 2**34)
    with loaded(EMULATED) as cupy:
        memory, given = emulator.device.MEMORY, put(cupy, X)
        before = memory.used
        emulator.device.reset()
        expected = row.make().fit(given).transform(given)
        memory.limit = before + 7 * (memory.peak - before) // 10
        codes = row.make().fit(given).transform(given)
        assert memory.refusals > 0
        assert_array_equal(to_host(codes), to_host(expected))


@pytest.mark.parametrize("chunk", [1, 500, 64 * 1024])
def test_rows_of_the_host_go_to_the_device_in_chunks(cupy, monkeypatch, chunk):
    monkeypatch.setattr(_cupy, "_CHUNK_BYTES", chunk)
    X, table = make((53, 6, 45), dtype="float64")
    factors = [table[:9, :2], table[:7, :3]]
    tables = np.split(table[:40], 4)
    begin = engine.nearest_best(X, tables[:2], 3, n_best=3)[0]
    codes = begin[:, 0].repeat(2, axis=1)
    searches = {
        "nearest": lambda X: engine.nearest(X, table),
        "cosine": lambda X: engine.nearest(X, table, "cosine"),
        "canberra": lambda X: engine.nearest(X, table, "canberra"),
        "only codes": lambda X: engine.nearest(X, table, return_distances=False),
        "product": lambda X: engine.nearest_product(
            X, [table[:, :2], table[:, 2:]], dtype=np.uint16
        ),
        "beam": lambda X: engine.nearest_best(X, tables, 4, n_best=2, dtype=np.uint8),
        "begun": lambda X: engine.nearest_best(
            X, tables, 4, begin=begin[: len(X)], return_distances=False
        ),
        "improved": lambda X: engine.improve_sums(
            X, tables, codes[: len(X)], n_rounds=3, seed=5, dtype=np.uint8
        ),
        "kronecker": lambda X: engine.nearest_kronecker(
            X, factors, return_distances=True
        ),
    }
    for name, search in searches.items():
        for given in (X, X[:0]):
            expected = search(given)
            with engine.using("cupy"):
                found = search(given)
            for a, b in zip(found, expected, strict=True):
                assert type(a) is type(b), name
                if a is not None:
                    assert a.dtype == b.dtype, name
                    assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)
    X[40] = 0
    with engine.using("cupy"), pytest.raises(ValueError, match="row 40 of X"):
        engine.nearest(X, table, "cosine")
    X[50] = np.inf
    with engine.using("cupy"), pytest.raises(ValueError, match="infinity"):
        engine.nearest(X, table)


@each([row for row in FOLLOWING if hasattr(row.make(), "backend") and row.name in FEW])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_searches_on_a_device_for_rows_of_the_host(cupy, row):
    X, reference = row.data(), row.fitted()
    estimator = clone(row.make().set_params(backend="cupy")).fit(X)
    if row.name not in AMPLIFYING:
        assert estimator.distortion_ == pytest.approx(reference.distortion_, rel=1e-5)
    copy = pickle.loads(pickle.dumps(reference)).set_params(backend="cupy")
    codes = copy.transform(X)
    assert isinstance(codes, np.ndarray)
    assert_array_equal(codes, reference.transform(X))
    assert pickle.loads(pickle.dumps(estimator)).backend == "cupy"


@pytest.mark.parametrize("cupy", [DEVICE], indirect=True)
@every_following_row
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_on_a_device(cupy, row):
    X, reference = row.data(), row.fitted()
    estimator = learned_with(row, cupy.asarray(X))
    codes = estimator.transform(cupy.asarray(X))
    assert library_name(codes) == "cupy"
    assert (to_host(codes) != reference.transform(X)).mean() <= 0.01
    assert estimator.distortion_ == pytest.approx(reference.distortion_, rel=1e-5)
