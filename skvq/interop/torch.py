"""Fitted quantizers as torch modules."""

import importlib
from functools import singledispatch
from typing import Any

import numpy as np

from skvq import nearest
from skvq._arrays import to_host
from skvq.base import BaseQuantizer
from skvq.binary import BinaryQuantizer
from skvq.coding.levels import Grid
from skvq.coding.radius import Float32Radius
from skvq.finite import FiniteScalarQuantizer
from skvq.grid import UniformQuantizer
from skvq.interop.common import fitted, library
from skvq.product import ProductQuantizer
from skvq.residual import ResidualQuantizer
from skvq.rotated import RotatedQuantizer
from skvq.vector import VectorQuantizer

_METRICS = ("sqeuclidean", "cosine", "inner_product")


def to_torch(estimator: BaseQuantizer) -> Any:
    """Return a torch module that encodes and decodes as a fitted quantizer does.

    Its tables are buffers: they move with the module, are in its `state_dict`, and are
    not learned.  It does not check for NaN or for codes out of range.

    Parameters
    ----------
    estimator : quantizer
        Fitted: a `VectorQuantizer` under "sqeuclidean", "cosine" or "inner_product"; a
        `UniformQuantizer`, `FiniteScalarQuantizer` or `BinaryQuantizer`; or a
        `ProductQuantizer`, a `RotatedQuantizer`, or a `ResidualQuantizer` with
        ``beam_size=1``, of any of these.

    Returns
    -------
    codec : torch.nn.Module
        On the CPU, with

        - ``encode(x)``: codes (..., n_codes) in int64 of x (..., n_features), equal to
          those of `transform` unless two codewords are equally near;
        - ``decode(codes)``: reconstructions (..., n_features), in the dtype of the
          tables;
        - ``forward(x)``: the reconstruction of x; gradients pass to x as if it were x
          itself (the straight-through estimator);
        - ``encoder()`` and ``decoder()``: modules whose ``forward`` is one of the two,
          for export.

    Raises
    ------
    ImportError
        If torch is not installed.
    TypeError
        If the scheme, or that of a part, has no torch module.
    ValueError
        If its parameters, or those of a part, are not supported.

    Notes
    -----
    Distances are computed in the dtype of the tables, relative to their mean, and
    without the second search of `transform` for rows whose two nearest codewords are
    almost equally near.  Cells of scalars are found in float64, which the device must
    support.

    References
    ----------
    Bengio, Leonard and Courville (2013), "Estimating or Propagating Gradients Through
    Stochastic Neurons", arXiv 1308.3432.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skvq import ProductQuantizer
    >>> from skvq.interop import to_torch
    >>> X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> pq = ProductQuantizer(4, 16, random_state=0).fit(X)
    >>> codec = to_torch(pq)
    >>> bool((codec.encode(torch.from_numpy(X)).numpy() == pq.transform(X)).all())
    True
    """
    estimator = fitted(estimator)
    library("torch", "torch")
    # Training mode would change nothing.
    return _Converter().module(estimator).eval()


class _Converter:
    """Makes modules; a part that serves several times becomes one module."""

    def __init__(self) -> None:
        self.modules: Any = importlib.import_module("skvq.interop.torch_modules")
        self._made: dict[int, Any] = {}

    def module(self, estimator: BaseQuantizer) -> Any:
        """Return the module of a fitted quantizer or of a part."""
        if id(estimator) not in self._made:
            self._made[id(estimator)] = _module(estimator, self)
        return self._made[id(estimator)]

    def scalar(self, codec: Any, dtype: Any) -> Any:
        """Return the module of a codec for columns of scalars."""
        if isinstance(codec, Grid):
            return self.modules.EqualCells(codec.low, codec.high, codec.sizes, dtype)
        return self.levels(codec.edges, codec.tables(dtype))

    def levels(self, edges: Any, tables: Any) -> Any:
        """Return the module of cells between edges that are decoded to levels."""
        return self.modules.Levels(edges, [np.asarray(table)[:, 0] for table in tables])


# Reasons why schemes have no module.
_REASONS = {
    "AdditiveQuantizer": "its codes are searched for in rounds, all codes of a row "
    "together; a ResidualQuantizer of the same tables has one",
    "KroneckerQuantizer": "its codes are searched for in products of its tables",
    "MultiScaleQuantizer": "it resizes maps from scale to scale",
    "SphericalQuantizer": "it codes angles",
}


@singledispatch
def _module(estimator: Any, converter: _Converter) -> Any:
    """Return the module of a scheme; one function is registered for each scheme."""
    name = type(estimator).__name__
    reason = _REASONS.get(name, "its search is not known")
    raise TypeError(f"{name} has no module of torch: {reason}.")


@_module.register(VectorQuantizer)
def _naive(estimator: Any, converter: _Converter) -> Any:
    metric = nearest.check_metric(estimator.metric)
    if metric not in _METRICS:
        raise ValueError(
            f"VectorQuantizer with metric={estimator.metric!r} has no module of torch: "
            f"expected one of {', '.join(_METRICS)}."
        )
    (table,) = estimator._codebooks()
    return converter.modules.Nearest(table.codewords, metric, estimator._bias())


@_module.register(ProductQuantizer)
def _product(estimator: Any, converter: _Converter) -> Any:
    parts = [converter.module(part) for part in estimator.quantizers_]
    return converter.modules.Concatenation(parts)


@_module.register(ResidualQuantizer)
def _residual(estimator: Any, converter: _Converter) -> Any:
    if estimator.beam_size != 1:
        raise ValueError(
            f"ResidualQuantizer with beam_size={estimator.beam_size} has no module of "
            "torch, since a beam keeps several sums of a row: set_params(beam_size=1)."
        )
    parts = [converter.module(part) for part in estimator.quantizers_]
    return converter.modules.Residual(parts)


@_module.register(RotatedQuantizer)
def _rotated(estimator: Any, converter: _Converter) -> Any:
    turn, part = estimator._turn_, converter.module(estimator.quantizer_)
    return converter.modules.Rotated(turn.mean, turn.components, part)


@_module.register(UniformQuantizer)
def _uniform(estimator: Any, converter: _Converter) -> Any:
    return converter.scalar(estimator._codec_, estimator._dtype_)


@_module.register(FiniteScalarQuantizer)
def _finite(estimator: Any, converter: _Converter) -> Any:
    return converter.levels(estimator._squash_.edges, estimator._codebooks())


@_module.register(BinaryQuantizer)
def _binary(estimator: Any, converter: _Converter) -> Any:
    scale, radius, length = to_host(estimator.scale_), estimator._radius_, None
    if isinstance(radius, Float32Radius):
        raise ValueError(
            "BinaryQuantizer with radius='float32' has no module of torch, since its "
            "length is coded as the bits of a number: keep the number itself, beside "
            "the codes of radius='unit'."
        )
    if radius is not None and radius.sizes:
        length = converter.scalar(radius.codec, np.float64)
    return converter.modules.Signs(scale, length)
