"""Product quantizers, also behind a rotation, from and to nanopq."""

from typing import Any

import numpy as np

from skvq._checks import class_name
from skvq.base import BaseQuantizer
from skvq.interop.common import (
    fitted,
    float32_tables,
    in_float32,
    library,
    one_for_all,
)
from skvq.product import ProductQuantizer
from skvq.rotated import RotatedQuantizer


def to_nanopq(estimator: BaseQuantizer) -> Any:
    """Return a product quantizer of nanopq with the same tables.

    Parameters
    ----------
    estimator : ProductQuantizer or RotatedQuantizer
        Fitted, with slices of equal width and tables of equal size; or a rotation of
        all features in front of one.

    Returns
    -------
    pq : nanopq.PQ or nanopq.OPQ
        Its codes are those of `transform`, in the same dtype, unless two codewords are
        equally near.  It takes and returns float32.  An `OPQ` does not subtract a mean:
        its codewords include the rotated mean.

    Raises
    ------
    ImportError
        If nanopq is not installed.
    TypeError
        If the estimator is neither a product quantizer nor a rotation of one.
    ValueError
        If its tables are not of one shape or not searched by squared distances, or if a
        rotation cuts off features.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer
    >>> from skvq.interop import to_nanopq
    >>> X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> quantizer = ProductQuantizer(4, 16, random_state=0).fit(X)
    >>> bool((to_nanopq(quantizer).encode(X) == quantizer.transform(X)).all())
    True
    """
    estimator = fitted(estimator)
    if isinstance(estimator, RotatedQuantizer):
        return _rotated(estimator)
    if not isinstance(estimator, ProductQuantizer):
        raise TypeError(
            f"{type(estimator).__name__} has no counterpart in nanopq; "
            "ProductQuantizer has, and a RotatedQuantizer of one."
        )
    tables = float32_tables(estimator, "nanopq")
    size = one_for_all(map(len, tables), estimator, "codewords", "nanopq")
    widths = (table.shape[1] for table in tables)
    width = one_for_all(widths, estimator, "features", "nanopq")
    nanopq = library("nanopq", "nanopq")
    pq = nanopq.PQ(M=len(tables), Ks=size, verbose=False)
    pq.Ds, pq.codewords = width, np.stack(tables)
    return pq


def _rotated(estimator: RotatedQuantizer) -> Any:
    """Return an OPQ, whose codewords include the mean."""
    turn = estimator._turn_
    if turn.n_components < turn.n_features:
        raise ValueError(
            f"RotatedQuantizer has {turn.n_components} components of {turn.n_features} "
            "features; nanopq takes rotations of all of them."
        )
    part = estimator.quantizer_
    if isinstance(part, RotatedQuantizer):
        raise TypeError(
            "RotatedQuantizer has another one as its part; an OPQ of nanopq has one "
            "rotation."
        )
    pq = to_nanopq(part)
    nanopq = library("nanopq", "nanopq")
    opq = nanopq.OPQ(M=pq.M, Ks=pq.Ks, verbose=False)
    opq.pq, opq.R = pq, in_float32(turn.components.T, "components_", "nanopq")
    mean = turn.mean.astype(np.float64) @ turn.components.T
    shifted = pq.codewords + mean.reshape(pq.M, 1, pq.Ds)
    pq.codewords = in_float32(shifted, "codebooks_", "nanopq")
    return opq


def from_nanopq(pq: Any) -> ProductQuantizer | RotatedQuantizer:
    """Return a product quantizer with the tables of one of nanopq.

    Parameters
    ----------
    pq : nanopq.PQ or nanopq.OPQ
        Fitted.

    Returns
    -------
    quantizer : ProductQuantizer or RotatedQuantizer
        Fitted; `distortion_` is NaN.  An OPQ becomes a rotation about zero in front of
        a product quantizer.

    Raises
    ------
    ImportError
        If nanopq is not installed.
    TypeError
        If it is not a product quantizer of nanopq.
    ValueError
        If it is not fitted.

    Examples
    --------
    >>> import nanopq
    >>> import numpy as np
    >>> from skvq.interop import from_nanopq
    >>> X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> pq = nanopq.PQ(M=4, Ks=16, verbose=False).fit(X)
    >>> bool((from_nanopq(pq).transform(X) == pq.encode(X)).all())
    True
    """
    nanopq = library("nanopq", "nanopq")
    if isinstance(pq, nanopq.OPQ):
        part = from_nanopq(pq.pq)
        return RotatedQuantizer.from_codebooks(
            part.codebooks_, quantizer=part, rotation=pq.R.T
        )
    if not isinstance(pq, nanopq.PQ):
        raise TypeError(f"pq is a {class_name(type(pq))}; expected a nanopq.PQ.")
    if pq.codewords is None:
        raise ValueError("pq is not fitted: it has no codewords yet.")
    return ProductQuantizer.from_codebooks(list(pq.codewords))
