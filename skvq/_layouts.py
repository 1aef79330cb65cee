"""Conversion of estimators pickled in old codec files to today's attributes.

In files of versions 1 and 2 a fitted table was an array, and scalar levels and pyramids
had other attributes; in files of version 3 nesting schemes had.  Each object is
converted when it gets its state, parts before the objects that hold them.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from skvq._version import __version__
from skvq.additive import AdditiveQuantizer
from skvq.base import BaseQuantizer
from skvq.coding.levels import Levels, LevelTables
from skvq.coding.pyramid import Pyramid
from skvq.coding.squash import Distribution
from skvq.finite import FiniteScalarQuantizer
from skvq.kronecker import KroneckerQuantizer
from skvq.learning.online import StreamState
from skvq.multiscale import MultiScaleQuantizer
from skvq.nearest.tables import Columns, Table, Tables
from skvq.product import ProductQuantizer
from skvq.residual import _TRAINING_BEAM, ResidualQuantizer
from skvq.vector import VectorQuantizer

State = dict[str, Any]


def loads(content: bytes) -> Any:
    """Unpickle the content of a file of versions 1 to 3."""
    return _Unpickler(io.BytesIO(content)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("skvq.residual", "Stages"):
            return _Gone
        found = super().find_class(module, name)
        is_old = isinstance(found, type) and issubclass(found, tuple(_CONVERTERS))
        return _stand_in(found) if is_old else found


class _Gone:
    """A class that no longer exists; its state is converted elsewhere."""


def _stand_in(cls: type[Any]) -> type[Any]:
    """Return a class whose instances become instances of `cls` with their state."""

    def set_state(self: Any, state: State) -> None:
        object.__setattr__(self, "__class__", cls)
        state = dict(state)
        for base, convert in _CONVERTERS.items():
            if issubclass(cls, base):
                convert(state)
        if isinstance(self, BaseQuantizer):
            self.__setstate__({**state, "_skvq_version": __version__})
        else:
            vars(self).update(state)

    return type(cls.__name__, (cls,), {"__setstate__": set_state})


# -- conversions of states in place ----------------------------------------------------


def _quantizer(state: State) -> None:
    if "_namespace_" in state:
        state["_home_"] = state.pop("_namespace_")


def _vector(state: State) -> None:
    if "_codebook_" in state:
        state["_table_"] = Table(state.pop("_codebook_"))


def _product(state: State) -> None:
    if "quantizers_" in state:
        state.pop("_tables_", None)


def _residual(state: State) -> None:
    if "quantizers_" in state:
        state.pop("_stages_", None)
        parts = state["quantizers_"]
        several = max(state["beam_size"], _TRAINING_BEAM)
        beam = several if parts[0]._can_encode_best() else 1
        state.setdefault("fit_beam_size_", beam)


def _tables(state: State) -> None:
    if "_tables_" in state and not isinstance(state["_tables_"], Tables):
        tables = [Table(table) for table in state["_tables_"]]
        # A shared table was stored once.
        times = len(state["codebook_sizes_"]) // len(tables)
        state["_tables_"] = Tables(tables * times)


def _multiscale(state: State) -> None:
    if "_table_" not in state:
        return
    state.setdefault("biases_", None)
    if not isinstance(state["_table_"], Table):
        table = state["_table_"] = Table(state["_table_"])
        codebook = Table(state["_codebook_"]) if state["_exponent_"] else table
        state["_codebook_"] = codebook


def _finite(state: State) -> None:
    if "_tables_" in state and not isinstance(state["_tables_"], LevelTables):
        state["_tables_"] = LevelTables(state["_tables_"])


def _distribution(state: State) -> None:
    if "_knots" not in state:
        return
    edges, knots = state["_levels"].edges, state.pop("_knots")
    state.update(vars(Distribution(state["sizes"], edges, knots)))


def _levels(state: State) -> None:
    if "edges" in state:
        state["_edges"] = Columns(state.pop("edges"))
        state["_tables"] = Columns(state["_tables"])


def _pyramid(state: State) -> None:
    names = "map_shape", "scales", "dtype", "smoothing"
    state.update(vars(Pyramid(*(state[name] for name in names))))


def _stream(state: State) -> None:
    """Start the counts that streams of version 1 did not have."""
    if "usage" in state:
        state["support"] = np.maximum(state.pop("usage"), state["counts"])
        state["costs"] = np.zeros(len(state["codebook"]))
        state["idle"] = np.zeros(len(state["codebook"]), dtype=np.int64)
        state["waited"] = 0


_CONVERTERS: dict[type[Any], Callable[[State], None]] = {
    BaseQuantizer: _quantizer,
    VectorQuantizer: _vector,
    ProductQuantizer: _product,
    ResidualQuantizer: _residual,
    AdditiveQuantizer: _tables,
    KroneckerQuantizer: _tables,
    MultiScaleQuantizer: _multiscale,
    FiniteScalarQuantizer: _finite,
    Distribution: _distribution,
    Levels: _levels,
    Pyramid: _pyramid,
    StreamState: _stream,
}
