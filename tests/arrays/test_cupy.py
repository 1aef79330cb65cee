"""CuPy: on a device, and in an emulation that needs none."""

import importlib
import os
import pickle
import re
import sys
import threading
import types

import emulator
import numpy as np
import oracles
import pytest
from arrays.followers import AMPLIFYING, FEW, FOLLOWING, every_scheme, learned_with
from arrays.libraries import (
    DEVICES,
    EMULATED,
    NEEDED,
    SHAPES,
    library_name,
    loaded,
    make,
    put,
)
from emulator import CudaCompiler
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import clone
from table import BY_NAME, each, vq

from skvq import ProductQuantizer, VectorQuantizer
from skvq import nearest as engine
from skvq._arrays import to_host
from skvq.nearest.backends import base, choice, kernels
from skvq.nearest.backends import cupy as of_cupy


def test_a_device_that_cannot_compute_is_none(monkeypatch):
    with loaded(EMULATED) as cupy:
        assert choice.cupy_has_device()
        choice.cupy_has_device.cache_clear()
        kernels.kernel.cache_clear()

        def no_compiler(*args, **kwargs):
            raise ImportError("libnvrtc.so cannot be opened")

        monkeypatch.setattr(cupy, "RawKernel", no_compiler)
        assert not choice.cupy_has_device()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forks_have_no_device():
    with loaded(EMULATED):
        assert choice.cupy_has_device()
        child = os.fork()
        if child == 0:
            os._exit(int(choice.cupy_has_device()))
        assert os.waitpid(child, 0)[1] == 0
        assert choice.cupy_has_device()


def test_large_matrices_go_to_the_device_as_a_whole(monkeypatch):
    X = make((900, 8, 1))[0]
    quantizer = VectorQuantizer(16, random_state=0).fit(X)
    monkeypatch.setattr("skvq.nearest.backends.host._TILE_ELEMENTS", 20)
    monkeypatch.setattr(of_cupy, "_CHUNK_BYTES", 100 * 32)
    expected = quantizer.transform(X)
    with loaded(EMULATED):
        launches = emulator.device.RUNTIME.n_launches
        monkeypatch.setattr(choice, "GPU_WORK", 900.0 * 8 * 16 + 1)
        quantizer.transform(X)
        assert "product" not in launches
        monkeypatch.setattr(choice, "GPU_WORK", 900.0 * 8 * 16)
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
    monkeypatch.setattr(of_cupy, "_CHUNK_BYTES", 200)
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


@pytest.mark.parametrize("shape", [*SHAPES, (2500, 24, 256)], ids=str)
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
        sums, counts = engine.accumulate(cupy.asarray(X), codes, len(table), weights=w)
        expected = oracles.sums_and_counts(X, to_host(codes), len(table), w)
        assert_allclose(to_host(sums), expected[0], rtol=1e-10, atol=1e-10)
        assert_allclose(to_host(counts), expected[1], rtol=1e-10)


def test_kernels_know_the_states():
    near, out = (kernels.STATES[name] for name in ("NEAR", "OUT"))
    assert (near, out) == (base.DOUBTFUL, base.OUT_OF_REACH)


FLOATS = ["float32", "float64"]


KERNELS = [
    *(("smallest", dtype, {"GROUP": n}) for n in (32, 256) for dtype in FLOATS),
    *((name, dtype, {}) for name in ("few", "gaps") for dtype in FLOATS),
    *((name, dtype, {}) for name in ("add_pieces", "add_cells") for dtype in FLOATS),
    *(("state", dtype, {}) for dtype in FLOATS),
    *(("second", dtype, {"W": n}) for n in (1, 8, 64) for dtype in FLOATS),
    *(
        ("product", dtype, of_cupy.product_constants(width, dtype) | {"ALIGNED": 0})
        for width in (1, 3, 4, 8, 16, 32, 48, 64)
        for dtype in FLOATS
    ),
    (
        "product",
        "float32",
        of_cupy.product_constants(8, "float32") | {"ALIGNED": 1},
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
        source = kernels.source(name, dtype, **constants)
        said = compiler.compile(source, architecture)
        spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", said)]
        assert spilled
        assert max(spilled) == 0


def test_the_benchmark_runs(cupy, capsys, monkeypatch, tree):
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
    monkeypatch.syspath_prepend(str(tree / "benchmarks"))
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
    "rq-of-pq-beam-refined",
    "kronecker-3",
    "multiscale-smooth",
    "uniform-defaults",
    "spherical-defaults",
    "rotated-defaults",
]


@each([BY_NAME[name] for name in SCARCE])
def test_a_device_that_refuses_memory(row, monkeypatch):
    X = row.data()
    # The device says that all is free, so that nothing but its refusal tells.
    monkeypatch.setattr(of_cupy.CupyBackend, "free_bytes", lambda self: 2**34)
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
    monkeypatch.setattr(of_cupy, "_CHUNK_BYTES", chunk)
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


@pytest.mark.parametrize("cupy", DEVICES, indirect=True)
@each(FOLLOWING if DEVICES else [])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_on_a_device(cupy, row):
    X, reference = row.data(), row.fitted()
    estimator = learned_with(row, cupy.asarray(X))
    codes = estimator.transform(cupy.asarray(X))
    assert library_name(codes) == "cupy"
    assert (to_host(codes) != reference.transform(X)).mean() <= 0.01
    assert estimator.distortion_ == pytest.approx(reference.distortion_, rel=1e-5)
