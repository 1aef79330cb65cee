"""Old names that still work, and files that have them."""

import argparse
import pickle
import sys
import types

import numpy as np
import pytest
from interface import write
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import skvq
from skvq import VectorQuantizer, _deprecation
from skvq.__main__ import _parser
from skvq._cli import console, schemes
from skvq._codec.classes import _estimator
from skvq._deprecation import (
    DECLARED,
    Old,
    RenamedAttribute,
    old_names,
    renamed,
    renamed_values,
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


def test_parameters_of_functions():
    @renamed("7.1", old="new")
    def double(new):
        """Twice as much."""
        return 2 * new

    with pytest.warns(FutureWarning, match="parameter old of .*double is new since"):
        assert double(old=2) == 4
    assert _deprecation.DECLARED == [Old("old", (7, 3))]


@pytest.fixture
def of_values():
    @renamed_values("7.1", rule={"old": "new"})
    class Ruled(BaseEstimator):
        def __init__(self, rule="new"):
            self.rule = rule

        def fit(self, X, y=None):
            return self

        def score(self, X, y=None):
            return float(self.rule == "new")

    return Ruled


OLD_RULE = r"rule='old' of Ruled is 'new' since skvq 7.1; the old name goes in 7.3"


def test_values(of_values):
    with pytest.warns(FutureWarning, match=OLD_RULE) as warned:
        by_place = of_values("old")
    assert warned[0].filename == __file__
    with pytest.warns(FutureWarning, match=OLD_RULE):
        was_set = of_values(rule="other").set_params(rule="old")
    assigned = of_values("other")
    with pytest.warns(FutureWarning, match=OLD_RULE):
        assigned.rule = "old"
    for estimator in (by_place, was_set, assigned, of_values()):
        assert clone(estimator).get_params() == {"rule": "new"}
        assert pickle.dumps(estimator.get_params())
    search = GridSearchCV(of_values(), {"rule": ["other", "old"]}, cv=2)
    with pytest.warns(FutureWarning, match=OLD_RULE):
        search.fit(X)
    assert search.best_estimator_.rule == "new"
    # What is no text is left alone, and what was never set is not there.
    table = np.zeros(2)
    assert of_values(table).rule is table
    with pytest.raises(AttributeError, match="'Ruled' object has no attribute 'rule'"):
        object.__new__(of_values).rule  # noqa: B018
    assert _deprecation.DECLARED == [Old("rule='old'", (7, 3))]


def test_values_of_functions():
    @renamed_values("7.1", rule={"old": "new"})
    def told(X, rule="new", *, other=1):
        return rule, other

    for call in (lambda: told(0, "old"), lambda: told(0, rule="old")):
        with pytest.warns(FutureWarning, match=r"rule='old' of .*told is 'new' since"):
            assert call() == ("new", 1)
    assert told(0) == told(0, "new") == ("new", 1) != told(0, "third", other=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rules'"):
        told(0, rules=2)


def test_functions_classes_and_modules(monkeypatch):
    module = types.ModuleType("module")
    module.__getattr__ = old_names(
        "skvq.module", "7.1", squeeze="skvq.codes.pack", VQ="skvq.VectorQuantizer"
    )
    monkeypatch.setitem(sys.modules, "module", module)
    told = r"skvq.module.squeeze is skvq.codes.pack since skvq 7.1; the old name goes"
    with pytest.warns(FutureWarning, match=told) as warned:
        from module import squeeze
    assert squeeze is skvq.codes.pack
    assert warned[0].filename == __file__
    with pytest.warns(FutureWarning, match="VQ is skvq.VectorQuantizer since"):
        assert isinstance(VectorQuantizer(2), module.VQ)
    with pytest.raises(AttributeError, match=r"'skvq.module' has no attribute 'other'"):
        module.other  # noqa: B018
    assert [old.name for old in _deprecation.DECLARED] == [
        "skvq.module.squeeze",
        "skvq.module.VQ",
    ]


@pytest.mark.parametrize(
    ("settings", "given", "expected"),
    [
        ({"type": int, "required": True}, ["3"], 3),
        ({"type": int, "nargs": "+"}, ["3", "4"], [3, 4]),
        ({"action": "store_true"}, [], True),
        ({"action": argparse.BooleanOptionalAction, "default": 0}, [], True),
    ],
)
def test_options_of_the_command_line(settings, given, expected, capsys):
    parser = console.Parser(prog="skvq fit")
    new = parser.add_argument("--new", **settings)
    console.add_old_option(parser, "--old", new, "7.1")
    assert parser.parse_args(["--old", *given]).new == expected
    assert capsys.readouterr().err == (
        "skvq fit: warning: skvq fit --old is --new since skvq 7.1; the old name goes "
        "in 7.3.\n"
    )
    assert parser.parse_args(["--new", *given]).new == expected
    assert not capsys.readouterr().err and "--old" not in parser.format_help()
    assert _deprecation.DECLARED == [Old("--old", (7, 3))]


def test_parameters_in_specifications(monkeypatch):
    @renamed("7.1", beam="beam_size")
    class Own(skvq.ResidualQuantizer):
        def __init__(self, n_stages=2, *, beam_size=1, n_codewords=None):
            super().__init__(n_stages, beam_size=beam_size, n_codewords=n_codewords)

    monkeypatch.setattr(skvq, "ResidualQuantizer", Own)
    with pytest.warns(FutureWarning, match="parameter beam of Own is beam_size since"):
        assert schemes.build("rq:4x8,beam=3", 0).beam_size == 3
    with pytest.raises(schemes.SpecError, match="rq has no parameter 'beams'"):
        schemes.build("rq:4x8,beams=3", 0)


def test_files_and_pickles(monkeypatch):
    @renamed("7.1", size="n_codewords", gone=None)
    @renamed_values("7.1", learning={"kmeans": "lloyd"})
    class Own(VectorQuantizer):
        pass

    # A line for files outlives the decorator.
    lines = {"Own": {"init": {"clever": "k-means++"}}}
    monkeypatch.setattr(_deprecation, "VALUES_IN_FILES", lines)
    fitted = Own(4, random_state=0).fit(X)
    old = {"gone": 3, "learning": "kmeans", "init": "clever"}
    state = fitted.__getstate__()
    state = {**state, "size": state.pop("n_codewords"), **old}
    again = object.__new__(Own)
    again.__setstate__(state)
    kind = _estimator(Own)
    written = kind.take(fitted)
    written = {**written, "size": written.pop("n_codewords"), **old}
    for one in (again, kind.make(written)):
        assert one.get_params() == fitted.get_params()
        np.testing.assert_array_equal(one.transform(X), fitted.transform(X))


def test_what_is_not_old_stays():
    state = {"n_codewords": 3, "bound": 4}
    assert with_new_names(VectorQuantizer, state) == state


# -- leftovers -------------------------------------------------------------------------


def overdue(declared, version):
    """The old names that a version should no longer have; one in development counts as
    the version that it leads to."""
    major, minor = map(int, version.split(".")[:2])
    return [name for name, gone in declared if gone <= (major, minor)]


def test_nothing_is_overdue():
    """Else take it away: it has worked, and warned, for two minor versions."""
    for module in write.modules():
        __import__(module)
    _parser()  # which declares the options
    declared = [*DECLARED, *_deprecation.DECLARED]
    assert overdue(declared, skvq.__version__) == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.4.9", []), ("0.5.0.dev0", ["a"]), ("0.6", ["a", "b"]), ("1.0", ["a", "b"])],
)
def test_what_is_overdue_is_found(version, expected):
    assert overdue([Old("a", (0, 5)), Old("b", (0, 6))], version) == expected
