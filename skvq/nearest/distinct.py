"""The distinct rows of a matrix on the host."""

import numpy as np


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct rows, in lexicographic order, of a real finite NumPy matrix.

    `numpy.unique` makes a structured row of the columns.  To compare such rows it calls
    Python, and takes any error there, even an interrupt, for a TypeError.  Here rows
    are compared in C, as words of bytes.

    Returns
    -------
    first : ndarray of shape (n_distinct,), dtype intp
        The first row of each group of equal rows.
    group : ndarray of shape (n_rows,), dtype intp
        The group of each row.
    """
    rows = np.ascontiguousarray(rows)
    if rows.dtype.kind == "f":
        # This gives both zeros the same bits, in at most one word of the processor.
        rows = (rows + 0.0).astype(min(rows.dtype, np.dtype(np.float64)), copy=False)
    unsigned = np.dtype(f"u{rows.dtype.itemsize}")
    bits, sign = rows.view(unsigned), unsigned.type(1 << (8 * unsigned.itemsize - 1))
    if rows.dtype.kind == "f":
        bits = np.where(bits & sign, ~bits, bits | sign)
    elif rows.dtype.kind == "i":
        bits = bits ^ sign
    # With the highest byte first, words are in the order of the numbers.
    ordered = np.ascontiguousarray(bits, dtype=unsigned.newbyteorder(">"))
    words = ordered.view(f"V{ordered[:1].nbytes}").reshape(-1)
    _, first, group = np.unique(words, return_index=True, return_inverse=True)
    return first, group.reshape(-1)
