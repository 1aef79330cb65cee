"""Validation of samples, weights and codes, and the warnings of a fit."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, validate_data

from skvq import nearest
from skvq._checks import (
    as_plain,
    check_array_of_dask,
    check_unmasked,
    class_name,
    naming,
    refusal,
    users_level,
)
from skvq._columns import refuse_list_columns
from skvq._compat import is_library_followed

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

# Number of values up to which checking each of them takes no noticeable time.
_FEW_NUMBERS = 2**14
# Numbers that are looked at together where one that is not finite is to be named.
_LOOKED_AT = 2**20


def check_samples(
    estimator: Any, X: Any, *, reset: bool, min_samples: int = 1, finite: bool = True
) -> Any:
    """Validate X as scikit-learn does, but keep its dtype and its memory map.

    Estimators compute in blocks of rows, in the dtype given by `nearest.compute_dtype`;
    converting here would copy all of X.  With `finite` False, the caller looks for
    numbers that are not finite.
    """
    if not reset and _is_plain(estimator, X) and len(X) >= min_samples:
        return X
    if nearest.is_dask(X):
        return _check_dask(estimator, X, reset, min_samples)
    _refuse_streams(X)
    refuse_list_columns(X, "X")
    be = backend_of_samples(estimator, X)
    if not be.on_host:
        return _check_on_device(be, estimator, X, reset, min_samples, finite)
    X = as_numpy(X, "X")
    check_unmasked(X, "X")
    try:
        # The quick test for NaN is a sum, in which huge values of both signs cancel.
        with np.errstate(invalid="ignore"):
            X = validate_data(
                estimator,
                X,
                reset=reset,
                dtype="numeric",
                ensure_min_samples=min_samples,
                ensure_all_finite=finite,
            )
    except ValueError as error:
        if "Found array with dim" in str(error):
            raise ValueError(f"{error} {_HOW_TO_FLATTEN}") from error
        if str(error).startswith("could not convert"):
            raise ValueError(f"X: {error}") from error
        if str(error).startswith("Input X contains"):
            raise ValueError(_where_not_finite(X) or str(error)) from error
        raise
    except TypeError as error:
        raise TypeError(f"X: {error}") from error
    if X.dtype.kind not in "biuf":
        raise ValueError(
            f"X has dtype {X.dtype}; {type(estimator).__name__} takes real numbers."
        )
    if finite and X.dtype.kind == "f" and X.dtype.itemsize > 8:
        _check_range(X)
    return X


def _is_plain(estimator: Any, X: Any) -> bool:
    """Return whether X is a small array that scikit-learn's checks would not change.

    These checks take half of the time of a transform of one row.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.size <= _FEW_NUMBERS
        and X.dtype.kind in "iuf"
        and X.dtype.isnative
        and X.dtype.itemsize <= 8
        and X.shape[1] == getattr(estimator, "n_features_in_", None)
        and not hasattr(estimator, "feature_names_in_")
        and bool(np.isfinite(X).all())
    )


def check_reconstructions(estimator: Any, X: Any) -> Any:
    """Validate input of `inverse_transform` in the space of X, ignoring names.

    A later step may have turned a dataframe into an array without names.
    """
    if nearest.is_dask(X):
        return _check_dask(estimator, X, reset=False, min_samples=1, named=False)
    be = backend_of_samples(estimator, X)
    X = check_matrix(be, X, "X")
    if X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return X


def _check_range(X: np.ndarray) -> None:
    """Raise if values of a wide dtype are too large for float64."""
    largest = max(X.max(), -X.min())
    if largest > np.finfo(np.float64).max:
        raise ValueError(
            f"X has values up to {largest!s}, too large for float64, the widest dtype "
            "that is computed in: scale X."
        )


_HOW_TO_FLATTEN = (
    "Use X.reshape(-1, n_features) if the last axis holds the features, and "
    "X.reshape(len(X), -1) if all axes but the first one do."
)


