"""scikit-learn's own checks of estimators that follow the library of X."""

import unittest

import pytest
from arrays.libraries import NEEDED, OTHERS
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator
from table import DEFAULTS, NESTED, made_small


def _checks():
    """Those of the libraries and devices that this suite needs, and no others."""
    named = [(type(one).__name__, made_small(clone(one))) for one in DEFAULTS]
    named += [(row.name, row.make()) for row in NESTED]
    for name, estimator in named:
        if not estimator.__sklearn_tags__().array_api_support:
            continue
        for instance, check in estimator_checks_generator(estimator):
            keywords = getattr(check, "keywords", {})
            places = [
                (keywords.get("array_namespace"), keywords.get("device_name")),
                keywords.get("X_ns_and_device"),
                keywords.get("other_ns_and_device"),
            ]
            asked = [tuple(place) for place in places if place and place[0]]
            here = all(
                name in ("numpy", *OTHERS)
                and str(device) in ("None", "cpu", "CPU_DEVICE", "device1")
                for name, device in asked
            )
            if asked and here and check.func.__name__.startswith("check_array_api"):
                yield pytest.param(instance, check, id=f"{name}-{asked}")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("estimator", "check"), list(_checks()))
def test_sklearn_checks(estimator, check):
    try:
        check(estimator)
    except unittest.SkipTest as skipped:
        if NEEDED:
            pytest.fail(f"skipped: {skipped}")
        raise
