"""The classes that codec files may contain, by their names in files.

A class that fitted quantizers keep needs a line here; the test that saves and loads
every row of the table of parameters asks for it.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metadata_routing import MetadataRequest

from skvq._codec.encoding import Kind, State
from skvq._codec.transformers import TRANSFORMERS, Declared
from skvq._compat import CALLBACKS
from skvq._deprecation import with_new_names
from skvq.additive import AdditiveQuantizer
from skvq.base import BaseQuantizer
from skvq.binary import BinaryQuantizer
from skvq.coding.charges import Charge, Prices
from skvq.coding.levels import CellMeans, Grid, Levels, LevelTables
from skvq.coding.pyramid import Pyramid, Smoothing
from skvq.coding.radius import (
    Float32Radius,
    LogRadius,
    RadiusCode,
    ScalarRadius,
)
from skvq.coding.squash import Clamp, Distribution, Spread, Tanh
from skvq.coding.trellis import TrellisCode
from skvq.coding.turns import HadamardTurn, MatrixTurn
from skvq.features import QuantizedFeatures
from skvq.finite import FiniteScalarQuantizer
from skvq.front import FrontQuantizer
from skvq.grid import UniformQuantizer, _Seen
from skvq.kronecker import KroneckerQuantizer
from skvq.learning.online import StreamState
from skvq.learning.scalar import Averages, Moments, Spans
from skvq.multiscale import MultiScaleQuantizer
from skvq.nearest import Trellis
from skvq.nearest.tables import Columns, Table, Tables
from skvq.product import ProductQuantizer
from skvq.residual import ResidualQuantizer
from skvq.rotated import RotatedQuantizer
from skvq.scaled import ScaledQuantizer
from skvq.sphere import SphericalQuantizer
from skvq.trellis import TrellisQuantizer
from skvq.vector import VectorQuantizer

# Attributes of estimators that are neither parameters nor end in an underscore.
_REQUESTS, _OUTPUT = "_metadata_request", "_sklearn_output_config"
_VERSIONS = ("_skvq_version", "_sklearn_version")
_COUNTS = "code_counts_"
_OTHERS = {_REQUESTS, _OUTPUT, *_VERSIONS}
# Libraries to whose arrays a codec may return: files must not choose what is imported.
_HOMES = ("numpy", "torch", "cupy", "array_api_strict")


# -- estimators ------------------------------------------------------------------------


def _estimator(cls: type[Any], declared: Declared | None = None) -> Kind:
    """Return the kind of an estimator; with these fitted attributes only, if any."""
    module = "skvq" if declared is None else declared.module
    name = f"{module}.{cls.__name__}"

    def take(estimator: Any) -> State:
        state = dict(estimator.__getstate__())
        state.pop(CALLBACKS, None)  # for the fits of this process
        for attribute in state:
            _check_attribute(cls, name, attribute, declared)
        if _REQUESTS in state:
            state[_REQUESTS] = dict(_requests(state[_REQUESTS]))
        if state.get(_COUNTS) is not None:
            state[_COUNTS] = _joined_counts(state[_COUNTS])
        if state.get("_home_") == _HOMES[0]:  # the same as no home
            del state["_home_"]
        return state

    def make(state: State) -> Any:
        if declared is None:
            state = with_new_names(cls, state)
        for attribute in state:
            _check_attribute(cls, name, attribute, declared)
        if state.get(_COUNTS) is not None:
            state[_COUNTS] = _split_counts(state[_COUNTS])
        return _made(cls, name, state, declared)

    return Kind(name, cls, take, make)


@cache
def _parameters(cls: Any) -> frozenset[str]:
    return frozenset(cls._get_param_names())


def _check_attribute(
    cls: Any, name: str, attribute: str, declared: Declared | None
) -> None:
    if attribute in _parameters(cls) or attribute in _OTHERS:
        return
    if declared is None:
        known = attribute.endswith("_")
    else:
        known = attribute in declared.attributes or attribute in declared.optional
    if not known:
        raise TypeError(
            f"{name} has an attribute {attribute!r}, which is neither a parameter nor "
            "a fitted attribute that skvq knows"
        )


def _requests(found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the metadata that each method requests for routing."""
    for method, requests in vars(found).items():
        if getattr(requests, "requests", None):
            yield method, dict(requests.requests)


