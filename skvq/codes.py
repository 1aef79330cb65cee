"""Codes in other forms: packed bits, signed columns, token ids, one-hot rows.

Quantizers use codes as an ``(n_samples, n_codes)`` integer array with one column per
codebook, which suits arithmetic and indexing.  Files, sequence models and linear models
need other forms.  The functions here convert in both directions, exactly, for any
codebook sizes.  They do not use estimators, only codes and `sizes`, which is the
`codebook_sizes_` of a fitted quantizer.  `EntropyCoder` writes frequent codes in fewer
bits than rare ones; `UniqueIds` gives each row codes of its own; `capacitate` chooses
labels with a bounded number of rows each; and `match` finds which codewords of a new
fit continue those of an old one.

Arrays of CuPy, and of other libraries if scikit-learn's dispatch is on, are read to the
host, and results are sent to their device; sparse arrays are SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse as sp

from skvq._capacity import capacitate
from skvq._checks import check_unmasked
from skvq._code_checks import (
    LIMB_BITS,
    MAX_SIZE,
    check_code_array,
    check_codes,
    check_integer,
    check_integers,
    check_sizes,
    first_out_of_range,
    row_words,
    sent,
    smallest_dtype,
)
from skvq._compat import frame_like
from skvq._entropy import EntropyCoder
from skvq._ids import UniqueIds
from skvq._match import match
from skvq._typing import MatrixLike, Size, Sizes, VectorLike
from skvq._validation import followed_backend
from skvq.nearest import engine_of

__all__ = [
    "EntropyCoder",
    "UniqueIds",
    "capacitate",
    "disambiguate",
    "from_signed",
    "from_token_ids",
    "from_vocabulary",
    "match",
    "offsets",
    "one_hot",
    "pack",
    "packed_bits",
    "smallest_dtype",
    "to_signed",
    "token_ids",
    "unpack",
]

Method = Literal["columns", "radix"]
Order = Literal["C", "F"]
BitOrder = Literal["big", "little"]

# Words in a tile that stays in cache, even with a byte for each bit.
_TILE_WORDS = 2**16


def packed_bits(sizes: Sizes, *, method: Method = "columns") -> int:
    """Return how many bits `pack` spends on one row, before any padding.

    Parameters
    ----------
    sizes : sequence of int
        Number of codewords V_j behind each code column, 1 to 2**32 each.
    method : {"columns", "radix"}, default="columns"
        ``"columns"``: the sum of ceil(log2 V_j). ``"radix"``: the ceiling of the
        sum of log2 V_j, in exact integer arithmetic.

    Returns
    -------
    n_bits : int
        Bits per row; 0 if every V_j is 1.

    Raises
    ------
    TypeError
        If `sizes` is not a sequence of integers.
    ValueError
        If a size or `method` is out of range.

    Examples
    --------
    >>> from skvq.codes import packed_bits
    >>> packed_bits((5, 5, 5)), packed_bits((5, 5, 5), method="radix")
    (9, 7)
    """
    return _n_bits(check_sizes(sizes), method)


def pack(
    codes: MatrixLike,
    sizes: Sizes,
    *,
    method: Method = "columns",
    row_aligned: bool = True,
    bitorder: BitOrder = "big",
) -> NDArray[np.uint8]:
    """Pack codes into as few bits as their codebooks need.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as `transform` returns them: 0 <= codes[:, j] < sizes[j].
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column, 1 to 2**32 each: the
        `codebook_sizes_` of the quantizer.
    method : {"columns", "radix"}, default="columns"
        ``"columns"`` writes each code in ceil(log2 V_j) bits, the columns of a row one
        after the other. ``"radix"`` writes the row's token id, a number in the mixed
        radix V_1, ..., V_m with the last column least significant, in ceil(log2 V_1 +
        ... + log2 V_m) bits: these are fewer if not all V_j are powers of two, but take
        more arithmetic. The number may have any length.
    row_aligned : bool, default=True
        Whether each row starts on a byte of its own, so that packed rows can be
        indexed. False writes all rows as one stream, padded only at its end.
    bitorder : {"big", "little"}, default="big"
        Which bits come first, in a code (or a token id) and in a byte, as in
        `numpy.packbits`: ``"big"`` the most significant, ``"little"`` the least
        significant ones, as faiss packs codes in rows.

    Returns
    -------
    packed : ndarray of uint8
        Shape (n_samples, ceil(n_bits / 8)) with `row_aligned`, else
        (ceil(n_samples * n_bits / 8),), where n_bits is ``packed_bits(sizes,
        method)``. Padding bits are zero.

    Raises
    ------
    TypeError
        If codes or sizes are not integers.
    ValueError
        If the shape of codes doesn't match sizes, a code is out of range (the message
        names row and column), or `method` or `bitorder` is unknown.

    See Also
    --------
    unpack : The inverse.

    References
    ----------
    .. [1] D. E. Knuth, "The Art of Computer Programming, Volume 2: Seminumerical
       Algorithms", 3rd ed., 1997, section 4.1 (mixed radix) and section 4.3.1
       (arithmetic in limbs).

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import pack, unpack
    >>> codes = np.array([[4, 0, 2], [1, 3, 4]])
    >>> sizes = (5, 5, 5)
    >>> pack(codes, sizes).shape  # 9 bits
    (2, 2)
    >>> pack(codes, sizes, method="radix").shape  # 7 bits
    (2, 1)
    >>> stream = pack(codes, sizes, method="radix", row_aligned=False)
    >>> unpack(stream, sizes, method="radix", row_aligned=False, n_samples=2)
    array([[4, 0, 2],
           [1, 3, 4]], dtype=uint8)
    """
    sizes = check_sizes(sizes)
    widths = _widths(sizes, method)
    _check_bitorder(bitorder)
    be, codes = check_codes(codes, sizes)
    n_bits = sum(widths)
    packed = np.empty(_packed_shape(len(codes), n_bits, row_aligned), dtype=np.uint8)
    if n_bits:
        engine: Any = engine_of(codes)
        order = _column_order(method, bitorder)
        widths = widths[::order]
        write = engine.pack_words
        if bitorder == "little":
            write = partial(_pack_little, engine)
        for rows in _tiles(len(codes), len(widths)):
            words = codes[rows]
            if method == "radix":
                words = _to_limbs(words, sizes, len(widths))
            # A tile has a multiple of 8 rows, hence starts on a whole byte.
            place = rows if row_aligned else _stream_slice(rows, n_bits)
            packed[place] = write(words[:, ::order], widths, row_aligned)
    return sent(be, packed)


def unpack(
    packed: MatrixLike | VectorLike,
    sizes: Sizes,
    *,
    method: Method = "columns",
    row_aligned: bool = True,
    bitorder: BitOrder = "big",
    n_samples: Size | None = None,
) -> NDArray[Any]:
    """Unpack codes that `pack` has packed.

    Parameters
    ----------
    packed : array-like of uint8
        The result of `pack`: shape (n_samples, n_bytes) with `row_aligned`, else
        1-d. For a file's content, ``np.fromfile(path, dtype=np.uint8)``.
    sizes : sequence of int, length n_codes
        The sizes that the codes were packed with.
    method : {"columns", "radix"}, default="columns"
        The method with which they were packed.
    row_aligned : bool, default=True
        The alignment with which they were packed.
    bitorder : {"big", "little"}, default="big"
        The order of bits with which they were packed.
    n_samples : int, default=None
        Number of rows. It is required with ``row_aligned=False``, since a stream does
        not contain it, and checked otherwise.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codes)
        The codes, in the smallest unsigned dtype that holds the largest size.

    Raises
    ------
    TypeError
        If packed is not uint8, or sizes or `n_samples` are not integers.
    ValueError
        If packed cannot be the result of `pack` with these arguments: it is too short
        or too long, has padding bits that are not zero, or a code out of range.

    See Also
    --------
    pack : The inverse, with a description of the layout.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import pack, unpack
    >>> packed = pack(np.array([[255, 3], [0, 1]]), (256, 4))
    >>> packed
    array([[255, 192],
           [  0,  64]], dtype=uint8)
    >>> unpack(packed[1:], (256, 4))
    array([[0, 1]], dtype=uint8)
    """
    sizes = check_sizes(sizes)
    widths = _widths(sizes, method)
    _check_bitorder(bitorder)
    n_bits = sum(widths)
    be = followed_backend(packed)
    packed = be.to_host(packed)
    packed, n_samples = _check_packed(packed, n_bits, row_aligned, n_samples, bitorder)
    if not n_bits:
        return sent(be, np.zeros((n_samples, len(sizes)), dtype=np.uint8))
    codes = np.empty((n_samples, len(sizes)), dtype=smallest_dtype(max(sizes)))
    engine: Any = engine_of(packed)
    dtype = np.uint32 if method == "radix" else codes.dtype
    order = _column_order(method, bitorder)
    widths = widths[::order]
    read = engine.unpack_words
    if bitorder == "little":
        read = partial(_unpack_little, engine)
    for rows in _tiles(n_samples, len(widths)):
        part = packed[rows if row_aligned else _stream_slice(rows, n_bits)]
        n_rows = rows.stop - rows.start
        words = read(part, n_rows, widths, row_aligned, dtype)[:, ::order]
        if method == "radix":
            words = _from_limbs(words, sizes, rows.start)
        else:
            _check_decoded(words, sizes, rows.start)
        codes[rows] = words
    return sent(be, codes)


def token_ids(
    codes: MatrixLike, sizes: Sizes, *, order: Order = "C"
) -> NDArray[np.int64]:
    """Compute the token id of each row of codes, a number in a mixed radix.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as `transform` returns them: 0 <= codes[:, j] < sizes[j].
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column, 1 to 2**32 each. Their
        product must not exceed 2**63 - 1.
    order : {"C", "F"}, default="C"
        ``"C"``: the last column is the least significant, so that
        ``quantizer.full_codebook()[token_ids(codes, sizes)]`` is the reconstruction.
        ``"F"``: the first column is, as in the published code of finite scalar
        quantization [1]_.

    Returns
    -------
    ids : ndarray of int64, shape (n_samples,)
        Token ids, 0 to prod(sizes) - 1.  Of a data frame a series "token_id", with its
        index.

    Raises
    ------
    TypeError
        If codes or sizes are not integers.
    ValueError
        If the shape of codes doesn't match sizes, a code is out of range (the
        message names row and column), `order` is unknown, or the product of the
        sizes exceeds 2**63 - 1.

    See Also
    --------
    from_token_ids : The inverse.
    pack : With ``method="radix"``, the same number at any length.

    References
    ----------
    .. [1] F. Mentzer, D. Minnen, E. Agustsson, M. Tschannen, "Finite Scalar
       Quantization: VQ-VAE Made Simple", ICLR 2024, arXiv 2309.15505.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import token_ids
    >>> codes = np.array([[0, 1], [2, 4]])
    >>> token_ids(codes, (3, 5))
    array([ 1, 14])
    >>> token_ids(codes, (3, 5), order="F")
    array([ 3, 14])
    """
    sizes = check_sizes(sizes)
    strides = _strides(sizes, order)
    be, words = check_codes(codes, sizes)
    ids = _ravel(words, strides)
    frame = frame_like(codes, ids[:, None], lambda: ["token_id"])
    return sent(be, ids) if frame is None else frame["token_id"]


def from_token_ids(
    ids: VectorLike, sizes: Sizes, *, order: Order = "C"
) -> NDArray[Any]:
    """Turn token ids back into codes.

    Parameters
    ----------
    ids : array-like of int, shape (n_samples,)
        Token ids, 0 to prod(sizes) - 1.
    sizes : sequence of int, length n_codes
        The sizes with which the ids were made.
    order : {"C", "F"}, default="C"
        The order with which they were made.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codes)
        The codes, in the smallest unsigned dtype that holds the largest size.

    Raises
    ------
    TypeError
        If ids or sizes are not integers.
    ValueError
        If ids is not 1-d, an id is out of range (the message names its row),
        `order` is unknown, or the product of the sizes exceeds 2**63 - 1.

    See Also
    --------
    token_ids : The inverse.

    Examples
    --------
    >>> from skvq.codes import from_token_ids
    >>> from_token_ids([1, 14], (3, 5))
    array([[0, 1],
           [2, 4]], dtype=uint8)
    """
    sizes = check_sizes(sizes)
    strides = _strides(sizes, order)
    be = followed_backend(ids)
    ids = np.asarray(check_unmasked(be.to_host(ids), "ids"))
    if ids.ndim != 1:
        raise ValueError(f"ids must be 1-d, of shape (n_samples,), got {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got dtype {ids.dtype}")
    n_tokens = math.prod(sizes)
    row = first_out_of_range(ids, n_tokens)
    if row is not None:
        raise ValueError(
            f"ids[{row}] is {ids[row]}: sizes={sizes} make {n_tokens} tokens, 0 to "
            f"{n_tokens - 1}"
        )
    return sent(be, _unravel(ids.astype(np.int64, copy=False), sizes, strides))


def to_signed(codes: MatrixLike, sizes: Sizes) -> NDArray[Any]:
    """Turn codes into signed integers about zero, as vector stores expect them.

    Each column is shifted by half its size: 256 codes are the int8 from -128 to 127,
    and 255 codes, symmetric, those from -127 to 127.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as `transform` returns them: 0 <= codes[:, j] < sizes[j].
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column, 1 to 2**32 each.

    Returns
    -------
    signed : ndarray of shape (n_samples, n_codes)
        ``codes - sizes // 2``, in the smallest signed dtype that holds the largest
        size: int8 up to 256, int16 up to 65,536, else int32.

    Raises
    ------
    TypeError
        If codes or sizes are not integers.
    ValueError
        If the shape of codes doesn't match sizes, or a code is out of range; the
        message names row and column.

    See Also
    --------
    from_signed : The inverse.

    Notes
    -----
    For a grid of V equal steps (`UniformQuantizer` without clipping), differences of
    signed codes are those of the values in units of the step.  If the step is the same
    for all features, squared distances are right up to its square.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import to_signed
    >>> to_signed(np.array([[0, 255], [128, 3]]), (256, 256))
    array([[-128,  127],
           [   0, -125]], dtype=int8)
    """
    sizes = check_sizes(sizes)
    be, codes = check_codes(codes, sizes)
    signed = np.empty(codes.shape, dtype=_signed_dtype(max(sizes)))
    for j, size in enumerate(sizes):
        signed[:, j] = codes[:, j].astype(np.int64) - size // 2
    return sent(be, signed)


def from_signed(signed: MatrixLike, sizes: Sizes) -> NDArray[Any]:
    """Turn signed integers about zero back into codes.

    Parameters
    ----------
    signed : array-like of int, shape (n_samples, n_codes)
        The result of `to_signed`: -(sizes[j] // 2) and upward.
    sizes : sequence of int, length n_codes
        The sizes with which it was made.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codes)
        The codes, in the smallest unsigned dtype that holds the largest size.

    Raises
    ------
    TypeError
        If signed or sizes are not integers.
    ValueError
        If the shape of signed doesn't match sizes, or an entry is out of range; the
        message names row and column.

    See Also
    --------
    to_signed : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import from_signed
    >>> from_signed(np.array([[-128, 127], [0, -125]], dtype=np.int8), (256, 256))
    array([[  0, 255],
           [128,   3]], dtype=uint8)
    """
    sizes = check_sizes(sizes)
    be, signed = check_codes(signed, sizes, "signed", [-(size // 2) for size in sizes])
    codes = np.empty(signed.shape, dtype=smallest_dtype(max(sizes)))
    for j, size in enumerate(sizes):
        codes[:, j] = signed[:, j].astype(np.int64) + size // 2
    return sent(be, codes)


def _signed_dtype(size: int) -> np.dtype[Any]:
    return np.min_scalar_type(-(size - size // 2))


def one_hot(
    codes: MatrixLike,
    sizes: Sizes,
    *,
    dtype: DTypeLike = np.float64,
    sparse: bool = True,
) -> sp.csr_array | NDArray[Any]:
    """Return indicator columns, one for every codeword of every codebook.

    Codes are names, not quantities, so linear models need them in this form. Its
    product with the stacked codebooks of an additive scheme is the reconstruction.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as `transform` returns them: 0 <= codes[:, j] < sizes[j].
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column, 1 to 2**32 each.
    dtype : dtype-like, default=numpy.float64
        The dtype of the result.
    sparse : bool, default=True
        Whether to return a sparse array, which stores n_codes entries per row.

    Returns
    -------
    indicators : csr_array or ndarray of shape (n_samples, sum(sizes))
        1 in column V_1 + ... + V_{j-1} + codes[i, j] of row i for each j, else 0.  Of a
        data frame, with ``sparse=False``, a data frame with its index, and the names
        ``column_code`` for each column of codes and each code.

    Raises
    ------
    TypeError
        If codes or sizes are not integers.
    ValueError
        If the shape of codes doesn't match sizes, or a code is out of range; the
        message names row and column.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import one_hot
    >>> one_hot(np.array([[1, 0], [0, 2]]), (2, 3), dtype=int, sparse=False)
    array([[0, 1, 1, 0, 0],
           [1, 0, 0, 0, 1]])
    """
    sizes = check_sizes(sizes)
    be, words = check_codes(codes, sizes)
    n_samples, n_codes = words.shape
    shape = (n_samples, sum(sizes))
    columns = words + offsets(sizes)
    if not sparse:
        dense = np.zeros(shape, dtype=dtype)
        np.put_along_axis(dense, columns, 1, axis=1)
        frame = frame_like(codes, dense, partial(_indicator_names, codes, sizes))
        return sent(be, dense) if frame is None else frame
    largest = max(shape[1], columns.size)
    index = np.int32 if largest < 2**31 else np.int64
    indptr = np.arange(0, columns.size + 1, n_codes, dtype=index)
    indices = columns.ravel().astype(index, copy=False)
    return sp.csr_array((np.ones(columns.size, dtype), indices, indptr), shape=shape)


def _indicator_names(frame: Any, sizes: Sizes) -> list[str]:
    return [
        f"{name}_{code}"
        for name, size in zip(frame.columns, sizes, strict=True)
        for code in range(int(size))
    ]


def offsets(sizes: Sizes) -> NDArray[np.int64]:
    """Return where the tokens of each code column begin in one vocabulary.

    A language model has one vocabulary for all columns: ``codes + offsets(sizes)`` are
    its tokens, in int64, and `from_vocabulary` is the way back.

    Parameters
    ----------
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column, 1 to 2**32 each.

    Returns
    -------
    offsets : ndarray of int64, shape (n_codes,)
        0, V_1, V_1 + V_2, ...; the vocabulary has ``sum(sizes)`` tokens.

    Raises
    ------
    TypeError
        If sizes are not integers.
    ValueError
        If a size is out of range.

    See Also
    --------
    token_ids : A single token for each row.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import offsets
    >>> codes = np.array([[255, 0], [3, 9]], dtype=np.uint8)
    >>> codes + offsets((256, 10))
    array([[255, 256],
           [  3, 265]])
    """
    return np.array([0, *accumulate(check_sizes(sizes)[:-1])], dtype=np.int64)


def from_vocabulary(tokens: MatrixLike, sizes: Sizes) -> NDArray[Any]:
    """Turn tokens of one vocabulary for all columns back into codes.

    Parameters
    ----------
    tokens : array-like of int, shape (n_samples, n_codes)
        ``codes + offsets(sizes)``.
    sizes : sequence of int, length n_codes
        Number of codewords V_j behind each code column.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_codes)
        The codes, in the smallest unsigned dtype that holds the largest size.

    Raises
    ------
    TypeError
        If tokens or sizes are not integers.
    ValueError
        If the shape of tokens doesn't match sizes, or a token does not belong to its
        column, as generated tokens may not; the message names row and column.

    See Also
    --------
    offsets : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import from_vocabulary
    >>> from_vocabulary(np.array([[255, 256], [3, 265]]), (256, 10))
    array([[255,   0],
           [  3,   9]], dtype=uint8)
    """
    sizes = check_sizes(sizes)
    first = offsets(sizes)
    be, tokens = check_codes(tokens, sizes, "tokens", first.tolist())
    codes = tokens.astype(np.int64) - first
    return sent(be, codes.astype(smallest_dtype(max(sizes))))


def disambiguate(codes: MatrixLike) -> NDArray[Any]:
    """Append a column that tells rows with the same codes apart.

    Parameters
    ----------
    codes : array-like of int, shape (n_samples, n_codes)
        Codes as `transform` returns them.

    Returns
    -------
    ids : ndarray of int, shape (n_samples, n_codes + 1)
        The codes, followed by the number of earlier rows with the same codes: 0, 1, 2,
        ...  In the dtype of the codes, or the smallest that holds the last column too.

    Raises
    ------
    TypeError
        If codes are not integers.
    ValueError
        If codes are not two-dimensional.

    See Also
    --------
    UniqueIds : Moves rows to codes that are free, with a smaller digit or none.
    skvq.metrics.duplicate_rate : The share of rows whose appended code is not 0.
    skvq.metrics.collision_rate : The share of rows that share their codes.

    References
    ----------
    Rajput et al. (2023), "Recommender Systems with Generative Retrieval", section 3.1,
    arXiv 2305.05065.

    Examples
    --------
    >>> import numpy as np
    >>> from skvq.codes import disambiguate
    >>> disambiguate(np.array([[3, 1], [3, 2], [3, 1], [3, 1]], dtype=np.uint8))
    array([[3, 1, 0],
           [3, 2, 0],
           [3, 1, 1],
           [3, 1, 2]], dtype=uint8)
    """
    be, codes = check_code_array(codes, "codes")
    check_integers(codes, "codes")
    n = len(codes)
    words = row_words(codes) if codes.shape[1] else np.zeros(n, np.uint8)
    _, group, counts = np.unique(words, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    ranks = np.empty(n, dtype=np.int64)
    ranks[order] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    n_ranks = int(ranks.max(initial=0)) + 1
    dtype = np.promote_types(codes.dtype, smallest_dtype(n_ranks))
    both = [codes.astype(dtype), ranks[:, None].astype(dtype)]
    return sent(be, np.concatenate(both, axis=1))


# Checks


def _check_packed(
    packed: Any, n_bits: int, row_aligned: bool, n_samples: Any, bitorder: str
) -> tuple[NDArray[np.uint8], int]:
    packed = np.asarray(check_unmasked(packed, "packed"))
    if packed.dtype != np.uint8:
        raise TypeError(
            f"packed must have dtype uint8, got {packed.dtype}; for bytes, use "
            "np.frombuffer(packed, dtype=np.uint8)"
        )
    if packed.ndim != (2 if row_aligned else 1):
        raise ValueError(
            f"packed must be {'2-d' if row_aligned else '1-d'} with row_aligned="
            f"{row_aligned}, got shape {packed.shape}"
        )
    if n_samples is None:
        if not row_aligned:
            raise ValueError("n_samples must be given with row_aligned=False")
        n_samples = len(packed)
    n_samples = check_integer(n_samples, "n_samples", 0, np.iinfo(np.intp).max)
    expected = _packed_shape(n_samples, n_bits, row_aligned)
    if packed.shape != expected:
        raise ValueError(
            f"packed has shape {packed.shape}, but {n_samples} rows of {n_bits} bits "
            f"have {expected} with row_aligned={row_aligned}: it is truncated, too "
            "long, or was packed with other sizes or another method"
        )
    _check_padding(packed, n_bits if row_aligned else n_samples * n_bits, bitorder)
    return packed, n_samples


def _check_padding(packed: NDArray[np.uint8], n_bits: int, bitorder: str) -> None:
    mask = (1 << -n_bits % 8) - 1
    if bitorder == "little":
        mask <<= n_bits % 8
    if mask and np.any(packed[..., -1] & mask):
        where = ""
        if packed.ndim == 2:
            where = f" of row {int(np.argmax((packed[:, -1] & mask) != 0))}"
        raise ValueError(
            f"the padding bits at the end{where} of packed are not zero: it is "
            "corrupt, or was packed with other sizes or another method"
        )


def _check_decoded(words: NDArray[Any], sizes: tuple[int, ...], start: int) -> None:
    for j, size in enumerate(sizes):
        if size & (size - 1):  # the bits of a power of two hold no code too large
            i = first_out_of_range(words[:, j], size)
            if i is not None:
                raise ValueError(
                    f"packed holds code {words[i, j]} in row {start + i}, column {j}, "
                    f"which has {size} codewords: it is corrupt, or was packed with "
                    "other sizes or another method"
                )


# Bits


def _check_bitorder(bitorder: Any) -> None:
    if not isinstance(bitorder, str) or bitorder not in ("big", "little"):
        raise ValueError(f"bitorder must be 'big' or 'little', got {bitorder!r}")


def _column_order(method: str, bitorder: str) -> int:
    """Return the step through columns from a row's highest bits down to its lowest.

    With the lowest bits first, the first code has the lowest bits; limbs of a token id
    are always in the order of their significance.
    """
    return -1 if (method, bitorder) == ("columns", "little") else 1


def _pack_little(
    engine: Any, words: NDArray[Any], widths: list[int], row_aligned: bool
) -> NDArray[np.uint8]:
    """Return words as bytes, lowest bits first: the bytes of numbers, reversed.

    Padding goes in front of the highest bits.
    """
    n, n_bits = len(words), sum(widths)
    if row_aligned:
        words = np.pad(words, ((0, 0), (1, 0)))
        packed = engine.pack_words(words, [-n_bits % 8, *widths], True)
        return packed[:, ::-1]
    words = np.pad(words, ((0, -n % 8), (0, 0)))[::-1]
    packed = engine.pack_words(np.ascontiguousarray(words), widths, False)
    return packed[::-1][: -(-n * n_bits // 8)]


def _unpack_little(
    engine: Any,
    packed: NDArray[np.uint8],
    n_rows: int,
    widths: list[int],
    row_aligned: bool,
    dtype: Any,
) -> NDArray[Any]:
    """Return the words (n_rows, n_words) that `_pack_little` has packed."""
    n_bits = sum(widths)
    if row_aligned:
        packed = np.ascontiguousarray(packed[:, ::-1])
        widths = [-n_bits % 8, *widths]
        return engine.unpack_words(packed, n_rows, widths, True, dtype)[:, 1:]
    n_whole = -(-n_rows // 8) * 8
    packed = np.pad(packed, (0, n_whole * n_bits // 8 - len(packed)))
    packed = np.ascontiguousarray(packed[::-1])
    words = engine.unpack_words(packed, n_whole, widths, False, dtype)
    return words[::-1][:n_rows]


def _widths(sizes: tuple[int, ...], method: str) -> list[int]:
    """Return the bits of the words in a row: its codes, or the limbs of its id."""
    if method == "columns":
        return [(size - 1).bit_length() for size in sizes]
    n_bits = _n_bits(sizes, method)
    n_rest = max(0, -(-n_bits // LIMB_BITS) - 1)
    highest = [n_bits - n_rest * LIMB_BITS] if n_bits else []
    return [*highest, *[LIMB_BITS] * n_rest]


def _n_bits(sizes: tuple[int, ...], method: str) -> int:
    if method == "columns":
        return sum((size - 1).bit_length() for size in sizes)
    if method == "radix":
        return _bits_of_product(sizes)
    raise ValueError(f"method must be 'columns' or 'radix', got {method!r}")


def _bits_of_product(sizes: tuple[int, ...], precision: int = 128) -> int:
    """Return ``(math.prod(sizes) - 1).bit_length()`` without the whole product.

    The product of a million sizes takes minutes.  Its leading bits, rounded down and
    up, suffice unless it is very close to a power of two; then more bits are used.
    """
    low, high, shift = 1, 1, 0
    for i in range(0, len(sizes), 16):
        factor = math.prod(sizes[i : i + 16])
        low, high = low * factor, high * factor
        excess = max(0, low.bit_length() - precision)
        low, high, shift = low >> excess, -(-high >> excess), shift + excess
    n_bits = (low - 1).bit_length() + shift
    if n_bits == (high - 1).bit_length() + shift:
        return n_bits
    return _bits_of_product(sizes, 2 * precision)


def _packed_shape(n_samples: int, n_bits: int, row_aligned: bool) -> tuple[int, ...]:
    if row_aligned:
        return n_samples, -(-n_bits // 8)
    return (-(-n_samples * n_bits // 8),)


def _tiles(n_samples: int, n_words: int) -> Iterator[slice]:
    n_rows = max(8, _TILE_WORDS // n_words // 8 * 8)
    for start in range(0, n_samples, n_rows):
        yield slice(start, min(start + n_rows, n_samples))


def _stream_slice(rows: slice, n_bits: int) -> slice:
    return slice(rows.start * n_bits // 8, -(-rows.stop * n_bits // 8))


# Mixed radix


def _strides(sizes: tuple[int, ...], order: str) -> list[int]:
    """Return the weight of each column in a token id."""
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', got {order!r}")
    n_tokens = math.prod(sizes)
    if n_tokens > np.iinfo(np.int64).max:
        raise ValueError(
            f"sizes={sizes} make {n_tokens} tokens, more than 2**63 - 1, which is all "
            "that int64 token ids can number; pack(codes, sizes, method='radix') "
            "stores the same numbers at any length"
        )
    if order == "F":
        return [1, *accumulate(sizes[:-1], int.__mul__)]
    return [1, *accumulate(sizes[:0:-1], int.__mul__)][::-1]


def _ravel(codes: NDArray[Any], strides: list[int]) -> NDArray[np.int64]:
    ids = np.zeros(len(codes), dtype=np.int64)
    for column, stride in zip(codes.T, strides, strict=True):
        ids += column.astype(np.int64) * stride  # cast first: uint8 would wrap around
    return ids


def _unravel(
    ids: NDArray[Any], sizes: tuple[int, ...], strides: list[int]
) -> NDArray[Any]:
    codes = np.empty((len(ids), len(sizes)), dtype=smallest_dtype(max(sizes)))
    for j, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        codes[:, j] = ids // stride % size
    return codes


class _Digit(NamedTuple):
    """Neighbouring columns whose joint token id fits one limb: one step of Horner."""

    columns: slice
    sizes: tuple[int, ...]
    strides: list[int]
    base: np.uint64
    n_limbs: int  # limbs that the token id of all columns up to here can fill


def _digits(sizes: tuple[int, ...]) -> list[_Digit]:
    borders = [0]
    base = 1
    for j, size in enumerate(sizes):
        if base * size > MAX_SIZE:
            borders.append(j)
            base = 1
        base *= size
    digits, product = [], 1
    for start, stop in zip(borders, [*borders[1:], len(sizes)], strict=True):
        part = sizes[start:stop]
        product *= math.prod(part)
        n_bits = (product - 1).bit_length()
        digits.append(
            _Digit(
                columns=slice(start, stop),
                sizes=part,
                strides=_strides(part, "C"),
                base=np.uint64(math.prod(part)),
                n_limbs=-(-n_bits // LIMB_BITS),
            )
        )
    return digits


_SHIFT = np.uint64(LIMB_BITS)
_MASK = np.uint64(2**LIMB_BITS - 1)


def _to_limbs(
    codes: NDArray[Any], sizes: tuple[int, ...], n_limbs: int
) -> NDArray[np.uint64]:
    """Compute token ids of any length, (n_samples, n_limbs), high limbs first."""
    limbs = np.zeros((n_limbs, len(codes)), dtype=np.uint64)  # low limbs first
    for digit in _digits(sizes):
        # In Python, with one integer per row: token = token * base + digit
        carry = _ravel(codes[:, digit.columns], digit.strides).astype(np.uint64)
        for limb in limbs[: digit.n_limbs]:
            limb *= digit.base
            limb += carry
            np.right_shift(limb, _SHIFT, out=carry)
            limb &= _MASK
    return limbs[::-1].T


def _from_limbs(
    words: NDArray[Any], sizes: tuple[int, ...], start: int
) -> NDArray[Any]:
    """Divide token ids of any length, high limbs first, into codes."""
    limbs = words.T[::-1].astype(np.uint64)
    codes = np.empty((len(words), len(sizes)), dtype=smallest_dtype(max(sizes)))
    for digit in reversed(_digits(sizes)):
        # In Python, with one integer per row: token, rest = divmod(token, base)
        rest = np.zeros(len(words), dtype=np.uint64)
        for limb in limbs[: digit.n_limbs][::-1]:
            rest <<= _SHIFT
            rest |= limb
            np.floor_divide(rest, digit.base, out=limb)
            rest -= limb * digit.base
        codes[:, digit.columns] = _unravel(
            rest.astype(np.int64), digit.sizes, digit.strides
        )
    too_large = limbs.any(axis=0)
    if too_large.any():
        raise ValueError(
            f"packed holds a token id in row {start + int(np.argmax(too_large))} that "
            f"sizes={sizes} do not have: it is corrupt, or was packed with other sizes "
            "or another method"
        )
    return codes
