"""Parts of the nesting schemes: clones of one quantizer, each with its own settings."""

from collections import Counter
from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from skvq._checks import check_counts
from skvq._validation import plain_parameters


def make_parts(
    template, n_parts: int, *, n_codewords, random_state, backend: str
) -> list:
    """Clone a quantizer for every subspace or stage.

    Parameters
    ----------
    template : quantizer
        Cloned, never changed.
    n_parts : int
        Number of clones.
    n_codewords : int, sequence of int, or None
        Set on the clones; None: they keep theirs.
    random_state : int, RandomState instance or None
        Seeds the clones; None: they keep theirs.
    backend : str
        Set on the clones unless "auto".

    Returns
    -------
    parts : list of quantizers

    Raises
    ------
    ValueError
        If a sequence has another length, or the part has no such parameter.
    """
    parts = [clone(template) for _ in range(n_parts)]
    if n_codewords is not None:
        for part, size in zip(parts, _sizes(n_codewords, n_parts), strict=True):
            _set_size(part, size)
    if random_state is not None:
        rng = check_random_state(random_state)
        for part in parts:
            if "random_state" in part.get_params():
                part.set_params(random_state=int(rng.randint(np.iinfo(np.int32).max)))
    if backend != "auto":
        for part in parts:
            if "backend" in part.get_params():
                part.set_params(backend=backend)
    return parts


def shallow_copy(part):
    """Copy a fitted part; its arrays, which it never changes in place, are shared."""
    copy = clone(part)
    vars(copy).update(vars(part))
    return copy


def why_no_stream(template) -> str:
    """Return why a scheme of such parts does not learn from a stream."""
    return (
        f"its part, {template!r}, has none: {template._why_no_partial_fit()}"
        if hasattr(template, "_why_no_partial_fit")
        else f"its part, {template!r}, has none."
    )


def parts_elements(template, n_codewords, widths) -> int:
    """Return how many numbers the tables of parts hold.

    Parameters
    ----------
    template : quantizer
        What they are clones of.
    n_codewords : int, sequence of int, or None
        As in `make_parts`.
    widths : sequence of int
        The number of features of each part; a Counter where they are very many.

    Returns
    -------
    n_elements : int
    """
    counts = Counter(widths)
    pairs: Counter = Counter()
    if n_codewords is None or isinstance(n_codewords, Integral):
        for width, count in counts.items():
            pairs[n_codewords, width] += count
    else:
        sizes = _sizes(n_codewords, counts.total())
        pairs.update(zip(sizes, counts.elements(), strict=True))
    total = 0
    for (size, width), count in pairs.items():
        part = clone(template)
        if size is not None:
            _set_size(part, size)
        part._validate_params()
        plain_parameters(part)
        total += count * part._table_elements(width)
    return total


def _sizes(n_codewords, n_parts: int) -> list[int]:
    if isinstance(n_codewords, Integral):
        return [int(n_codewords)] * n_parts
    sizes = list(n_codewords)
    if len(sizes) != n_parts:
        raise ValueError(
            f"n_codewords has {len(sizes)} entries, but there are {n_parts} codebooks; "
            "give one int for all, or one for each."
        )
    return check_counts("n_codewords", sizes)


def _set_size(part, size: int) -> None:
    parameters = part.get_params()
    if "n_codewords" in parameters:
        part.set_params(n_codewords=size)
        return
    own = sorted({"n_levels", "levels"} & set(parameters))
    hint = f"set its {own[0]} instead" if own else "set its own parameters instead"
    raise ValueError(
        f"n_codewords={size} cannot be set on the part {type(part).__name__}, which "
        f"has no such parameter: {hint}, and leave n_codewords=None."
    )