def _made(cls: Any, name: str, state: State, declared: Declared | None) -> Any:
    state, names = dict(state), _parameters(cls)
    parameters = {key: state.pop(key) for key in list(state) if key in names}
    requests, output = state.pop(_REQUESTS, None), state.get(_OUTPUT)
    if output is not None and not isinstance(output, dict):
        raise ValueError(f"{name} has an invalid output configuration")
    if declared is not None:
        missing = set(declared.attributes) - state.keys()
        if missing and state.keys() - {_OUTPUT, *_VERSIONS}:
            raise ValueError(f"{name} has no {sorted(missing)[0]}")
    estimator = cls(**parameters)
    if state.get("_home_", "numpy") not in _HOMES:
        state["_home_"] = "numpy"
    estimator.__setstate__(state)
    estimator._validate_params()
    if requests is not None:
        estimator._metadata_request = _routing(estimator, requests)
    if isinstance(estimator, BaseQuantizer) and estimator.__sklearn_is_fitted__():
        _check_fitted(estimator)
        # Parts whose table was replaced keep the counts of the table before.
        sizes = estimator.codebook_sizes_
        if len(getattr(estimator, _COUNTS, sizes)) != len(sizes):
            raise ValueError(f"{name} has code_counts_ of other columns")
    return estimator


def _routing(estimator: BaseEstimator, requests: dict[str, Any]) -> MetadataRequest:
    routing = estimator.get_metadata_routing()
    for method, asked in requests.items():
        for parameter, alias in asked.items():
            getattr(routing, method).add_request(param=parameter, alias=alias)
    return routing


def _check_fitted(quantizer: Any) -> None:
    """Raise unless the sizes of a quantizer are valid and agree with its parts."""
    sizes, width = quantizer.codebook_sizes_, quantizer.n_features_in_
    if type(sizes) is not tuple or not sizes or not all(map(_is_size, sizes)):
        raise ValueError("its codebook_sizes_ are not valid")
    if not _is_size(width):
        raise ValueError("its n_features_in_ is not valid")
    for kept in vars(quantizer).values():
        found = _sizes_of(kept)
        # Sizes of a length's columns come after those of a direction's.
        if found and found not in (sizes[: len(found)], sizes[-len(found) :]):
            raise ValueError(f"its codebook_sizes_ are not the {found} that it keeps")
    turn = vars(quantizer).get("_turn_")
    if turn is not None and turn.n_features != width:
        raise ValueError("its n_features_in_ are not those of its rotation")
    part = vars(quantizer).get("quantizer_")
    if turn is not None and turn.n_components != getattr(part, "n_features_in_", None):
        raise ValueError("its quantizer_ is not as wide as its rotation")
    if isinstance(quantizer, FrontQuantizer):
        _check_part(quantizer, sizes)
    parts = vars(quantizer).get("quantizers_")
    if parts is None:
        return
    if not all(isinstance(part, BaseQuantizer) for part in parts):
        raise ValueError("its quantizers_ are not valid")
    if sum((part.codebook_sizes_ for part in parts), ()) != sizes:
        raise ValueError("its codebook_sizes_ are not those of its quantizers_")


def _joined_counts(counts: tuple[np.ndarray | None, ...]) -> State:
    """Return the counts of all columns as two arrays; columns may be thousands."""
    lengths = [-1 if found is None else len(found) for found in counts]
    there = [found for found in counts if found is not None]
    return {
        "values": np.concatenate([np.zeros(0), *there]),
        "lengths": np.array(lengths, dtype=np.int64),
    }


def _split_counts(state: State) -> tuple[np.ndarray | None, ...]:
    values, lengths = state["values"], state["lengths"]
    if values.dtype != np.float64 or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError("its code_counts_ are not numbers of zero or more")
    there = np.maximum(lengths, 0)
    if lengths.min(initial=0) < -1 or there.sum() != len(values):
        raise ValueError("its code_counts_ are not as many as they say")
    split = np.split(values, np.cumsum(there)[:-1])
    return tuple(
        None if length < 0 else found
        for length, found in zip(lengths.tolist(), split, strict=True)
    )


def _check_part(front: Any, sizes: tuple[int, ...]) -> None:
    """Raise unless the sizes of a scheme are those of its part plus its own."""
    part = vars(front).get("quantizer_")
    if not isinstance(part, BaseQuantizer) or not part.__sklearn_is_fitted__():
        raise ValueError("its quantizer_ is not valid")
    if (*part.codebook_sizes_, *front._own_sizes()) != sizes:
        raise ValueError("its codebook_sizes_ are not those of its quantizer_")
    if isinstance(front, ScaledQuantizer):
        if front.n_features_in_ != part.n_features_in_:
            raise ValueError("its n_features_in_ is not that of its quantizer_")


