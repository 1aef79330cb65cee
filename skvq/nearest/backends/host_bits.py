"""Words of a few bits each, packed into consecutive bytes, highest bits first."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def _loose(widths: Sequence[int]) -> tuple[np.dtype, np.ndarray]:
    """Return a dtype for the words, high bits first, and which of its bits are kept."""
    word = np.dtype(f">u{next(n for n in (1, 2, 4) if max(widths) <= 8 * n)}")
    ends = 8 * word.itemsize * np.arange(1, len(widths) + 1)
    pairs = zip(ends, widths, strict=True)
    return word, np.concatenate([np.arange(end - width, end) for end, width in pairs])


def pack_words(words: Any, widths: Sequence[int], row_aligned: bool) -> np.ndarray:
    """Return packed words (n_rows, n_words); see `NumpyBackend.pack_words`."""
    word, keep = _loose(widths)
    bits = np.unpackbits(np.ascontiguousarray(words, word).view(np.uint8), axis=1)
    bits = np.take(bits, keep, axis=1)
    return np.packbits(bits, axis=1) if row_aligned else np.packbits(bits)


def unpack_words(
    packed: Any, n_rows: int, widths: Sequence[int], row_aligned: bool, dtype: Any
) -> np.ndarray:
    """Return the words (n_rows, n_words) that were packed."""
    word, keep = _loose(widths)
    n_bits = len(keep)
    if row_aligned:
        kept = np.unpackbits(packed, axis=1)[:, :n_bits]
    else:
        kept = np.unpackbits(packed, count=n_rows * n_bits)
    bits = np.zeros((n_rows, len(widths) * 8 * word.itemsize), np.uint8)
    bits[:, keep] = kept.reshape(n_rows, n_bits)
    return np.packbits(bits, axis=1).view(word).astype(dtype)
