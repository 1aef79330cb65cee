"""Parts of the nesting schemes: clones of one quantizer, each with its own settings."""

from collections import Counter
from collections.abc import Sequence
from numbers import Integral

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


def why_no_sums(parts: Sequence) -> str | None:
    """Return why distances are no sums over the codes of such parts, if so."""
    for part in parts:
        why = part._why_no_sums()
        if why is None and part._n_scales():
            why = "it codes a length of its own, a factor that others do not have."
        if why is not None:
            return f"its part, {part!r}: {why}"
    return None


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
