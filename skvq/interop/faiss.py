"""Quantizers from and to faiss: flat, product, residual, additive and scalar ones."""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from skvq import nearest
from skvq._checks import class_name
from skvq.additive import AdditiveQuantizer
from skvq.base import BaseQuantizer
from skvq.coding.levels import Grid
from skvq.grid import UniformQuantizer
from skvq.interop.common import (
    check_unpriced,
    fitted,
    float32_tables,
    in_float32,
    library,
    one_for_all,
)
from skvq.product import ProductQuantizer
from skvq.residual import ResidualQuantizer
from skvq.rotated import RotatedQuantizer
from skvq.vector import VectorQuantizer

# Metrics of flat indexes.  For unit codewords, the nearest by cosine has the largest
# product.
_METRICS = {
    "sqeuclidean": "METRIC_L2",
    "inner_product": "METRIC_INNER_PRODUCT",
    "cityblock": "METRIC_L1",
    "chebyshev": "METRIC_Linf",
}
_AS_GOOD = {"cosine": "inner_product", "euclidean": "sqeuclidean"}
# Types of scalar quantizers with equal cells, and their numbers of levels.  The first
# of each size has a range for every feature, the others one range for all.
_SCALARS = {
    "QT_8bit": 256,
    "QT_6bit": 64,
    "QT_4bit": 16,
    "QT_8bit_uniform": 256,
    "QT_4bit_uniform": 16,
}


def to_faiss(estimator: BaseQuantizer) -> Any:
    """Return a faiss index that has the same tables.

    Parameters
    ----------
    estimator : quantizer
        Fitted: a `VectorQuantizer` under a metric that faiss has; a
        `ProductQuantizer` or a `ResidualQuantizer` of such parts under
        ``metric="sqeuclidean"``; an `AdditiveQuantizer` with joint codes; a
        `UniformQuantizer` with 16, 64 or 256 equal cells for each feature; or a
        `RotatedQuantizer` of any of these but the first.

    Returns
    -------
    index : faiss.Index
        An `IndexFlat` of the codewords, whose nearest row is the code; or a trained
        index without rows: an `IndexPQ`, `IndexResidualQuantizer` (of the same beam),
        `IndexLocalSearchQuantizer` or `IndexScalarQuantizer`, for rotations inside an
        `IndexPreTransform`.  Their `sa_encode` packs codes as
        ``skvq.codes.pack(codes, sizes, bitorder="little")`` does.  The quantizer inside
        an index, such as ``index.pq``, lives as long as the index.

    Raises
    ------
    ImportError
        If faiss is not installed.
    TypeError
        If the scheme has no counterpart in faiss.
    ValueError
        If its parameters or the sizes of its tables have no counterpart.

    See Also
    --------
    from_faiss : The inverse.

    Notes
    -----
    faiss computes in float32, and takes tables of 2^b rows.  Codes are equal if the two
    nearest codewords differ by more than rounding; reconstructions are equal up to
    rounding.  Additive codes are searched for in other ways: the same codes decode to
    the same rows, but each library finds its own codes.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq import ProductQuantizer
    >>> from skvq.interop import to_faiss
    >>> X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> pq = ProductQuantizer(4, 256, random_state=0).fit(X)
    >>> index = to_faiss(pq)
    >>> bool((index.sa_encode(X) == pq.transform(X)).all())
    True
    """
    return _index(fitted(estimator), library("faiss", "faiss-cpu"))


@singledispatch
def _index(estimator: Any, faiss: Any) -> Any:
    """Return the index of a scheme; one function is registered for each scheme."""
    raise TypeError(
        f"{type(estimator).__name__} has no counterpart in faiss; VectorQuantizer, "
        "ProductQuantizer, ResidualQuantizer, AdditiveQuantizer, UniformQuantizer and "
        "RotatedQuantizer have."
    )


@_index.register(VectorQuantizer)
def _flat(estimator: Any, faiss: Any) -> Any:
    metric = str(nearest.check_metric(estimator.metric))
    faiss_metric = _METRICS.get(_AS_GOOD.get(metric, metric))
    if faiss_metric is None:
        raise ValueError(
            f"metric={estimator.metric!r} has no counterpart in a flat index of faiss; "
            f"{sorted([*_METRICS, *_AS_GOOD])} have."
        )
    check_unpriced(estimator, "faiss")
    (table,) = estimator._codebooks()
    table = in_float32(table, "codebooks_[0]", "faiss")
    if metric == "cosine" and not np.allclose(np.linalg.norm(table, axis=1), 1):
        raise ValueError(
            "metric='cosine' with codewords that are no unit vectors: faiss has a flat "
            "index for unit vectors alone, which is searched by products."
        )
    index = faiss.IndexFlat(table.shape[1], getattr(faiss, faiss_metric))
    index.add(table)
    return index


