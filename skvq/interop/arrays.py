"""Fitted quantizers on the device of another library's arrays."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from skvq import nearest
from skvq.base import BaseQuantizer
from skvq.interop.common import fitted


def to_arrays(estimator: BaseQuantizer, xp: Any, *, device: Any = None) -> Any:
    """Return a fitted copy whose arrays belong to another library and device.

    It behaves as if it had been fitted there: it encodes, decodes and scores arrays of
    that library, on that device.  ``xp=numpy`` brings it back to the host.

    Parameters
    ----------
    estimator : quantizer
        Fitted; it is not changed.
    xp : module
        The library, such as `numpy`, `torch` or `cupy`, or its namespace.
    device : object, optional
        One of the library's devices, such as "cuda"; None: the library's default.

    Returns
    -------
    estimator : quantizer
        The copy.  Further learning also takes place there.

    Raises
    ------
    TypeError
        If the estimator is not a quantizer.
    ValueError
        If there is no such library or device, or if the `backend` of the quantizer, or
        of a part of it, does not compute there.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import UniformQuantizer
    >>> from skvq.interop import to_arrays
    >>> grid = UniformQuantizer(4).fit([[0.0, 0.0], [8.0, 1.0]])
    >>> to_arrays(grid, np).transform([[1.0, 0.9]]).tolist()
    [[0, 3]]
    """
    estimator = fitted(estimator)
    be = nearest.backend_in(xp, device)
    for part in _with_parts(estimator):
        part._check_backend(be)
        if be is not nearest.HOST and not part._follows_namespace:
            raise ValueError(
                f"{type(part).__name__} computes with NumPy's arrays alone; xp is "
                f"{be.name}."
            )
    copy = deepcopy(estimator)
    for part in _with_parts(copy):
        part._assign({}, be)
    return copy


def _with_parts(estimator: BaseQuantizer) -> Iterator[BaseQuantizer]:
    """Yield a fitted quantizer and its parts, some of them possibly more than once."""
    yield estimator
    for name, value in vars(estimator).items():
        if not name.endswith("_"):
            continue
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, BaseQuantizer):
                yield from _with_parts(part)