def backend_of_samples(estimator: Any, X: Any) -> nearest.Backend:
    """Return the backend of the library in which the result for X is returned.

    It is the array's own for CuPy arrays, which NumPy cannot read; for arrays of the
    library that the estimator was fitted in; and for all others if the user has
    switched on scikit-learn's ``array_api_dispatch``.  Otherwise an array of, say,
    torch is converted to NumPy, as everywhere in scikit-learn.
    """
    if nearest.is_dask(X):
        # The library of the chunks decides.
        X = getattr(X, "_meta", None)
    be = nearest.backend_of(X)
    fitted = be.name == _home(estimator).name
    if not getattr(estimator, "_follows_namespace", False):
        return nearest.HOST
    return be if fitted or is_library_followed(be.name) else nearest.HOST


def _home(estimator: Any) -> nearest.Backend:
    """Return the backend with which the estimator was fitted."""
    return getattr(estimator, "_home_", nearest.HOST)


def followed_backend(array: Any) -> nearest.Backend:
    """Return the backend of the library in which functions return results.

    Without scikit-learn's dispatch it is NumPy's.
    """
    be = nearest.backend_of(array)
    return be if is_library_followed(be.name) else nearest.HOST


def first_followed(*arrays: Any) -> nearest.Backend:
    """Return the backend of the first array that functions follow, else NumPy's."""
    backends = [followed_backend(array) for array in arrays]
    return next((be for be in backends if be is not nearest.HOST), nearest.HOST)


def as_numpy(array: Any, name: str) -> Any:
    """Return another library's array as a NumPy array; anything else unchanged."""
    be = nearest.backend_of(array)
    if be is nearest.HOST:
        return array
    try:
        return np.asarray(array)
    except (TypeError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"NumPy, in which this is computed, cannot read {name}, an array of "
            f"{be.name}: {be.remedy(array, name)}."
        ) from error


def check_same_library(
    estimator: Any, be: nearest.Backend, method: str, what: str = "X"
) -> None:
    """Raise unless X has the library and the device of the arrays given to `fit`."""
    home = _home(estimator)
    if home is be:
        return
    fitted, given, places = home.name, be.name, ("", "")
    if fitted == given != "numpy":
        places = f" on {home.device}", f" on {be.device}"
    if fitted + places[0] != given + places[1]:
        raise ValueError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same "
            "namespace and the same device as those passed to fit(). The estimator was "
            f"fitted on arrays of {fitted}{places[0]}; {what} is one of {given}"
            f"{places[1]}."
        )


def _check_on_device(
    be: nearest.Backend,
    estimator: Any,
    X: Any,
    reset: bool,
    min_samples: int,
    finite: bool,
) -> Any:
    """Validate on the device, with scikit-learn's messages.

    `validate_data` would not do: it takes other libraries' arrays only while dispatch
    is on, but CuPy arrays are always accepted.
    """
    name = type(estimator).__name__
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: {name} takes X of shape "
            f"(n_samples, n_features). {_HOW_TO_FLATTEN}"
        )
    for what, found, least in (
        ("sample", X.shape[0], min_samples),
        ("feature", X.shape[1], 1),
    ):
        if found < least:
            raise ValueError(
                f"Found array with {found} {what}(s) (shape={tuple(X.shape)}) while a "
                f"minimum of {least} is required by {name}."
            )
    X = be.matrix(X, "X")
    if finite and not be.is_finite(X):
        raise ValueError(
            f"Input X contains NaN, infinity or a value too large for {X.dtype}."
        )
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return X


