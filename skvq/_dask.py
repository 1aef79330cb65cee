"""Dask collections as input: they are processed chunk by chunk.

This module does not import Dask before it meets one of its collections.
"""

import importlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np

from skvq import nearest
from skvq._compat import output_container
from skvq._validation import check_collection, copy_to_fit
from skvq._weights import WeightUnit, weights_as_given
from skvq.learning.rows import Rows


def dask_rows(X: Any, sample_weight: Any) -> tuple[Rows, WeightUnit]:
    """Return the rows of a Dask array; see `skvq.learning.partitions`."""
    module = importlib.import_module("skvq.learning.partitions")
    return module.dask_rows(X, sample_weight)


def check_container(estimator: Any) -> None:
    """Raise if `transform` should return dataframes, which would compute all rows."""
    container = output_container(estimator)
    if container != "default":
        raise ValueError(
            f"The output of transform is set to {container!r}, for which all rows of "
            "a Dask collection would be computed: set_output(transform='default')."
        )


def lazily(estimator: Any, method: str, X: Any) -> Any:
    """Return the result of a method for a Dask array, computed on demand.

    Parameters
    ----------
    estimator : estimator
        Its current state is used; fitting it again later changes nothing.
    method : str
        A method that takes X and returns a row for each row of X.
    X : dask.array.Array of shape (n_samples, n_columns)
        The chunks may have unknown lengths.

    Returns
    -------
    found : dask.array.Array
        In the same chunks of rows.
    """
    dask = importlib.import_module("dask")
    array = importlib.import_module("dask.array")
    if method == "transform":
        check_container(estimator)
    X = X.rechunk({1: -1})
    # Chunks have no feature names, and their results are arrays.
    estimator = copy_to_fit(estimator, fitted=True)
    vars(estimator).pop("feature_names_in_", None)
    estimator._sklearn_output_config = {"transform": "default"}
    # Ones, since some metrics do not allow zero rows; zeros for codes, always valid.
    value = 0 if method == "inverse_transform" else 1
    row = np.full((1, X.shape[1]), value, X.dtype)
    empty = getattr(estimator, method)(row)[:0]
    if nearest.backend_of(empty) is not nearest.HOST:
        raise ValueError(
            f"{type(estimator).__name__} was fitted on arrays of another library than "
            f"NumPy, in whose arrays {method} answers: Dask arrays of these are not "
            "made. Load it from a pickle where that library is not installed, or fit "
            "it on NumPy's arrays."
        )
    name = f"skvq-{method}-{uuid4().hex}"
    shared = dask.delayed(estimator, name=f"{name}-by", pure=False, traverse=False)
    return array.map_blocks(
        _on_chunk,
        X,
        estimator=shared,
        method=method,
        empty=empty,
        dtype=empty.dtype,
        chunks=(X.chunks[0], (empty.shape[1],)),
        meta=empty,
        name=name,
    )


def _on_chunk(x: Any, estimator: Any, method: str, empty: np.ndarray) -> np.ndarray:
    if x.shape[0] == 0:
        return empty
    with nearest.one_thread():
        return getattr(estimator, method)(x)


def batches(name: str, X: Any, sample_weight: Any) -> Iterator[tuple[Any, Any]]:
    """Yield batches of a stream with their weights: the chunks of a Dask collection.

    Anything else is a single batch.
    """
    if not nearest.is_dask(X):
        yield X, sample_weight
        return
    dask = importlib.import_module("dask")
    check_collection(name, X)
    X = X.rechunk({1: -1}) if hasattr(X, "rechunk") else X
    chunks = np.ravel(X.to_delayed())
    weights: Any = [None] * len(chunks)
    if sample_weight is not None:
        weights = _cut_like(X, sample_weight)
    empty = True
    for pair in zip(chunks, weights, strict=True):
        batch, own = dask.compute(*pair)
        if batch.shape[0]:
            empty = False
            yield batch, own
    if empty:
        raise ValueError(
            f"Found array with 0 sample(s) in all chunks while a minimum of 1 is "
            f"required by {name}."
        )


def _cut_like(X: Any, sample_weight: Any) -> Any:
    """Return weights in the same chunks as X."""
    lengths = X.chunks[0] if hasattr(X, "chunks") else (np.nan,)
    known = not np.isnan(lengths).any()
    if not known and not nearest.is_dask(sample_weight):
        raise ValueError(
            "sample_weight cannot be cut as X is, whose chunks have unknown lengths: "
            "give a Dask array of the same chunks, or X.compute_chunk_sizes() first."
        )
    weights = weights_as_given(sample_weight, X.shape[0] if known else None)
    if not nearest.is_dask(weights):
        return np.split(weights, np.cumsum(lengths)[:-1])
    if known:
        weights = weights.rechunk((lengths,))
    if weights.ndim != 1 or weights.numblocks[0] != len(np.ravel(X.to_delayed())):
        raise ValueError(
            f"sample_weight has chunks {weights.chunks}; expected one for each of X's."
        )
    return np.ravel(weights.to_delayed())


def check_lazy_codes(estimator: Any, codes: Any, widths: tuple[int, ...]) -> Any:
    """Return codes as a Dask array; raise if their known shape is wrong."""
    check_collection(type(estimator).__name__, codes, "codes")
    codes = codes.to_dask_array() if hasattr(codes, "to_dask_array") else codes
    if codes.shape[1] not in widths:
        expected = " or ".join(str(width) for width in widths)
        raise ValueError(
            f"codes has shape {codes.shape}, but {type(estimator).__name__} decodes "
            f"{expected} columns."
        )
    return codes