@_index.register(ProductQuantizer)
def _product(estimator: Any, faiss: Any) -> Any:
    tables = float32_tables(estimator, "faiss")
    width = one_for_all((t.shape[1] for t in tables), estimator, "features", "faiss")
    bits = one_for_all(_bits(tables, estimator), estimator, "bits", "faiss")
    index = faiss.IndexPQ(len(tables) * width, len(tables), bits)
    faiss.copy_array_to_vector(np.concatenate(tables).ravel(), index.pq.centroids)
    index.is_trained = True
    return index


@_index.register(ResidualQuantizer)
def _residual(estimator: Any, faiss: Any) -> Any:
    if estimator.stage_weights is not None and estimator.beam_size > 1:
        raise ValueError(
            f"stage_weights={estimator.stage_weights!r} with beam_size="
            f"{estimator.beam_size}: beams of faiss keep what is best at the end; use "
            "stage_weights=None or beam_size=1."
        )
    tables = float32_tables(estimator, "faiss")
    bits = faiss.UInt64Vector()
    faiss.copy_array_to_vector(np.array(_bits(tables, estimator), np.uint64), bits)
    index = faiss.IndexResidualQuantizer(tables[0].shape[1], bits)
    index.rq.max_beam_size = int(estimator.beam_size)
    return _with_sums(index, index.rq, tables, faiss)


@_index.register(AdditiveQuantizer)
def _additive(estimator: Any, faiss: Any) -> Any:
    if estimator.assignment != "joint":
        raise ValueError(
            f"assignment={estimator.assignment!r}: faiss searches for the codes of a "
            "row together, as assignment='joint' does."
        )
    tables = [
        in_float32(table, f"codebooks_[{j}]", "faiss")
        for j, table in enumerate(estimator._codebooks())
    ]
    bits = one_for_all(_bits(tables, estimator), estimator, "bits", "faiss")
    width = tables[0].shape[1]
    index = faiss.IndexLocalSearchQuantizer(width, len(tables), bits)
    # Number of codes that its search replaces at random: at most all of them.
    index.lsq.nperts = min(index.lsq.nperts, len(tables))
    return _with_sums(index, index.lsq, tables, faiss)


@_index.register(UniformQuantizer)
def _scalar(estimator: Any, faiss: Any) -> Any:
    codec = estimator._codec_
    sizes = set(codec.sizes)
    kinds = {size: name for name, size in reversed(_SCALARS.items())}
    if not isinstance(codec, Grid) or len(sizes) > 1 or not sizes <= set(kinds):
        raise ValueError(
            f"UniformQuantizer with levels={estimator.levels!r} and n_levels="
            f"{estimator.n_levels!r}: scalar quantizers of faiss have equal cells, "
            f"{', '.join(map(str, sorted(kinds)))} of them for all features."
        )
    (size,) = sizes
    index = faiss.IndexScalarQuantizer(
        len(codec.sizes), getattr(faiss.ScalarQuantizer, kinds[size])
    )
    # All cells but one lie within faiss' range; the last one begins at its end.
    width = (codec.high - codec.low) * ((size - 1) / size)
    trained = in_float32(np.concatenate([codec.low, width]), "clip_range_", "faiss")
    faiss.copy_array_to_vector(trained, index.sq.trained)
    index.is_trained = True
    return index


@_index.register(RotatedQuantizer)
def _rotated(estimator: Any, faiss: Any) -> Any:
    if isinstance(estimator.quantizer_, VectorQuantizer):
        raise ValueError(
            "RotatedQuantizer has a VectorQuantizer as its part, whose codewords are "
            "the rows of an index: faiss decodes none of these behind a rotation. "
            "ProductQuantizer(1) has the same codes."
        )
    turn = estimator._turn_
    linear = faiss.LinearTransform(turn.n_features, turn.n_components, False)
    matrix = in_float32(turn.components, "components_", "faiss")
    faiss.copy_array_to_vector(matrix.ravel(), linear.A)
    linear.set_is_orthonormal()
    linear.is_trained = True
    index = faiss.IndexPreTransform(linear, _index(estimator.quantizer_, faiss))
    if turn.mean.any():
        about = faiss.CenteringTransform(turn.n_features)
        mean = in_float32(turn.mean, "mean_", "faiss")
        faiss.copy_array_to_vector(mean, about.mean)
        about.is_trained = True
        index.prepend_transform(about)
    index.is_trained = True
    return index