def _check_dask(
    estimator: Any, X: Any, reset: bool, min_samples: int, named: bool = True
) -> Any:
    """Return a Dask collection as an array, checked without computing it."""
    name, of_names, array = type(estimator).__name__, X, X
    check_collection(name, X)
    if hasattr(type(X), "to_dask_array"):
        of_names, array = X._meta, _of_one_dtype(X).to_dask_array()
        if reset and named:
            raise ValueError(
                f"X is a dataframe of Dask's, whose lengths {name} does not know: give "
                "X.to_dask_array(lengths=True)."
            )
    if type(array._meta) is not np.ndarray:
        raise ValueError(
            f"X has chunks of {class_name(type(array._meta))}; of Dask arrays, those "
            "of NumPy's are taken: X.map_blocks(...) converts them."
        )
    if array.dtype.kind not in "biuf":
        how = ""
        if array.dtype == object:
            how = " Of nullable columns, X.astype('float64') makes them."
        raise ValueError(f"X has dtype {array.dtype}; {name} takes real numbers.{how}")
    for what, found, least in (
        ("sample", array.shape[0], min_samples),
        ("feature", array.shape[1], 1),
    ):
        if found < least:  # false if it is unknown
            raise ValueError(
                f"Found array with {found} {what}(s) (shape={array.shape}) while a "
                f"minimum of {least} is required by {name}."
            )
    if named:
        validate_data(estimator, of_names, reset=reset, skip_check_array=True)
    elif array.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {array.shape[1]} features, but {name} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return array


def check_collection(name: str, X: Any, what: str = "X") -> None:
    """Raise unless a Dask collection is a matrix."""
    check_array_of_dask(X, what, "arrays and dataframes")
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {X.ndim}D array instead: {name} takes {what} of "
            f"two dimensions, a row for each sample. {_HOW_TO_FLATTEN}"
        )


def _of_one_dtype(frame: Any) -> Any:
    """Return a dataframe in one NumPy dtype, if all of its columns are numbers.

    pandas makes arrays of objects from nullable columns, and if some columns are bool;
    scikit-learn converts them.
    """
    dtypes = [getattr(dtype, "numpy_dtype", dtype) for dtype in frame._meta.dtypes]
    numbers = all(isinstance(one, np.dtype) and one.kind in "biuf" for one in dtypes)
    if not (dtypes and numbers) or frame._meta.to_numpy().dtype.kind != "O":
        return frame
    return frame.astype(np.result_type(*dtypes))


def all_in_memory(name: str, value: object) -> str:
    """Return why a parameter's value does not work with a Dask array."""
    return (
        f"{name}={value!r} learns from all rows in memory, and X is a Dask array: "
        "compute() it, or some of its rows, first."
    )


