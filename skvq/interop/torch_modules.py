"""The modules that `to_torch` makes.

torch is imported here at the top, so that pickles find the classes.  Only
`skvq.interop.torch` imports this file, when it is asked for a module.

All hooks take any number of leading axes.  They neither loop over data nor branch on
values, so `torch.compile` and `torch.export` take them whole.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def _buffer(array: Any, dtype: Any = None) -> Tensor:
    """Return a copy of a NumPy array as a tensor."""
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


class Codec(nn.Module):
    """Base of all modules.

    Parameters
    ----------
    n_features : int
        Width of x.
    sizes : sequence of int
        Number of codewords of each code column.
    """

    sizes: tuple[int, ...]

    def __init__(self, n_features: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.n_features = n_features
        self.sizes = tuple(sizes)

    @abstractmethod
    def _encode(self, x: Tensor) -> Tensor:
        """Return the codes (..., n_codes) of x, of the right width."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions (..., n_features) of int64 codes."""

    def encode(self, x: Tensor) -> Tensor:
        """Return codes (..., n_codes), in int64, of x (..., n_features)."""
        _check_width("x", x, self.n_features)
        return self._encode(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Return reconstructions (..., n_features) of integer codes (..., n_codes)."""
        _check_width("codes", codes, len(self.sizes))
        return self._decode(codes.long())

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of x; its gradient is that of x."""
        quantized = self.decode(self.encode(x.detach()))
        if not x.is_floating_point():
            return quantized
        # These zeros carry the gradient and do not change the codewords.
        return quantized.to(x.dtype) + (x - x.detach())

    def encoder(self) -> nn.Module:
        """Return a module whose `forward` is `encode`."""
        return Encoder(self).train(self.training)

    def decoder(self) -> nn.Module:
        """Return a module whose `forward` is `decode`."""
        return Decoder(self).train(self.training)

    def extra_repr(self) -> str:
        """Return the text that `print` shows of the module."""
        return f"n_features={self.n_features}, n_codes={len(self.sizes)}"


def _check_width(name: str, array: Tensor, width: int) -> None:
    if array.ndim == 0 or array.shape[-1] != width:
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}; expected (..., {width})."
        )


class Encoder(nn.Module):
    """The map from x to codes.

    Parameters
    ----------
    codec : Codec
        The codec that encodes.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes of x."""
        return self.codec.encode(x)


class Decoder(nn.Module):
    """The map from codes to reconstructions.

    Parameters
    ----------
    codec : Codec
        The codec that decodes.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of codes."""
        return self.codec.decode(codes)


class Nearest(Codec):
    """The nearest row of one table.

    Parameters
    ----------
    codewords : ndarray of shape (n_codewords, n_features)
        The table.
    metric : {"sqeuclidean", "cosine", "inner_product"}
        The metric of the search.
    bias : ndarray of shape (n_codewords,), optional
        Added to the squared distances.
    """

    def __init__(
        self, codewords: np.ndarray, metric: str, bias: np.ndarray | None = None
    ) -> None:
        super().__init__(codewords.shape[1], [len(codewords)])
        self.metric = metric
        self.register_buffer("codewords", _buffer(codewords))
        # Halved like the norms; a common offset decides nothing.
        half = None if bias is None else _buffer((bias - bias.min()) / 2)
        half = None if half is None else half.to(self.codewords.dtype)
        self.register_buffer("half_bias", half)

    def _encode(self, x: Tensor) -> Tensor:
        table = self.codewords
        x = x.to(table.dtype)
        if self.metric == "sqeuclidean":
            # Without the centre, data far from the origin would lose their digits.
            centre = table.mean(dim=0)
            table = table - centre
            half_norms = table.square().sum(dim=1) / 2
            if self.half_bias is not None:
                half_norms = half_norms + self.half_bias
            scores = half_norms - (x - centre) @ table.T
        elif self.metric == "cosine":
            scores = -x @ nn.functional.normalize(table, dim=1).T
        else:
            scores = -x @ table.T
        return scores.argmin(dim=-1, keepdim=True)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.codewords[codes[..., 0]]


class Concatenation(Codec):
    """A codec for each slice of the features.

    Parameters
    ----------
    parts : sequence of Codec
        One for each slice, in order; a codec may occur several times.
    """

    def __init__(self, parts: Sequence[Codec]) -> None:
        sizes = [size for part in parts for size in part.sizes]
        super().__init__(sum(part.n_features for part in parts), sizes)
        self.parts = nn.ModuleList(parts)

    def _encode(self, x: Tensor) -> Tensor:
        slices = x.split([part.n_features for part in self.parts], dim=-1)
        codes = [part.encode(s) for part, s in zip(self.parts, slices, strict=True)]
        return torch.cat(codes, dim=-1)

    def _decode(self, codes: Tensor) -> Tensor:
        columns = codes.split([len(part.sizes) for part in self.parts], dim=-1)
        found = [part.decode(c) for part, c in zip(self.parts, columns, strict=True)]
        return torch.cat(found, dim=-1)


class Residual(Codec):
    """Codecs, each of which codes the residual of those before it.

    Parameters
    ----------
    stages : sequence of Codec
        In order; a codec may occur several times.
    """

    def __init__(self, stages: Sequence[Codec]) -> None:
        sizes = [size for stage in stages for size in stage.sizes]
        super().__init__(stages[0].n_features, sizes)
        self.stages = nn.ModuleList(stages)

    def _encode(self, x: Tensor) -> Tensor:
        codes, rest = [], x
        for stage in self.stages:
            codes.append(stage.encode(rest))
            rest = rest - stage.decode(codes[-1])
        return torch.cat(codes, dim=-1)

    def _decode(self, codes: Tensor) -> Tensor:
        columns = codes.split([len(stage.sizes) for stage in self.stages], dim=-1)
        total = self.stages[0].decode(columns[0])
        for stage, own in zip(self.stages[1:], columns[1:], strict=True):
            total = total + stage.decode(own)
        return total