def _with_sums(index: Any, quantizer: Any, tables: list[Any], faiss: Any) -> Any:
    """Set tables that add up on the quantizer of an index; return the index."""
    stacked = np.concatenate(tables).ravel()
    faiss.copy_array_to_vector(stacked, quantizer.codebooks)
    quantizer.is_trained = index.is_trained = True
    return index


def _bits(tables: Sequence[Any], estimator: Any) -> list[int]:
    """Return log2 of the sizes of tables; raise unless they are powers of two."""
    sizes = list(map(len, tables))
    for size in sizes:
        if size < 2 or size & (size - 1):
            raise ValueError(
                f"{type(estimator).__name__} has a table of {size} codewords; faiss "
                "takes powers of two, from 2 on."
            )
    return [size.bit_length() - 1 for size in sizes]


def from_faiss(index: Any) -> Any:
    """Return a quantizer with the tables of a faiss index or quantizer.

    Parameters
    ----------
    index : faiss.Index or faiss.Quantizer
        A trained object: an `IndexFlat`, whose rows become codewords; an `IndexPQ`,
        `IndexResidualQuantizer`, `IndexLocalSearchQuantizer` or
        `IndexScalarQuantizer`; an `IndexPreTransform` that rotates rows, or subtracts
        their mean, before one of these; or the `ProductQuantizer`, `ResidualQuantizer`,
        `LocalSearchQuantizer` or `ScalarQuantizer` in one.  Rows stored in an index are
        not converted.

    Returns
    -------
    quantizer : quantizer
        Fitted; `distortion_` is NaN.  A `VectorQuantizer`, `ProductQuantizer`,
        `ResidualQuantizer` (of the same beam), `AdditiveQuantizer`, `UniformQuantizer`
        or `RotatedQuantizer`.

    Raises
    ------
    ImportError
        If faiss is not installed.
    TypeError
        If it is another object of faiss, or of another library.
    ValueError
        If it is not trained, or is a flat index without rows; if its metric, or the
        type of a scalar quantizer, has no counterpart here; or if a transform is not a
        rotation.

    See Also
    --------
    to_faiss : The inverse.

    Notes
    -----
    The codes of an index are those of its rows, packed with the lowest bit first:
    ``skvq.codes.unpack(packed, quantizer.codebook_sizes_, bitorder="little")`` reads
    ``packed = faiss.vector_to_array(index.codes).reshape(index.ntotal, -1)``.

    A scalar quantizer of b bits in faiss cuts its range [vmin, vmin + vdiff] into
    2^b - 1 cells, and has one more for the upper end and beyond; each is decoded to its
    midpoint.  The range of the `UniformQuantizer` is longer by that cell.

    Examples
    --------
    >>> import faiss
    >>> import numpy as np
    >>> from skvq.interop import from_faiss
    >>> X = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    >>> index = faiss.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_8bit)
    >>> index.train(X)
    >>> grid = from_faiss(index)
    >>> bool((grid.transform(X) == index.sa_encode(X)).mean() > 0.99)
    True
    """
    faiss = library("faiss", "faiss-cpu")
    if isinstance(index, faiss.Index):
        index = faiss.downcast_index(index)
        if not index.is_trained:
            raise ValueError(f"index, a {_name(index)}, is not trained.")
    readers = {
        faiss.IndexFlat: _read_flat,
        faiss.IndexPQ: lambda index, _: _read_product(index.pq, faiss),
        faiss.IndexResidualQuantizer: lambda index, _: _read_residual(index.rq, faiss),
        faiss.IndexLocalSearchQuantizer: lambda index, _: _read_additive(
            index.lsq, faiss
        ),
        faiss.IndexScalarQuantizer: lambda index, _: _read_scalar(index.sq, faiss),
        faiss.IndexPreTransform: _read_rotated,
        faiss.ProductQuantizer: _read_product,
        faiss.ResidualQuantizer: _read_residual,
        faiss.LocalSearchQuantizer: _read_additive,
        faiss.ScalarQuantizer: _read_scalar,
    }
    for kind, read in readers.items():
        if isinstance(index, kind):
            return read(index, faiss)
    raise TypeError(
        f"index is a {class_name(type(index))}; expected one of "
        f"{', '.join(kind.__name__ for kind in readers)} of faiss."
    )