def _where_not_finite(X: Any) -> str | None:
    """Return the message of the first number of X that is not finite, if it has one."""
    X = np.asarray(X)
    if X.dtype.kind != "f":
        return None
    step = max(1, _LOOKED_AT // max(1, X.shape[1]))
    for start in range(0, len(X), step):
        bad = ~np.isfinite(X[start : start + step]).all(axis=1)
        if bad.any():
            row = start + int(np.argmax(bad))
            return refusal(row, X[row])
    return None


def _refuse_streams(X: Any) -> None:
    """Raise if X is not a matrix but an iterator over parts of one."""
    what = None
    if isinstance(X, str | bytes | os.PathLike):
        raise ValueError(
            "Expected 2D array, got a path instead: "
            f"numpy.load({os.fsdecode(X)!r}, mmap_mode='r') gives the rows of a .npy "
            "file without reading them all, and dask.dataframe.read_parquet those of a "
            ".parquet file."
        )
    if isinstance(X, Iterator):
        what = f"a {type(X).__name__}"
    elif isinstance(X, list | tuple) and X and getattr(X[0], "ndim", 0) > 1:
        what = f"a {type(X).__name__} of matrices"
    elif any(hasattr(X, name) for name in ("iter_batches", "to_batches")) and not (
        hasattr(X, "__dataframe__") or hasattr(X, "__array__")
    ):
        what = f"a {class_name(type(X))}"
    if what is not None:
        raise ValueError(
            f"Expected 2D array, got {what} instead: give batches of it to partial_fit "
            "one by one, or make one array with dask.array.from_delayed, "
            "dask.array.from_zarr or dask.dataframe.read_parquet."
        )


def check_matrix(be: nearest.Backend, X: Any, name: str, **options: Any) -> Any:
    """Return a 2-d array of a backend; raise unless it is finite and real.

    Parameters
    ----------
    be : Backend
        The backend of the result.
    X : array-like
        An array of any library.
    name : str
        Its name in the messages.
    **options : dict
        Options of scikit-learn's `check_array`, for NumPy arrays.
    """
    refuse_list_columns(X, name)
    if be.on_host:
        X = as_numpy(X, name)
        with naming(name):
            check_unmasked(X, name)
            X = check_array(X, dtype="numeric", input_name=name, **options)
        X = be.matrix(X, name)
        if X.dtype.kind == "f" and X.dtype.itemsize > 8:
            _check_range(X)
        return X
    X = be.matrix(be.like(X), name)
    if 0 in X.shape:
        raise ValueError(
            f"{name} has shape {tuple(X.shape)}; expected (n_samples, n_features), one "
            "or more of each."
        )
    if not be.is_finite(X):
        raise ValueError(f"{name} contains NaN or infinity.")
    return X


def check_codes(
    estimator: Any, codes: Any, sizes: Sequence[int], widths: Sequence[int]
) -> Any:
    """Validate codes for decoding and return them as intp.

    Parameters
    ----------
    estimator : object
        Named in the messages.
    codes : array-like or dataframe of shape (n_samples, n_codes)
        Integers, or floats with integral values.
    sizes : sequence of int
        Number of codewords of each code column.
    widths : sequence of int
        The numbers of columns that can be decoded.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codes), dtype intp
        On the host.
    """
    name = type(estimator).__name__
    refuse_list_columns(codes, "codes")
    codes = nearest.backend_of(codes).to_host(codes)
    check_unmasked(codes, "codes")
    with naming("codes"):
        codes = check_array(
            codes,
            dtype="numeric",
            ensure_all_finite=False,
            ensure_min_samples=0,
            input_name="codes",
        )
    if codes.shape[1] not in widths:
        expected = " or ".join(str(width) for width in widths)
        raise ValueError(
            f"codes has {codes.shape[1]} columns, but {name} decodes {expected}."
        )
    if codes.dtype.kind not in "biuf":
        raise ValueError(f"codes has dtype {codes.dtype}; expected integers.")
    limits = np.asarray(sizes[: codes.shape[1]], dtype=np.int64)
    # NaN must fail this comparison, which precedes the cast since a cast would wrap.
    valid = (codes >= 0) & (codes < limits)
    if codes.dtype.kind == "f":
        valid &= codes == np.floor(codes)
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise ValueError(
            f"codes[{row}, {column}] = {codes[row, column]} is not a code of {name}: "
            f"column {column} takes the integers 0 to {limits[column] - 1}."
        )
    # A fixed layout, since products of looked-up rows may round differently by layout.
    return np.ascontiguousarray(codes, dtype=np.intp)


def check_table(
    table: Any, name: str, dtype: Any, shape: tuple[int | None, int], meaning: str
) -> np.ndarray:
    """Return a copy of a table given as a parameter; raise unless it fits.

    Parameters
    ----------
    table : array-like
        A table of any library.
    name : str
        The parameter, named in the messages.
    dtype : dtype
        The dtype of the copy.
    shape : tuple of int or None
        The expected shape; None: any number of rows.
    meaning : str
        What the dimensions of the shape mean.
    """
    expected = f"{meaning} = {shape}" if shape[0] is not None else meaning
    table = check_unmasked(nearest.backend_of(table).to_host(table), name)
    try:
        table = check_array(table, dtype=dtype, copy=True, input_name=name)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: expected an array of numbers of shape {expected}. {error}"
        ) from error
    if table.shape != (shape[0] or len(table), shape[1]):
        raise ValueError(f"{name} has shape {table.shape}; expected {expected}.")
    return table


