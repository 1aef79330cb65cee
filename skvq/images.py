"""Pictures as samples: blocks and back, and palettes.

========================  ==========================================================
`to_blocks`               cut a picture in blocks, one row each
`from_blocks`             put blocks together again
`palette`                 few colours for a picture, and which of them each pixel has
========================  ==========================================================

Pictures are NumPy arrays of shape (height, width) or (height, width, n_channels), of
any dtype: grey, colours, or any number of bands.
"""

import math
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skvq._checks import check_count, check_counts, is_sequence
from skvq._pipelines import plain
from skvq._typing import MatrixLike, RandomState, Size, StackLike
from skvq.vector import VectorQuantizer

__all__ = ["from_blocks", "palette", "to_blocks"]

Picture: TypeAlias = MatrixLike | StackLike
BlockShape: TypeAlias = Size | tuple[Size, Size]


def to_blocks(
    picture: Picture,
    block_shape: BlockShape,
    *,
    padding: Literal["edge", "none"] = "edge",
) -> NDArray[Any]:
    """Cut a picture in blocks, each of which is a sample.

    Parameters
    ----------
    picture : array-like of shape (height, width) or (height, width, n_channels)
        The picture.
    block_shape : int or (int, int)
        Rows and columns of a block; an int for square ones.
    padding : {"edge", "none"}, default="edge"
        What is done where blocks do not cut the picture without a rest.  "edge": its
        last row and column are repeated until they do.  "none": a ValueError.

    Returns
    -------
    rows : ndarray of shape (n_blocks, block_height * block_width * n_channels)
        The blocks from left to right and from top to bottom, the pixels of a block in
        the same order, in the dtype of the picture.

    Raises
    ------
    ValueError
        If the picture, the blocks or the padding are not valid.

    See Also
    --------
    from_blocks : The way back.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.images import to_blocks
    >>> picture = np.arange(12).reshape(3, 4)
    >>> to_blocks(picture, 2)
    array([[ 0,  1,  4,  5],
           [ 2,  3,  6,  7],
           [ 8,  9,  8,  9],
           [10, 11, 10, 11]])
    """
    picture = _check_picture(picture)
    height, width = _check_block_shape(block_shape)
    if padding not in ("edge", "none"):
        raise ValueError(f"padding={padding!r}; expected 'edge' or 'none'.")
    n_rows, n_columns = _n_blocks(picture.shape, (height, width))
    rest = n_rows * height - picture.shape[0], n_columns * width - picture.shape[1]
    if any(rest):
        if padding == "none":
            raise ValueError(
                f"Blocks of {height} x {width} do not cut a picture of "
                f"{picture.shape[0]} x {picture.shape[1]} without a rest; padding="
                "'edge' repeats its last row and column."
            )
        ends = [(0, rest[0]), (0, rest[1]), (0, 0)][: picture.ndim]
        picture = np.pad(picture, ends, mode="edge")
    n_channels = math.prod(picture.shape[2:])
    grid = picture.reshape(n_rows, height, n_columns, width, n_channels)
    # Also where there are no channels, and so no number to tell the length by.
    shape = n_rows * n_columns, height * width * n_channels
    return np.array(grid.swapaxes(1, 2), order="C").reshape(shape)


