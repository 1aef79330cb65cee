"""Parts of the nesting schemes: clones of one quantizer, each with its own settings."""

from collections import Counter
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from skvq import nearest
from skvq._checks import check_counts
from skvq._validation import Notice, collected, plain_parameters
from skvq.learning.rows import Learner, Rows, run, together


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
        for part, size in zip(parts, part_sizes(n_codewords, n_parts), strict=True):
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


def fit_part(part, rows: Rows) -> Learner[list[Notice]]:
    """Fit a part, in place; return what there is to warn of.

    Parameters
    ----------
    part : quantizer
        As `make_parts` gives it.
    rows : Rows
        What it learns from.
    """
    part._validate_params()
    backend = getattr(part, "backend", "auto")
    nearest.check_backend(backend, rows.be)
    if backend in ("auto", nearest.chosen()):
        return (yield from _collecting(part._learn(rows)))
    # In a backend of its own, which what others ask at the same time has not.
    with nearest.using(backend):
        return run(_collecting(part._learn(rows)))


def _collecting(learner: Learner[None]) -> Learner[list[Notice]]:
    notices: list[Notice] = []
    found, ends = None, False
    while True:
        with collected() as fresh:
            try:
                asked = learner.send(found)
            except StopIteration:
                ends = True
        notices += fresh
        if ends:
            return notices
        found = yield asked


def fit_parts(
    parts: Sequence, of_parts: Sequence[Rows], n_jobs: int | None
) -> Learner[tuple[list, list[list[Notice]]]]:
    """Fit independent parts, each on rows of its own; these may be views of the same.

    One after the other, or several at a time, each with its rows in memory; all side by
    side, with one pass for what all of them ask at a time, if there is no room for it.

    Parameters
    ----------
    parts : sequence of quantizers
        As `make_parts` gives them.
    of_parts : sequence of Rows
        Those of each part.
    n_jobs : int or None
        Processes of joblib; None: threads of this one.

    Returns
    -------
    parts : list of quantizers
        Fitted; the same, or copies from other processes.
    notices : list of lists
        What each would warn of.
    """
    room = min(rows.room() for rows in of_parts)
    if room == 0:
        learners = map(fit_part, parts, of_parts)
        return list(parts), (yield from together(list(learners)))
    n_workers = min(effective_n_jobs(n_jobs), len(parts))
    if n_workers > 1:
        fitted = Parallel(n_jobs=n_workers)(
            delayed(_fit_held)(part, rows.held())
            for part, rows in zip(parts, of_parts, strict=True)
        )
        return [part for part, _ in fitted], [notices for _, notices in fitted]
    config = get_config()  # scikit-learn's, which is another in every thread
    notices: list[list[Notice]] = [[] for _ in parts]
    for first in range(0, len(parts), room):

        def fit(i: int, first=first) -> None:
            j = first + i
            with config_context(**config):
                notices[j] = _fit_held(parts[j], of_parts[j].held())[1]

        of_parts[0].be.map_jobs(fit, min(room, len(parts) - first))
    return list(parts), notices


def _fit_held(part, rows: Rows) -> tuple:
    return part, run(fit_part(part, rows))


def parts_of_tables(template, tables: Sequence[nearest.Table], n_parts: int) -> list:
    """Return clones of a quantizer that are fitted with given tables.

    Parameters
    ----------
    template : quantizer
        Cloned, never changed.
    tables : sequence of Table
        Those of all parts, one part after the other.
    n_parts : int
        How many parts there are, where the template does not tell how many tables it
        has.

    Returns
    -------
    parts : list of quantizers
        Parts of the same tables are the same object.

    Raises
    ------
    ValueError
        If the tables cannot be dealt out.
    """
    n_tables, each = len(tables), template._n_tables()
    if each is not None:
        if n_tables % each:
            raise ValueError(
                f"codebooks has {n_tables} tables, but each part, {template!r}, has "
                f"{each} of them."
            )
        n_parts = n_tables // each
    parts: dict[tuple, Any] = {}
    found: list = []
    for places in np.array_split(np.arange(n_tables), min(n_parts, n_tables)):
        own = [tables[place] for place in places]
        key = tuple(map(id, own))
        if key not in parts:
            part = clone(template)
            if "n_codewords" in part.get_params():
                # What it has is that of parts for which nothing else is said.
                part.set_params(n_codewords=type(part)().n_codewords)
            part._set_up(own)
            parts[key] = part
        found.append(parts[key])
    return found


def imply_parts(scheme, name: str, parts: Sequence) -> None:
    """Set the parameters of a scheme that follow from parts of given tables.

    Parameters
    ----------
    scheme : quantizer
        Whose parts they are.
    name : str
        Its parameter that says how many.
    parts : sequence of quantizers
        From `parts_of_tables`.
    """
    scheme._imply(**{name: len(parts)})
    sizes = [getattr(part, "n_codewords", None) for part in parts]
    whole = [size for size in sizes if isinstance(size, Integral)]
    if len(whole) == len(parts):
        scheme._imply(n_codewords=one_or_each(whole))


def as_shared(tables: Sequence[nearest.Table], asked: bool) -> list[nearest.Table]:
    """Return tables; if one is asked for in place of all, raise unless they are equal.

    Parameters
    ----------
    tables : sequence of Table
        The tables.
    asked : bool
        The parameter `share_codebook`.
    """
    if not asked:
        return list(tables)
    first = tables[0]
    if not all(np.array_equal(first.codewords, each.codewords) for each in tables):
        raise ValueError(
            "share_codebook=True takes one table in all places, but the given "
            "codebooks differ."
        )
    return [first] * len(tables)


def are_shared(tables: Sequence) -> bool:
    """Whether there are several, all of which are the same object."""
    return len(tables) > 1 and all(each is tables[0] for each in tables)


def demand(tables: Sequence, n_tables: int, why: str) -> Sequence:
    """Return tables; raise unless they are so many."""
    if len(tables) != n_tables:
        raise ValueError(f"codebooks has {len(tables)} tables, but {why}.")
    return tables


def one_or_each(sizes: Sequence) -> Any:
    """Return one size for all, if they are equal."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def searched_tables(parts: Sequence) -> nearest.Tables | None:
    """Return the tables in which codes of all parts are the nearest rows, if so."""
    tables = [part._searched_table() for part in parts]
    return None if None in tables else nearest.Tables(tables)


def check_as_begun(name: str, now, then) -> None:
    """Raise if a parameter that a stream cannot change is not as it was."""
    if now != then:
        raise ValueError(
            f"{name}={now} was {then} when the stream began: fit anew to change it."
        )


def check_sizes_as_begun(n_codewords, parts: Sequence) -> None:
    """Do so for `n_codewords`, in the same words as for one table."""
    if n_codewords is not None:
        now, then = part_sizes(n_codewords, len(parts)), [p.n_codewords for p in parts]
        check_as_begun("n_codewords", now, then)


def why_no_stream(template) -> str:
    """Return why a scheme of such parts does not learn from a stream."""
    return (
        f"its part, {template!r}, has none: {template._why_no_partial_fit()}"
        if hasattr(template, "_why_no_partial_fit")
        else f"its part, {template!r}, has none."
    )


def why_in_memory(template) -> str | None:
    """Return why a scheme of such parts does not learn from a Dask array, if so."""
    why = template._needs_rows_in_memory()
    return why and f"its part, {template!r}: {why}"


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
        sizes = part_sizes(n_codewords, counts.total())
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


def part_sizes(n_codewords, n_parts: int) -> list[int]:
    """Return V of each part, of one int for all or of one for each."""
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