def check_numbers(given: Any, name: str, shape: tuple[int | str, ...]) -> np.ndarray:
    """Return a float64 copy of finite numbers; raise unless they have a given shape.

    Parameters
    ----------
    given : array-like
        Numbers of any library.
    name : str
        The parameter, named in the messages.
    shape : tuple of int or str
        The expected shape; a text stands for any length of one or more.
    """
    given = check_unmasked(nearest.backend_of(given).to_host(given), name)
    try:
        found = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of numbers. {error}") from error
    fits = found.ndim == len(shape) and all(
        length > 0 if isinstance(wanted, str) else length == wanted
        for length, wanted in zip(found.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has shape {found.shape}; expected {shape}.")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return found


def in_fitted_dtype(X: Any, dtype: np.dtype) -> Any:
    """Return X in the dtype of a fit; raise if its range is too narrow for X."""
    be = nearest.backend_of(X)
    if be.numpy_dtype(X).itemsize > dtype.itemsize:
        largest = float(np.max(be.to_host(be.largest(X)), initial=0.0))
        if largest > float(np.finfo(dtype).max):
            raise ValueError(
                f"X has values up to {largest:.3g}, too large for {dtype}, in which "
                "the tables are: scale X, or fit on float64."
            )
    return be.cast(X, dtype)


# -- warnings --------------------------------------------------------------------------

_Place = tuple[str, int, tuple[int, ...]]


class Notice(NamedTuple):
    """A warning to give at the end of a fit, and where it arose.

    Parameters
    ----------
    text : str
        The message, with ``{}`` for the number, if it has one.
    numbers : tuple of int
        The smallest and the largest number over all places.
    places : tuple of (noun, count, numbers)
        The path of parts from the outermost on: what they are called, how many there
        are, and which ones are meant.
    """

    text: str
    numbers: tuple[int, int] = (0, 0)
    places: tuple[_Place, ...] = ()

    def __str__(self) -> str:
        low, high = self.numbers
        number = f"{low}" if low == high else f"{low} to {high}"
        text = self.text.replace("{}", number)
        if not self.places:
            return text
        return f"In {', '.join(_in_words(*place) for place in self.places)}: {text}"


# The most places that a warning names.
_MOST_NAMED = 10

# A list while warnings wait for a fit to end.  Python's own way to catch warnings is
# global to all threads, and does not reach the workers of joblib.
_waiting: ContextVar[list[Notice] | None] = ContextVar("skvq_notices", default=None)


def warn(text: str, number: int = 0) -> None:
    """Give a ConvergenceWarning when the outermost fit ends; outside of a fit, now.

    Parameters
    ----------
    text : str
        The message; ``{}`` in it stands for the number.
    number : int, default=0
        A number that may differ from part to part.
    """
    _give([Notice(text, (number, number))])


def warn_of_some(noun: str, text: str, numbers: Sequence[int | None]) -> None:
    """Warn of some features, or of other parts that the noun names.

    Parameters
    ----------
    noun : str
        The name of the parts, in the singular.
    text : str
        As in `warn`.
    numbers : sequence of int or None
        The number for each part; None for parts without a warning.
    """
    found = [[] if one is None else [Notice(text, (one, one))] for one in numbers]
    warn_of_parts(noun, found)


def warn_of_parts(noun: str, found: Sequence[list[Notice]]) -> None:
    """Repeat the warnings collected from several parts, each kind once."""
    count = len(found)
    _give(
        [
            one._replace(places=((noun, count, (j,)), *one.places))
            for j, notices in enumerate(found)
            for one in notices
        ]
    )


@contextmanager
def collected() -> Iterator[list[Notice]]:
    """Collect the warnings of the block, fits included, for `warn_of_parts`."""
    notices: list[Notice] = []
    token = _waiting.set(notices)
    try:
        yield notices
    finally:
        # A signal may have ended the block before it was entered: then this runs when
        # it is thrown away, in another context, which knows nothing of it.
        with suppress(ValueError):
            _waiting.reset(token)


@contextmanager
def one_warning() -> Iterator[None]:
    """Give the warnings of the block as one warning at its end.

    Within another such block they are passed on to that one.
    """
    with collected() as notices:
        yield
    if notices:
        _give(notices)


def repeat_warnings(notices: list[Notice]) -> None:
    """Repeat collected warnings as they are."""
    _give(notices)


def _give(notices: list[Notice]) -> None:
    merged: dict[tuple[Any, ...], Notice] = {}
    for one in notices:
        kind = one.text, *(place[:2] for place in one.places)
        before = merged.get(kind)
        merged[kind] = one if before is None else _merged(before, one)
    waiting = _waiting.get()
    if waiting is not None:
        waiting.extend(merged.values())
    elif merged:
        message = " ".join(map(str, merged.values()))
        warnings.warn(message, ConvergenceWarning, stacklevel=users_level())


def _merged(one: Notice, other: Notice) -> Notice:
    numbers = one.numbers + other.numbers
    places = tuple(
        (noun, count, tuple(sorted({*which, *others})))
        for (noun, count, which), (_, _, others) in zip(
            one.places, other.places, strict=True
        )
    )
    return Notice(one.text, (min(numbers), max(numbers)), places)


def _in_words(noun: str, count: int, which: tuple[int, ...]) -> str:
    if len(which) == count:
        return f"the one {noun}" if count == 1 else f"all {count} {noun}s"
    named = ", ".join(map(str, which[:_MOST_NAMED]))
    more = ", ..." if len(which) > _MOST_NAMED else ""
    return f"{len(which)} of {count} {noun}s ({named}{more})"


def in_own_context(method: F) -> F:
    """Make a method set context variables for itself only.

    These include NumPy's treatment of floating-point errors, and the backend.  An
    interrupt may keep a ``with`` statement from restoring them.
    """

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return copy_context().run(method, *args, **kwargs)

    return cast(F, call)


def _is_fitted_name(name: str) -> bool:
    return name.endswith("_") and not name.startswith("__")


def copy_to_fit(estimator: T, *, fitted: bool) -> T:
    """Return a shallow copy to learn on, with or without the fitted attributes."""
    copy = object.__new__(type(estimator))
    for name, value in dict(vars(estimator)).items():
        if fitted or not _is_fitted_name(name):
            vars(copy)[name] = value
    return copy


def plain_parameters(copy: Any) -> None:
    """Convert the numbers among the parameters of a copy to Python numbers.

    NumPy's numbers wrap around or overflow in arithmetic where Python's do not.  The
    user's values stay on the estimator that was copied.
    """
    given = copy.get_params(deep=False)
    vars(copy).update({name: as_plain(value) for name, value in given.items()})


def take_over(estimator: T, learned: T) -> None:
    """Replace the fitted attributes by those of a copy, all at once.

    A concurrent reader, in another thread or after an interrupt, sees either all of the
    old attributes or all of the new ones.
    """
    attributes = {
        name: value
        for name, value in dict(vars(estimator)).items()
        if not _is_fitted_name(name)
    }
    for name, value in vars(learned).items():
        if _is_fitted_name(name):
            attributes[name] = value
    # A single assignment; changing the attributes one by one would take many.
    estimator.__dict__ = attributes


def as_it_is_now(estimator: T) -> T:
    """Return a view that stays the same if another thread refits the estimator."""
    view = object.__new__(type(estimator))
    # The dict is shared: `take_over` gives the estimator another and leaves this one.
    view.__dict__ = vars(estimator)
    return view