class Rotated(Codec):
    """A codec of rotated rows about their mean.

    Parameters
    ----------
    mean : ndarray of shape (n_features,)
        Subtracted from rows.
    components : ndarray of shape (n_components, n_features)
        The rotation; rows are orthonormal.
    part : Codec
        The codec of the rotated rows.
    """

    def __init__(self, mean: np.ndarray, components: np.ndarray, part: Codec) -> None:
        super().__init__(len(mean), part.sizes)
        self.register_buffer("mean", _buffer(mean))
        self.register_buffer("components", _buffer(components))
        self.part = part

    def _encode(self, x: Tensor) -> Tensor:
        gaps = x.to(self.mean.dtype) - self.mean
        return self.part.encode(gaps @ self.components.T)

    def _decode(self, codes: Tensor) -> Tensor:
        rows = self.part.decode(codes).to(self.mean.dtype)
        return rows @ self.components + self.mean


class EqualCells(Codec):
    """The range of each feature, cut into equal half-open cells.

    Parameters
    ----------
    low, high : ndarray of shape (n_features,)
        The range.
    sizes : sequence of int
        Number of cells of each feature.
    dtype : dtype
        The dtype of reconstructions.
    """

    dtype: Any

    def __init__(self, low: Any, high: Any, sizes: Sequence[int], dtype: Any) -> None:
        super().__init__(len(sizes), sizes)
        self.register_buffer("low", _buffer(low, np.float64))
        self.register_buffer("width", _buffer(high, np.float64) - self.low)
        self.register_buffer("n_cells", _buffer(sizes, np.float64))
        self.dtype = getattr(torch, np.dtype(dtype).name)

    def _encode(self, x: Tensor) -> Tensor:
        x = x.to(self.low.dtype)
        is_cut = self.width > 0
        per_unit = torch.where(is_cut, self.n_cells / self.width, 0.0)
        last = torch.where(is_cut, self.n_cells - 1, 0.0)
        place = ((x - self.low) * per_unit).floor()
        place = torch.minimum(place.clamp(min=0), last)
        # The rounded edges decide, not this quotient.
        place = place - (x < self._edge(place)).to(place.dtype)
        place = place + (x >= self._edge(place + 1)).to(place.dtype)
        return torch.minimum(place.clamp(min=0), last).long()

    def _edge(self, place: Tensor) -> Tensor:
        return self.low + place * self.width / self.n_cells

    def _decode(self, codes: Tensor) -> Tensor:
        middle = (2 * codes.to(self.low.dtype) + 1) * self.width / (2 * self.n_cells)
        return (self.low + middle).to(self.dtype)


class Levels(Codec):
    """Cells between edges of each feature, and the levels that they are decoded to.

    Parameters
    ----------
    edges : sequence of 1-d arrays
        Ascending; an edge belongs to the cell above it.
    levels : sequence of 1-d arrays
        One for each code.
    """

    def __init__(self, edges: Sequence[Any], levels: Sequence[Any]) -> None:
        super().__init__(len(levels), list(map(len, levels)))
        n_edges = max(1, *map(len, edges))
        # No value reaches the padding.
        filled = np.full((len(edges), n_edges), np.inf)
        table = np.zeros((len(levels), max(self.sizes)), dtype=levels[0].dtype)
        for j, (own_edges, own_levels) in enumerate(zip(edges, levels, strict=True)):
            filled[j, : len(own_edges)] = own_edges
            table[j, : len(own_levels)] = own_levels
        self.register_buffer("edges", _buffer(filled))
        self.register_buffer("levels", _buffer(table))

    def _encode(self, x: Tensor) -> Tensor:
        columns = x.to(self.edges.dtype).reshape(-1, self.n_features).T.contiguous()
        codes = torch.searchsorted(self.edges, columns, right=True)
        return codes.T.reshape(x.shape)

    def _decode(self, codes: Tensor) -> Tensor:
        columns = torch.arange(self.n_features, device=codes.device)
        return self.levels[columns, codes]


class Signs(Codec):
    """The signs of the features and, optionally, the length of x.

    Parameters
    ----------
    scale : ndarray of shape (n_features,)
        Factor of the signs.
    length : Codec of one feature, optional
        Codes the length; None: all rows have length 1, or one that `scale` implies.
    """

    def __init__(self, scale: np.ndarray, length: Codec | None = None) -> None:
        sizes = () if length is None else length.sizes
        super().__init__(len(scale), (2,) * len(scale) + sizes)
        self.register_buffer("scale", _buffer(scale))
        self.length = length

    def _encode(self, x: Tensor) -> Tensor:
        signs = (x > 0).long()
        if self.length is None:
            return signs
        norms = torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
        return torch.cat([signs, self.length.encode(norms)], dim=-1)

    def _decode(self, codes: Tensor) -> Tensor:
        signs = (2 * codes[..., : self.n_features] - 1).to(self.scale.dtype)
        rows = signs * self.scale
        if self.length is None:
            return rows
        lengths = self.length.decode(codes[..., self.n_features :])
        return rows * lengths.to(rows.dtype)
