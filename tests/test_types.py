"""What checkers of types make of a user's script, right lines and wrong ones.

Both run as in a user's project; skips where they are not installed, unless
SKVQ_NEEDS_TYPES=1.
"""

import json
import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from shutil import copytree
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from table import LEARNERS, TABLE, each

import skvq
from skvq import nearest
from skvq._compat import StrOptions
from skvq._typing import SumMetric
from skvq.coding import sums

SCRIPTS = Path(__file__).parent / "typed"
ROOT = Path(skvq.__file__).parent.parent
WRONG = SCRIPTS / "wrong.py"
RIGHT = SCRIPTS / "right.py"


def mypy(folder):
    """Return the errors as (file, line, message), of a user's strict settings."""
    copytree(SCRIPTS, folder / "scripts")
    settings = folder / "mypy.ini"
    settings.write_text(
        "[mypy]\nstrict = true\n"
        "[mypy-skvq.*]\nfollow_imports = silent\n"
        # It has no types, which every user of it has to say.
        "[mypy-sklearn.*]\nignore_missing_imports = true\n"
    )
    command = [sys.executable, "-m", "mypy", "--output", "json", "--config-file"]
    found = subprocess.run(
        [*command, settings, "--cache-dir", folder / "cache", "scripts"],
        env={**os.environ, "MYPYPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert found.returncode in (0, 1), found.stdout + found.stderr
    rows = map(json.loads, found.stdout.splitlines())
    errors = [row for row in rows if row["severity"] == "error"]
    return [(Path(e["file"]).name, e["line"], e["message"]) for e in errors]


def pyright(folder):
    """Return the same of pyright, in its standard mode."""
    copytree(SCRIPTS, folder / "scripts")
    settings = {
        "include": ["scripts"],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "standard",
        # Lines that name an attribute and do nothing with it.
        "reportUnusedExpression": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", folder]
    found = subprocess.run(
        [*command, "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert found.returncode in (0, 1), found.stdout + found.stderr
    errors = [
        row
        for row in json.loads(found.stdout)["generalDiagnostics"]
        if row["severity"] == "error"
    ]
    return [
        (Path(e["file"]).name, e["range"]["start"]["line"] + 1, e["message"])
        for e in errors
    ]


def marked():
    """Return what the error of each marked line names."""
    lines = WRONG.read_text().splitlines()
    marks = [line.partition("  # error: ")[2] for line in lines]
    return {place: mark for place, mark in enumerate(marks, start=1) if mark}


@pytest.mark.long
@pytest.mark.parametrize("check", [mypy, pyright])
def test_right_lines_pass_and_wrong_ones_do_not(check, tmp_path):
    package = "mypy" if check is mypy else "basedpyright"
    if find_spec(package) is None and os.environ.get("SKVQ_NEEDS_TYPES") != "1":
        pytest.skip(f"needs {package}")
    errors = check(tmp_path)
    assert [error for error in errors if error[0] != WRONG.name] == []
    found = {}
    for _, line, message in errors:
        found.setdefault(line, []).append(message)
    marks = marked()
    assert sorted(found) == sorted(marks)
    for line, mark in marks.items():
        assert any(mark in message for message in found[line]), (line, found[line])


def test_right_lines_run():
    pytest.importorskip("constriction")
    runpy.run_path(str(RIGHT), run_name="right")


ESTIMATORS = [
    value for name in skvq.__all__ if isinstance(value := getattr(skvq, name), type)
]


def literals(annotation):
    """Return the texts that an annotation names."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return set().union(*map(literals, get_args(annotation)))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_options_by_name_are_those_of_the_constraints(cls):
    hints = get_type_hints(cls.__init__)
    for name, constraints in cls._parameter_constraints.items():
        options = set().union(
            *(one.options for one in constraints if isinstance(one, StrOptions))
        )
        if str in constraints:  # which names there are, `check_metric` tells
            options |= nearest.METRICS
        assert literals(hints[name]) == options, name


def test_metrics_of_sums_are_those_of_the_check():
    assert literals(SumMetric) == set(sums.METRICS)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_documented_attributes_have_a_type(cls):
    section = getdoc(cls).partition("\nAttributes\n-")[2].partition("\n\n")[0]
    names = set(re.findall(r"^(\w+_) : ", section, re.MULTILINE))
    assert names
    properties = {
        name: value.fget
        for base in cls.__mro__
        for name, value in vars(base).items()
        if isinstance(value, property)
    }
    declared = get_type_hints(cls)
    for name in names - set(declared):
        assert "return" in get_type_hints(properties[name]), name


def agrees(value, hint):
    """Tell whether a value is of a type, as far as fitted attributes have types."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is ClassVar:
        return agrees(value, *arguments)
    if origin in (Union, UnionType):
        return any(agrees(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (tuple, list):
        if type(value) is not origin:
            return False
        if origin is list or arguments[-1] is Ellipsis:
            return all(agrees(one, arguments[0]) for one in value)
        return len(value) == len(arguments) and all(map(agrees, value, arguments))
    if hasattr(origin, "__value__"):  # NumPy's NDArray, since 2.5
        return agrees(value, origin.__value__[arguments])
    if origin is np.ndarray:
        (number,) = get_args(arguments[1])
        numbers = np.generic if number is Any else number
        return isinstance(value, np.ndarray) and issubclass(value.dtype.type, numbers)
    if hint in (float, int, bool, str):
        return type(value) is hint  # a scalar of NumPy's is another thing
    return isinstance(value, origin or hint)


@each(LEARNERS)
def test_fitted_attributes_are_of_their_types(row):
    check_types_of(row.fitted())


@pytest.mark.thorough
@each(TABLE)
def test_fitted_attributes_of_all_parameters_are_of_their_types(row):
    check_types_of(row.fitted())


def check_types_of(fitted):
    hints = get_type_hints(type(fitted))
    for name, value in vars(fitted).items():
        if name.endswith("_") and not name.startswith("_"):
            assert agrees(value, hints[name]), (name, value)


def test_declared_attributes_are_not_there_before_fit():
    for name in ("codebook_sizes_", "distortion_", "n_iter_", "feature_names_in_"):
        assert not hasattr(skvq.VectorQuantizer(), name)
