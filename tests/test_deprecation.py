"""Old names that still work, and files that have them."""

import pickle

import numpy as np
import pytest
from interface import write
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import skvq
from skvq import VectorQuantizer, _deprecation
from skvq._codec.classes import _estimator
from skvq._deprecation import (
    DECLARED,
    Old,
    RenamedAttribute,
    overdue,
    renamed,
    renamed_function,
    with_new_names,
)

X = np.random.default_rng(0).normal(size=(40, 2))
WARNS = r"is new since skvq 7.1; the old name goes in 7.3"


@pytest.fixture(autouse=True)
def _own_list(monkeypatch):
    monkeypatch.setattr(_deprecation, "DECLARED", [])


@pytest.fixture
def cls():
    @renamed("7.1", old="new", gone=None)
    class Scaled(BaseEstimator):
        def __init__(self, new=1, *, other=2):
            self.new = new
            self.other = other

        def fit(self, X, y=None):
            self.new_ = self.new
            return self

        def score(self, X, y=None):
            return -abs(self.new - 3)

        old_ = RenamedAttribute("new_", "7.1")

    return Scaled


def test_parameters(cls):
    with pytest.warns(FutureWarning, match=f"parameter old of Scaled {WARNS}"):
        assert cls(old=5).get_params() == {"new": 5, "other": 2}
    with pytest.warns(FutureWarning, match="parameter gone of Scaled has no effect"):
        assert cls(4, gone=5).get_params() == {"new": 4, "other": 2}
    with pytest.raises(TypeError, match="old=1 and new=2, which are the same"):
        with pytest.warns(FutureWarning):
            cls(old=1, new=2)
    with pytest.raises(TypeError, match="older"):
        cls(older=1)
    # The new names are silent.
    estimator = clone(cls(5)).set_params(other=3)
    assert repr(estimator) == "Scaled(new=5, other=3)"
    assert pickle.dumps(estimator.get_params())


def test_parameters_that_are_set(cls):
    with pytest.warns(FutureWarning, match=WARNS):
        estimator = cls().set_params(old=5)
    assert clone(estimator).get_params() == {"new": 5, "other": 2}
    with pytest.warns(FutureWarning, match=f"Scaled.old {WARNS}"):
        assert estimator.old == 5
    with pytest.warns(FutureWarning, match=f"Scaled.old {WARNS}"):
        estimator.old = 6
    assert estimator.new == 6 and "old" not in vars(estimator)
    pipeline = make_pipeline(cls())
    with pytest.warns(FutureWarning, match=WARNS):
        pipeline.set_params(scaled__old=7)
    assert pipeline[0].new == 7


def test_parameters_that_are_searched(cls):
    search = GridSearchCV(cls(), {"old": [1, 3, 5]}, cv=2)
    with pytest.warns(FutureWarning, match=WARNS):
        search.fit(X)
    assert search.best_estimator_.get_params() == {"new": 3, "other": 2}


def test_attributes(cls):
    with pytest.warns(FutureWarning, match=r"Scaled.old_ is new_ since skvq 7.1"):
        assert cls(4).fit(X).old_ == 4
    assert not hasattr(cls(4), "old_")
    with pytest.raises(AttributeError, match="new_"):
        cls(4).old_  # noqa: B018
    assert {old.name for old in _deprecation.DECLARED} == {"Scaled.old_", "old", "gone"}


def test_functions():
    @renamed("7.1", old="new")
    def double(new):
        """Twice as much."""
        return 2 * new

    with pytest.warns(FutureWarning, match="parameter old of .*double is new since"):
        assert double(old=2) == 4
    twice = renamed_function(double, "twice", "7.1")
    with pytest.warns(FutureWarning, match=r"twice\(\) is double since skvq 7.1"):
        assert twice(2) == 4
    assert (twice.__name__, twice.__doc__) == ("twice", "Twice as much.")
    assert _deprecation.DECLARED == [Old("old", (7, 3)), Old("twice", (7, 3))]


def test_files_and_pickles():
    @renamed("7.1", size="n_codewords", gone=None)
    class Own(VectorQuantizer):
        pass

    fitted = Own(4, random_state=0).fit(X)
    state = fitted.__getstate__()
    state = {**state, "size": state.pop("n_codewords"), "gone": 3}
    again = object.__new__(Own)
    again.__setstate__(state)
    kind = _estimator(Own)
    written = kind.take(fitted)
    written = {**written, "size": written.pop("n_codewords"), "gone": 3}
    for one in (again, kind.make(written)):
        assert one.get_params() == fitted.get_params()
        np.testing.assert_array_equal(one.transform(X), fitted.transform(X))


def test_what_is_not_old_stays():
    state = {"n_codewords": 3, "bound": 4}
    assert with_new_names(VectorQuantizer, state) == state


# -- leftovers -------------------------------------------------------------------------


def test_nothing_is_overdue():
    """Else take it away: it has worked, and warned, for two minor versions."""
    for module in write.modules():
        __import__(module)
    assert overdue(DECLARED, skvq.__version__) == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.4.9", []), ("0.5.0.dev0", ["a"]), ("0.6", ["a", "b"]), ("1.0", ["a", "b"])],
)
def test_what_is_overdue_is_found(version, expected):
    assert overdue([Old("a", (0, 5)), Old("b", (0, 6))], version) == expected
