"""Paths through trellises on arrays of every library."""

import numpy as np
import pytest
from arrays.libraries import library_name, put
from numpy.testing import assert_allclose, assert_array_equal

from skvq._arrays import to_host
from skvq.nearest import Trellis, trellis_levels, viterbi

TRELLISES = [
    (Trellis.ungerboeck(8), [2, 0, 1, 5, 3, 2], "float32"),
    (Trellis.bitshift(6, 2), [2, 2, 0, 2, 0, 2], "float64"),
]


@pytest.mark.parametrize(
    ("trellis", "rates", "dtype"), TRELLISES, ids=["subsets", "bitshift"]
)
def test_viterbi(xp, tiles, trellis, rates, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, len(rates))).astype(dtype)
    levels = [rng.normal(size=trellis.alphabet_size(rate)) for rate in rates]
    levels = [np.sort(each).astype(dtype) for each in levels]
    states = rng.integers(0, trellis.n_states, 12)
    for ends in ("free", "tail_biting", states):
        expected, distances = viterbi(X, levels, rates, trellis, ends=ends)
        given = ends if isinstance(ends, str) else put(xp, ends)
        codes, found = viterbi(
            put(xp, X), [put(xp, each) for each in levels], rates, trellis, ends=given
        )
        assert library_name(codes) == library_name(found) == xp.__name__
        assert_array_equal(to_host(codes), expected)
        assert_allclose(to_host(found), distances, rtol=1e-12)
        # Alphabets of the host will do.
        places, _ = viterbi(
            put(xp, X), levels, rates, trellis, ends=given, as_levels=True
        )
        found = trellis_levels(codes, rates, trellis, ends=given, dtype=np.uint16)
        assert library_name(found) == xp.__name__
        assert_array_equal(to_host(found), to_host(places))
