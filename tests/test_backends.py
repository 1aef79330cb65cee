"""Where a search is computed: the choice, and what it imports."""

import importlib
import subprocess
import sys
import types

import numpy as np
import pytest
from arrays.followers import every_scheme
from arrays.libraries import make

from skvq import nearest as engine
from skvq.nearest.backends import choice
from skvq.nearest.backends.host import HOST


@pytest.fixture
def fake_cupy(monkeypatch):
    """CuPy as far as the choice looks: it is there, and sees so many devices."""

    # It has no arrays, with which it could be tried out.
    monkeypatch.setattr(choice, "_computes", lambda: True)

    def install(n_devices):
        module = types.ModuleType("cupy")
        module.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        # Whoever asks whether an array is one of CuPy's looks for its class.
        module.ndarray = module.generic = type("ndarray", (), {})
        module.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDeviceCount=lambda: n_devices)
        )
        monkeypatch.setitem(sys.modules, "cupy", module)
        choice.cupy_has_device.cache_clear()

    yield install
    choice.cupy_has_device.cache_clear()


@pytest.mark.parametrize("n_devices", [0, 1])
def test_auto_takes_large_searches_to_a_device(fake_cupy, n_devices):
    fake_cupy(n_devices)
    on_device = importlib.import_module("skvq.nearest.backends.cupy").FROM_HOST
    X = np.zeros((2, 2))
    large, small = choice.GPU_WORK / 2, choice.GPU_WORK / 4
    assert choice.backend_for(X, large) is (
        on_device if n_devices else choice.on_host()
    )
    assert choice.backend_for(X, small) is choice.on_host()
    with engine.using("numpy"):
        assert choice.backend_for(X, large) is HOST
    with engine.using("cupy"):
        assert choice.backend_for(X, small) is on_device
    assert choice.backend_for([[0.0]], small) is choice.on_host()


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
        monkeypatch.setattr(choice, "GPU_WORK", 10.0 * per_row + 1)
        search()
        monkeypatch.setattr(choice, "GPU_WORK", 10.0 * per_row)
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
    with pytest.raises(ImportError, match=r"skvq\[cuda12\].*skvq\[cuda13\]"):
        estimator.fit(X)
    assert not hasattr(estimator, "n_features_in_")
    assert make_it().fit(X).codebook_sizes_  # "auto" says nothing


@pytest.mark.long
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
        "found = {'cupy', 'torch', 'array_api_strict', 'array_api_compat',\n"
        "         'skvq.nearest.backends.cupy'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