def from_blocks(
    rows: MatrixLike,
    shape: tuple[Size, ...],
    block_shape: BlockShape,
    *,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """Put the blocks of a picture together again.

    Parameters
    ----------
    rows : array-like of shape (n_blocks, block_height * block_width * n_channels)
        The blocks, ordered as `to_blocks` returns them.
    shape : tuple of int
        (height, width) or (height, width, n_channels) of the picture; what `to_blocks`
        has added to it is cut off.
    block_shape : int or (int, int)
        Rows and columns of a block; an int for square ones.
    dtype : dtype, optional
        Type of the numbers of the picture; by default that of the rows.  Where it is
        one of integers, numbers are rounded, and clipped to its range; where it is
        bool, they are True from a half on.

    Returns
    -------
    picture : ndarray of that shape
        The picture.

    Raises
    ------
    ValueError
        If the rows are not those of such a picture, or are not finite and wanted as
        integers.

    See Also
    --------
    to_blocks : The way there.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.images import from_blocks, to_blocks
    >>> picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    >>> rows = to_blocks(picture, 2) + 0.4
    >>> from_blocks(rows, (3, 4), 2, dtype=np.uint8)
    array([[ 0,  1,  2,  3],
           [ 4,  5,  6,  7],
           [ 8,  9, 10, 11]], dtype=uint8)
    """
    rows = np.asarray(rows)
    height, width = _check_block_shape(block_shape)
    shape = _check_shape(shape)
    n_rows, n_columns = _n_blocks(shape, (height, width))
    n_channels = math.prod(shape[2:])
    expected = n_rows * n_columns, height * width * n_channels
    if rows.shape != expected:
        raise ValueError(
            f"rows has shape {rows.shape}; a picture of shape {shape} has blocks of "
            f"{height} x {width} in rows of shape {expected}."
        )
    grid = rows.reshape(n_rows, n_columns, height, width, n_channels).swapaxes(1, 2)
    whole = grid.reshape(n_rows * height, n_columns * width, *shape[2:])
    picture = whole[: shape[0], : shape[1]]
    return np.array(picture) if dtype is None else _as_dtype(picture, np.dtype(dtype))


def palette(
    picture: Picture,
    n_colors: Size = 16,
    *,
    random_state: RandomState = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Find few colours for a picture; ``colors[indices]`` is the picture in them.

    Parameters
    ----------
    picture : array-like of shape (height, width) or (height, width, n_channels)
        The picture.
    n_colors : int, default=16
        Number of colours.
    random_state : int, RandomState instance or None, default=None
        Source of random numbers for the start of k-means.

    Returns
    -------
    colors : ndarray of shape (n_colors,) or (n_colors, n_channels)
        The colours, by the sum of their channels from dark to bright, in the dtype of
        the picture, rounded where that is one of integers or bool.
    indices : ndarray of int, shape (height, width)
        The colour of each pixel, in the smallest unsigned dtype.

    Raises
    ------
    ValueError
        If the picture or the number of colours is not valid.

    See Also
    --------
    skvq.VectorQuantizer : What learns the colours, with more choices.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.images import palette
    >>> picture = np.array([[0, 2, 250], [254, 0, 252]], dtype=np.uint8)
    >>> colors, indices = palette(picture, 2, random_state=0)
    >>> colors, indices
    (array([  1, 252], dtype=uint8), array([[0, 0, 1],
           [1, 0, 1]], dtype=uint8))
    """
    picture = _check_picture(picture)
    pixels = picture.reshape(math.prod(picture.shape[:2]), -1)
    quantizer = VectorQuantizer(n_colors, random_state=random_state).fit(pixels)
    colors = quantizer.full_codebook()
    order = np.argsort(colors.sum(axis=1), kind="stable")
    # A data frame, if scikit-learn is set to give these.
    codes = plain(quantizer.transform(pixels))[:, 0]
    places = np.empty(len(order), dtype=codes.dtype)
    places[order] = np.arange(len(order))
    colors = _as_dtype(colors[order], picture.dtype)
    indices = places[codes].reshape(picture.shape[:2])
    return colors.reshape(len(order), *picture.shape[2:]), indices


def _check_picture(picture: Any) -> NDArray[Any]:
    found: NDArray[Any] = np.asarray(picture)
    if found.ndim not in (2, 3) or not found.size:
        raise ValueError(
            f"picture has shape {found.shape}; expected (height, width) or (height, "
            "width, n_channels), all of them 1 or more."
        )
    return found


def _check_shape(shape: Any) -> tuple[int, ...]:
    sides = check_counts("shape", shape)
    if len(sides) not in (2, 3):
        raise ValueError(
            f"shape={shape!r}; expected (height, width) or (height, width, n_channels)."
        )
    return tuple(sides)


def _check_block_shape(block_shape: Any) -> tuple[int, int]:
    if not is_sequence(block_shape):
        side = check_count("block_shape", block_shape)
        return side, side
    sides = check_counts("block_shape", block_shape)
    if len(sides) != 2:
        raise ValueError(
            f"block_shape={block_shape!r}; expected an int, or a pair of rows and "
            "columns."
        )
    return sides[0], sides[1]


def _n_blocks(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def _as_dtype(numbers: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers in a dtype: rounded and clipped if it is one of integers."""
    if dtype.kind == "b":  # to which Python's rule would turn all but zeros
        return numbers >= 0.5
    if dtype.kind not in "iu":
        return numbers.astype(dtype)
    if numbers.dtype.kind == "f":
        numbers = np.rint(numbers, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError(
                f"rows hold NaN or infinity, which dtype {dtype} does not have."
            )
    ends = np.iinfo(dtype)
    clipped = np.full(numbers.shape, ends.max, dtype=dtype)
    clipped[numbers <= ends.min] = ends.min
    # The largest numbers of 64 bits are not exact in floating point: they are full.
    inside = (numbers > ends.min) & (numbers < ends.max)
    clipped[inside] = numbers[inside].astype(dtype)
    return clipped