def _sizes_of(kept: Any) -> tuple[int, ...]:
    """Return the numbers of levels that an object has; more may follow from it."""
    if isinstance(kept, LevelTables):
        return tuple(map(len, kept._tables.arrays))
    return tuple(getattr(kept, "sizes", ()))


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 2**32


# -- objects that estimators keep ------------------------------------------------------


def _plain(
    name: str, cls: type[Any], check: Callable[[Any], Any] | None = None
) -> Kind:
    """Return the kind of a class that is described by its attributes."""

    def take(value: Any) -> State:
        return dict(value.__getstate__() or {})

    def make(state: State) -> Any:
        value: Any = object.__new__(cls)
        vars(value).update(state)
        if check is not None:
            check(value)
        return value

    return Kind(name, cls, take, make)


def _named_tuple(name: str, cls: Any) -> Kind:
    return Kind(name, cls, cls._asdict, lambda state: cls(**state))


def _locked(array: Any) -> np.ndarray:
    """Return an array that nobody can write to, so that tables need no copy of it."""
    owner = array
    while getattr(owner, "flags", None) is not None:
        owner.flags.writeable = False
        owner = owner.base
    return array


def _take_table(table: Table) -> State:
    return {"codewords": table.codewords, "exact": table.exact}


def _make_table(state: State) -> Table:
    return Table(_locked(state.pop("codewords")), **state)


def _take_columns(columns: Columns) -> State:
    """Return columns as one array, which is read much faster than thousands."""
    distinct = list({id(array): array for array in columns.arrays}.values())
    number = {id(array): i for i, array in enumerate(distinct)}
    return {
        "values": np.concatenate(distinct),
        "lengths": np.array([len(array) for array in distinct], dtype=np.int64),
        "of_column": np.array([number[id(array)] for array in columns.arrays]),
    }


def _make_columns(state: State) -> Columns:
    values, lengths, of_column = (
        state[name] for name in ("values", "lengths", "of_column")
    )
    if (lengths < 0).any() or lengths.sum() != len(values):
        raise ValueError("its columns have other lengths than it says")
    distinct = np.split(_locked(values), np.cumsum(lengths)[:-1])
    return Columns([distinct[i] for i in of_column.tolist()])


def _check_grid(grid: Grid) -> None:
    shape = (len(grid.sizes),)
    if grid.low.shape != shape or grid.high.shape != shape:
        raise ValueError("its ranges are not as many as its columns")
    if not grid.low.dtype == grid.high.dtype == np.float64:
        raise ValueError("its ranges are not of float64")


def _check_levels(levels: Levels) -> None:
    if [len(table) for table in levels._tables.arrays] != list(levels.sizes):
        raise ValueError("its levels are not as many as it says")


def _check_matrix_turn(turn: MatrixTurn) -> None:
    matrix = turn.components
    if turn._mean.shape != (1, matrix.shape[1]) or turn.dtype != matrix.dtype:
        raise ValueError("its mean is not that of its components")


def _check_hadamard(turn: HadamardTurn) -> None:
    d, signs, orders = turn.n_features, turn.signs, turn.orders
    if turn._mean.shape != (1, d) or signs.ndim != 2 or signs.shape[1] != d:
        raise ValueError("its mean is not as wide as its signs")
    if signs.dtype != np.int8 or not np.isin(signs, (-1, 1)).all():
        raise ValueError("its signs are not valid")
    if orders.shape != signs.shape or orders.dtype != np.int64:
        raise ValueError("its orders are not as many as its signs")
    if not (np.sort(orders, axis=1) == np.arange(d)).all():
        raise ValueError("its orders are not valid")
    if type(turn.n_components) is not int or not 1 <= turn.n_components <= d:
        raise ValueError("its n_components are not those of its features")


def _make_charge(state: State) -> Charge:
    price, bits = state["price"], state["bits"]
    if type(price) is not float or not 0 < price < np.inf:
        raise ValueError("its price of bits is not valid")
    if bits.ndim != 1 or bits.dtype != np.float64:
        raise ValueError("its bits of codes are not one number of float64 for each")
    if not np.isfinite(bits).all() or (bits < 0).any():
        raise ValueError("its bits of codes are not numbers of zero or more")
    return Charge(**state)