def _name(value: Any) -> str:
    return type(value).__name__


def _read_flat(index: Any, faiss: Any) -> VectorQuantizer:
    metrics = {getattr(faiss, name): metric for metric, name in _METRICS.items()}
    metric = metrics.get(index.metric_type)
    if metric is None:
        raise ValueError(
            f"index has the metric {index.metric_type} of faiss; expected one of "
            f"{', '.join(_METRICS.values())}."
        )
    if index.ntotal == 0:
        raise ValueError(f"index, a {_name(index)}, has no rows to be codewords.")
    learning = "lloyd" if metric in ("sqeuclidean", "cityblock") else "fixed"
    rows = index.reconstruct_n(0, index.ntotal)
    return VectorQuantizer.from_codebooks([rows], metric=metric, learning=learning)


def _read_product(pq: Any, faiss: Any) -> ProductQuantizer:
    centroids = faiss.vector_to_array(pq.centroids)
    return ProductQuantizer.from_codebooks(
        list(centroids.reshape(pq.M, pq.ksub, pq.dsub))
    )


def _read_residual(rq: Any, faiss: Any) -> ResidualQuantizer:
    return ResidualQuantizer.from_codebooks(
        _read_sums(rq, faiss), beam_size=int(rq.max_beam_size)
    )


def _read_additive(lsq: Any, faiss: Any) -> AdditiveQuantizer:
    return AdditiveQuantizer.from_codebooks(_read_sums(lsq, faiss))


def _read_rotated(index: Any, faiss: Any) -> RotatedQuantizer:
    """Return a quantizer behind the rotation that a chain of transforms makes up."""
    mean, matrix = np.zeros(index.d), np.eye(index.d)
    for i in range(index.chain.size()):
        step = faiss.downcast_VectorTransform(index.chain.at(i))
        if isinstance(step, faiss.CenteringTransform):
            mean = mean + faiss.vector_to_array(step.mean) @ matrix
            continue
        if not isinstance(step, faiss.LinearTransform) or step.d_out > step.d_in:
            raise ValueError(
                f"index has a {_name(step)} from {step.d_in} to {step.d_out} features "
                "in its chain; expected rotations, and means that are taken."
            )
        own = faiss.vector_to_array(step.A).reshape(step.d_out, step.d_in)
        matrix = own.astype(np.float64) @ matrix
        if step.have_bias:
            mean = mean - faiss.vector_to_array(step.b) @ matrix
    part = from_faiss(index.index)
    return RotatedQuantizer.from_codebooks(
        part.codebooks_, quantizer=part, rotation=matrix.astype(np.float32), mean=mean
    )


def _read_sums(quantizer: Any, faiss: Any) -> list[np.ndarray]:
    """Return the tables of a quantizer whose codewords add up."""
    if not quantizer.is_trained:
        raise ValueError(f"index, a {_name(quantizer)}, is not trained.")
    stacked = faiss.vector_to_array(quantizer.codebooks).reshape(-1, quantizer.d)
    ends = faiss.vector_to_array(quantizer.codebook_offsets).astype(np.intp)
    return np.split(stacked, ends[1:-1])


def _read_scalar(sq: Any, faiss: Any) -> UniformQuantizer:
    kinds = {getattr(faiss.ScalarQuantizer, name): name for name in _SCALARS}
    if sq.qtype not in kinds:
        raise ValueError(
            f"index has the qtype {sq.qtype} of faiss; expected one of "
            f"{', '.join(_SCALARS)}, which have equal cells."
        )
    size = _SCALARS[kinds[sq.qtype]]
    trained = faiss.vector_to_array(sq.trained).astype(np.float64)
    if trained.size == 0:
        raise ValueError(f"index, a {_name(sq)}, is not trained.")
    low, width = (np.resize(part, sq.d) for part in np.split(trained, 2))
    high = low + width * (size / (size - 1))
    tables = Grid(low, high, (size,) * sq.d).tables(np.float32)
    if (width > 0).all():
        return UniformQuantizer.from_codebooks(tables, clip_range=(low, high))
    # Constant features, whose range is a point, only have levels.
    return UniformQuantizer.from_codebooks(tables)
