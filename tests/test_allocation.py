"""Bits that are spread over columns."""

import numpy as np
from numpy.testing import assert_allclose

from skvq.learning.allocation import _hull_steps


def test_hull_steps():
    curves = np.array([[9.0, 7, 4, 0, 1, 2], [9.0, 4, 3.5, 1, 0.9, 0.5]])
    angle, order, size, cost, slope = _hull_steps(curves, np.arange(6.0))
    assert size[angle == 0].tolist() == [3]
    assert size[angle == 1].tolist() == [1, 3, 5]
    assert order[angle == 1].tolist() == [0, 1, 2]
    assert cost[angle == 1].tolist() == [1, 2, 2]
    assert_allclose(slope[angle == 1], [-5, -1.5, -0.25])
    assert len(_hull_steps(np.array([[1.0]]), np.zeros(1))[0]) == 0
