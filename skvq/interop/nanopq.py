"""Product quantizers from and to nanopq."""

from typing import Any

import numpy as np

from skvq._checks import class_name
from skvq.base import BaseQuantizer
from skvq.interop.common import fitted, float32_tables, library, one_for_all
from skvq.product import ProductQuantizer


def to_nanopq(estimator: BaseQuantizer) -> Any:
    """Return a product quantizer of nanopq with the same tables.

    Parameters
    ----------
    estimator : ProductQuantizer
        Fitted, with slices of equal width and tables of equal size.

    Returns
    -------
    pq : nanopq.PQ
        Its codes are those of `transform`, where no two codewords are equally near,
        and in the same dtype.  It takes and returns float32.

    Raises
    ------
    ImportError
        If nanopq is not there.
    TypeError
        If the estimator is no product quantizer.
    ValueError
        If its tables are not of one shape, or are not searched by squared distances.

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
    if not isinstance(estimator, ProductQuantizer):
        raise TypeError(
            f"{type(estimator).__name__} has no counterpart in nanopq; "
            "ProductQuantizer has."
        )
    tables = float32_tables(estimator, "nanopq")
    size = one_for_all(map(len, tables), estimator, "codewords", "nanopq")
    widths = (table.shape[1] for table in tables)
    width = one_for_all(widths, estimator, "features", "nanopq")
    nanopq = library("nanopq", "nanopq")
    pq = nanopq.PQ(M=len(tables), Ks=size, verbose=False)
    pq.Ds, pq.codewords = width, np.stack(tables)
    return pq


def from_nanopq(pq: Any) -> ProductQuantizer:
    """Return a product quantizer with the tables of one of nanopq.

    Parameters
    ----------
    pq : nanopq.PQ
        Fitted.  Of an OPQ, which rotates rows first, give ``opq.pq`` here, and
        ``opq.rotate(X)`` to what is returned.

    Returns
    -------
    quantizer : ProductQuantizer
        Fitted; `distortion_` is NaN.

    Raises
    ------
    ImportError
        If nanopq is not there.
    TypeError
        If it is no product quantizer of nanopq.
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
        raise TypeError(
            "pq is a nanopq.OPQ, which rotates rows before it codes them: give opq.pq, "
            "and opq.rotate(X) to the quantizer that is returned."
        )
    if not isinstance(pq, nanopq.PQ):
        raise TypeError(f"pq is a {class_name(type(pq))}; expected a nanopq.PQ.")
    if pq.codewords is None:
        raise ValueError("pq is not fitted: it has no codewords yet.")
    return ProductQuantizer.from_codebooks(list(pq.codewords))
