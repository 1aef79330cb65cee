"""Functions shared by the conversions for all libraries."""

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from skvq._checks import class_name
from skvq._validation import as_it_is_now
from skvq.base import BaseQuantizer
from skvq.coding.charges import of_bits
from skvq.product import ProductQuantizer
from skvq.residual import ResidualQuantizer


def library(name: str, package: str) -> Any:
    """Import an optional library.

    Parameters
    ----------
    name : str
        The name under which it is imported.
    package : str
        The package to install.

    Raises
    ------
    ImportError
        If it is not installed; the message says what to do.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"This needs {name}: pip install {package}") from error


def fitted(estimator: Any) -> Any:
    """Return a snapshot of a quantizer; raise unless it is a fitted one."""
    if not isinstance(estimator, BaseQuantizer):
        raise TypeError(
            f"estimator is a {class_name(type(estimator))}; expected a fitted "
            "quantizer of skvq."
        )
    estimator = as_it_is_now(estimator)
    estimator._check_fitted()
    return estimator


def float32_tables(
    estimator: ProductQuantizer | ResidualQuantizer, peer: str
) -> list[np.ndarray]:
    """Return the tables of parts, in float32; raise unless squared distances rule.

    Parameters
    ----------
    estimator : ProductQuantizer or ResidualQuantizer
        Fitted.
    peer : str
        The name of the library in messages.
    """
    check_unpriced(estimator, peer)
    for part in estimator.quantizers_:
        if part._searched_table() is None:
            raise ValueError(
                f"{type(estimator).__name__} has {part!r} as a part; {peer} takes "
                "VectorQuantizer under metric='sqeuclidean'."
            )
    return [
        in_float32(table, f"codebooks_[{j}]", peer)
        for j, table in enumerate(estimator._codebooks())
    ]


def check_unpriced(estimator: BaseQuantizer, peer: str) -> None:
    """Raise if a search adds costs of codes, which other libraries do not."""
    charges = estimator._charges()
    if any(charge is not None for charge in charges):
        why, what = "balance", "prices of codes"
        if any(of_bits(charges)):
            why, what = "a rate_weight", "the price of bits"
        raise ValueError(
            f"{type(estimator).__name__} was fitted with {why}, so that its search "
            f"adds {what} to distances; {peer} has none that does."
        )


def in_float32(array: Any, name: str, peer: str) -> np.ndarray:
    """Return numbers in float32; raise if they exceed its range."""
    with np.errstate(over="ignore"):
        found = np.asarray(array, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ValueError(
            f"{name} has numbers too large for float32, in which {peer} computes."
        )
    return found


def one_for_all(
    values: Iterable[int], estimator: BaseQuantizer, what: str, peer: str
) -> int:
    """Return the common value of several numbers; raise if they differ.

    Parameters
    ----------
    values : iterable of int
        The numbers.
    estimator : quantizer
        The quantizer that they belong to.
    what : str
        What they count, as in "tables of 2, 4 ...".
    peer : str
        The name of the library in the message.
    """
    found = sorted(set(values))
    if len(found) > 1:
        raise ValueError(
            f"{type(estimator).__name__} has tables of {', '.join(map(str, found))} "
            f"{what}; {peer} takes one number for all."
        )
    return found[0]
