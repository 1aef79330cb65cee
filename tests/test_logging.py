"""Fits tell what they do through logging, and nothing unless they are asked."""

import logging

import numpy as np
import pytest
from table import LEARNING

from skvq import ProductQuantizer, VectorQuantizer

X = np.random.default_rng(0).normal(size=(300, 6))


def test_silent_by_default(capfd):
    assert not logging.getLogger("skvq").handlers
    ProductQuantizer(3, 8, random_state=0).fit(X)
    assert capfd.readouterr() == ("", "")


def test_a_fit_is_a_record_and_so_is_that_of_each_part(caplog):
    caplog.set_level(logging.INFO, "skvq")
    quantizer = ProductQuantizer(3, 8, random_state=0).fit(X)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in messages] == [
        *["VectorQuantizer"] * 3,
        "ProductQuantizer",
    ]
    assert "fitted on 300 x 6" in messages[-1]
    assert messages[-1].endswith(f"9 bits, distortion {quantizer.distortion_:.6g}")
    assert {record.levelno for record in caplog.records} == {logging.INFO}


@pytest.mark.parametrize("learning", LEARNING)
def test_each_update_or_pass_is_a_debug_record(caplog, learning):
    caplog.set_level(logging.DEBUG, "skvq.learning")
    quantizer = VectorQuantizer(8, learning=learning, max_iter=4, random_state=0).fit(X)
    updates = [r for r in caplog.records if r.name == "skvq.learning"]
    assert len(updates) == quantizer.n_iter_
    if learning == "lloyd":
        assert f"{quantizer.distortion_:.6g}" in updates[-1].getMessage()
