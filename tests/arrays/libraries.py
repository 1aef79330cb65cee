"""The libraries whose arrays the tests hold, and what is common to these tests.

With SKVQ_NEEDS_ARRAYS=1, as in CI, a test fails that would skip for want of a library.
"""

import importlib
import importlib.util
import os
from contextlib import contextmanager

import numpy as np
import pytest
from emulator import emulated_cupy, find_compiler
from numpy.testing import assert_array_equal
from sklearn import config_context

from skvq._arrays import to_host
from skvq.nearest import backend_of
from skvq.nearest.backends import arrays, choice, kernels

NEEDED = os.environ.get("SKVQ_NEEDS_ARRAYS") == "1"
OTHERS = ["array_api_strict", "torch"]
# A library that skvq does not know, with a backend of its own.
OWN = "own"
# CuPy, in an emulation for which no device is needed, and on a device.
EMULATED = "cupy"
DEVICES = []
if importlib.util.find_spec("cupy") is not None:
    DEVICES = [pytest.param("device", marks=pytest.mark.gpu)]

# Of samples, features and codewords.
SHAPES = [(1, 1, 1), (7, 1, 5), (100, 2, 17), (257, 8, 256), (40, 33, 300)]


def library_name(array):
    return backend_of(array).name


def load(name):
    if NEEDED:
        return importlib.import_module(name)
    return pytest.importorskip(name)


def _forget_cupy():
    """Forget what was found out about the CuPy there was."""
    choice.cupy_has_device.cache_clear()
    kernels.kernel.cache_clear()


@contextmanager
def loaded(name):
    """Give a library, or skip."""
    if name == EMULATED:
        if find_compiler() is None:
            assert not NEEDED
            pytest.skip("the emulation of CUDA kernels needs a C++ compiler")
        if arrays._compat is None:
            assert not NEEDED
            pytest.skip("no array-api-compat, without which CuPy has no namespace")
        with emulated_cupy() as library:
            _forget_cupy()
            yield library
        _forget_cupy()
    elif name == OWN:
        if not hasattr(np, "permute_dims"):
            pytest.skip("its functions are those of NumPy 2")
        importlib.import_module("arrays.own_backend")
        yield importlib.import_module("arrays.own_library")
    elif name == "device":
        library = pytest.importorskip("cupy")
        if not choice.cupy_has_device():
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


def put(xp, array):
    return xp.asarray(np.array(array))


def make(shape, seed=0, dtype="float32"):
    n_samples, n_features, n_codewords = shape
    rng = np.random.default_rng([seed, *shape])
    X = rng.normal(1, 1, (n_samples, n_features)).astype(dtype)
    return X, rng.normal(1, 1, (n_codewords, n_features)).astype(dtype)


def assert_same(found, expected, library):
    assert library_name(found) == library.__name__
    assert_array_equal(to_host(found), expected)


def to_signed(codes, library):
    """Codes in the dtype that the library has for them."""
    wide = {"uint16": np.int32, "uint32": np.int64}
    return codes.astype(wide.get(str(codes.dtype), codes.dtype))


def neighbours(values):
    """The values, and the numbers right below and above each."""
    return np.concatenate(
        [values, np.nextafter(values, -np.inf), np.nextafter(values, np.inf)]
    )
