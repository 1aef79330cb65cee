"""Learners over rows of every library."""

import numpy as np
import pytest
from arrays.libraries import put
from numpy.testing import assert_allclose, assert_array_equal
from test_rows import FAR, LEARNERS, samples

from skvq._arrays import to_host
from skvq.learning import rows as seam
from skvq.learning.repair import repaired
from skvq.learning.rows import Rows, columns, less, run, scaled, unit

# Those that draw or choose rows choose the same; others round differently.
EXACT = {"quantiles", "few", "drawn", "all-rows", "normal", "random"}


def flat(result):
    if isinstance(result, tuple):
        for each in result:
            yield from flat(each)
    elif result is not None:
        assert isinstance(result, np.ndarray | float | int)
        yield result


@pytest.mark.parametrize("elements", [64, 2**22])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LEARNERS)
def test_learners_find_the_same(xp, name, weighted, elements, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", elements)
    X, weights = samples(150)
    there = put(xp, weights) if weighted else None
    found = run(LEARNERS[name](Rows(put(xp, X), there)))
    expected = run(LEARNERS[name](Rows(X, weights if weighted else None)))
    for a, b in zip(flat(found), flat(expected), strict=True):
        if name in EXACT:
            assert_array_equal(a, b)
        elif name == "axes" and np.ndim(a) == 2:
            assert_allclose(np.abs(a), np.abs(b), atol=1e-4)
        else:
            assert_allclose(a, b, rtol=1e-3)


def as_codes(block):
    return (block.be.cast(block.x[:, 0] > 100, np.uint8),)


def test_rows_stay_in_their_library(xp, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK_ELEMENTS", 64)
    X, weights = samples(150, np.uint8)
    rows = Rows(put(xp, X), weights)  # weights of the host go there
    assert type(rows.source._cut(0).w) is type(put(xp, weights))
    held = rows.view(scaled, 2.0).held()
    assert held.views == ()
    for each in (rows, held, rows.view(unit), held.view(columns, 1, 3, width=2)):
        (block,) = [b for _, b in each.source.blocks({0})]
        for view in each.views:
            block = view.of(block, 0)
        assert type(block.x) is type(put(xp, X))
        assert str(block.x.dtype).endswith("float32")
    codes = seam.execute([held.map(as_codes)])[0]
    view = held.view(less, FAR[:2], state=codes)
    (found,) = seam.execute([view.gather(only_x, most=view.n_rows)])[0]
    kept = 2 * X[weights > 0].astype(np.float32)
    assert_allclose(found, kept - FAR[(kept[:, 0] > 100).astype(int)])
    after = run(
        repaired(held, codes, FAR[:4], np.array([1.0, 1, 0, 0]), "sqeuclidean", "split")
    )
    assert np.isfinite(to_host(after)).all()


def only_x(block):
    return (block.x,)
