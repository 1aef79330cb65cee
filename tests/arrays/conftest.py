"""Every library in turn."""

import pytest
from arrays.libraries import DEVICES, EMULATED, OTHERS, OWN, followed, loaded


@pytest.fixture(params=["numpy", *OTHERS, EMULATED, OWN])
def xp(request):
    """Every library; called, NumPy's arrays become its own."""
    with loaded(request.param) as library:
        yield library


@pytest.fixture(params=[*OTHERS, EMULATED])
def other(request):
    """A library that is not NumPy, with scikit-learn's dispatch switched on."""
    with followed(request.param) as library:
        yield library


@pytest.fixture(params=[*OTHERS, EMULATED, *DEVICES])
def place(request):
    """The same, and CuPy on a device."""
    with followed(request.param) as library:
        yield library


@pytest.fixture(params=[EMULATED, *DEVICES])
def cupy(request):
    """CuPy, in the emulation and on a device; its arrays are followed always."""
    with loaded(request.param) as library:
        yield library


@pytest.fixture(params=[2**21, 257], ids=["one-tile", "many-tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr("skvq.nearest.backends.base.TILE_ELEMENTS", request.param)