def _make_prices(state: State) -> Prices:
    bias, shares = state["bias"], state["shares"]
    if bias.ndim != 1 or not bias.dtype == shares.dtype == np.float64:
        raise ValueError("its prices of codes are not one number of float64 for each")
    if not np.isfinite(bias).all() or (bias < 0).any():
        raise ValueError("its prices of codes are not numbers of zero or more")
    if shares.shape != bias.shape or not (0 < shares).all() or not (shares <= 1).all():
        raise ValueError("its shares of codes are not as many as its prices")
    return Prices(**state)


def _check_cell_means(levels: CellMeans) -> None:
    if not isinstance(levels.cells, Grid):
        raise ValueError("its cells are not valid")
    if [len(table) for table in levels._tables.arrays] != list(levels.cells.sizes):
        raise ValueError("its levels are not as many as its cells")


def _take_random_state(rng: np.random.RandomState) -> State:
    name, key, position, has_gauss, gauss = rng.get_state()
    if name != "MT19937":
        raise TypeError(f"a RandomState of {name} is not one that skvq reads")
    return {"key": key, "position": position, "has_gauss": has_gauss, "gauss": gauss}


def _make_random_state(state: State) -> np.random.RandomState:
    if not 0 <= state["position"] <= len(state["key"]):
        raise ValueError("a RandomState of it is not valid")
    rng = np.random.RandomState(0)
    names = "key", "position", "has_gauss", "gauss"
    rng.set_state(("MT19937", *(state[name] for name in names)))
    return rng


_QUANTIZERS = (
    AdditiveQuantizer,
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    SphericalQuantizer,
    TrellisQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
_KINDS = (
    *map(_estimator, _QUANTIZERS),
    *(_estimator(cls, declared) for cls, declared in TRANSFORMERS.items()),
    Kind("skvq.nearest.Table", Table, _take_table, _make_table),
    Kind(
        "skvq.nearest.Tables",
        Tables,
        lambda tables: {"tables": list(tables)},
        lambda state: Tables(state["tables"]),
    ),
    Kind("skvq.nearest.Columns", Columns, _take_columns, _make_columns),
    _plain("skvq.coding.Grid", Grid, _check_grid),
    _plain("skvq.coding.Levels", Levels, _check_levels),
    _plain("skvq.coding.LevelTables", LevelTables),
    Kind("skvq.coding.Charge", Charge, Charge._asdict, _make_charge),
    Kind("skvq.coding.Prices", Prices, Prices._asdict, _make_prices),
    _plain("skvq.coding.CellMeans", CellMeans, _check_cell_means),
    _plain("skvq.coding.RadiusCode", RadiusCode),
    _plain("skvq.coding.ScalarRadius", ScalarRadius),
    _plain("skvq.coding.LogRadius", LogRadius),
    _plain("skvq.coding.Float32Radius", Float32Radius),
    _plain("skvq.coding.MatrixTurn", MatrixTurn, _check_matrix_turn),
    _plain("skvq.coding.HadamardTurn", HadamardTurn, _check_hadamard),
    _plain("skvq.coding.Pyramid", Pyramid),
    _plain("skvq.coding.TrellisCode", TrellisCode, TrellisCode.check),
    Kind(
        "skvq.nearest.Trellis",
        Trellis,
        lambda trellis: {
            "state_bits": trellis.state_bits,
            "step_bits": trellis.step_bits,
            "has_subsets": trellis.has_subsets,
        },
        lambda state: Trellis(**state),
    ),
    _named_tuple("skvq.coding.Smoothing", Smoothing),
    _plain("skvq.grid.Tanh", Tanh),
    _plain("skvq.grid.Spread", Spread),
    _plain("skvq.grid.Distribution", Distribution),
    _plain("skvq.learning.StreamState", StreamState),
    _plain("skvq.grid.Clamp", Clamp),
    _named_tuple("skvq.grid.Seen", _Seen),
    _named_tuple("skvq.learning.Averages", Averages),
    _named_tuple("skvq.learning.Spans", Spans),
    _named_tuple("skvq.learning.Moments", Moments),
    Kind(
        "numpy.random.RandomState",
        np.random.RandomState,
        _take_random_state,
        _make_random_state,
    ),
)
BY_CLASS = {kind.cls: kind for kind in _KINDS}
BY_NAME = {kind.name: kind for kind in _KINDS}
