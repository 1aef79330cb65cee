"""Which versions are supported is said in several places, and all say the same."""

import os
import re
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILES = (
    "pyproject.toml",
    ".ci/oldest.txt",
    "README.md",
    "docs/getting_started.md",
    "docs/promises.md",
)
PYTHON = "Programming Language :: Python :: "
# Extras whose floors no run installs: libraries of several gigabytes, or for a GPU, and
# tools of which the newest is taken.
NOT_TESTED = ("arrays", "cuda12", "cuda13", "lint", "docs", "bench")
# Extras that are for work on skvq, and not for users of it.
FOR_WORK = ("test", "lint", "docs", "bench")
# Years that a version of each is supported at least, in the table of the promises.
YEARS = {"Python": 3, "NumPy": 2, "SciPy": 2, "scikit-learn": 2}
ROW = re.compile(r"\| (\S+) \| (\S+) \| (\w+) (\d{4}) \| (\w+) (\d{4}) \|")


def read():
    """The texts that name versions."""
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}


def disagreements(texts):
    """What does not agree, a sentence each."""
    settings = tomllib.loads(texts["pyproject.toml"])
    project = settings["project"]
    required = re.fullmatch(r">=3\.(\d+)", project["requires-python"])
    if required is None:
        return [f"requires-python is {project['requires-python']}, and not like >=3.11"]
    floor = int(required[1])
    wrong = []

    def same(what, found, expected):
        if found != expected:
            wrong.append(f"{what} is {found}, and not {expected}")

    minors = [
        int(name.removeprefix(f"{PYTHON}3."))
        for name in project["classifiers"]
        if name.startswith(f"{PYTHON}3.")
    ]
    same("classifiers' minor versions", minors, list(range(floor, floor + len(minors))))
    same(
        "ruff's target-version",
        settings["tool"]["ruff"]["target-version"],
        f"py3{floor}",
    )
    # The types of a NumPy are written for the Pythons that it runs on.
    same("mypy's python_version", settings["tool"]["mypy"].get("python_version"), None)

    floors, pins = floors_of(project), pins_of(texts[".ci/oldest.txt"])
    said = (f"3.{floor}", min(floors["scikit-learn"]))
    for page in ("README.md", "docs/getting_started.md"):
        found = re.search(
            r"skvq needs Python ([\d.]+) and scikit-learn ([\d.]+),? or newer",
            texts[page],
        )
        same(f"what {page} says", found and found.groups(), said)

    rows = {row[0]: row[1:] for row in ROW.findall(texts["docs/promises.md"])}
    same("the rows of docs/promises.md", list(rows), list(YEARS))
    for name, (oldest, month, year, end_month, end_year) in rows.items():
        floor = {said[0]} if name == "Python" else floors.get(name.lower())
        same(f"the floor of {name} in docs/promises.md", {oldest}, floor)
        end = month, str(int(year) + YEARS.get(name, 0))
        same(f"the end of {name} in docs/promises.md", (end_month, end_year), end)
    for requirement in requirements_of(project, FOR_WORK):
        if {one.operator for one in requirement.specifier} != {">="}:
            wrong.append(f"{requirement} has more than a floor")
    extras = set(project["optional-dependencies"])
    same(
        "extras that are named and not there", {*NOT_TESTED, *FOR_WORK} - extras, set()
    )

    tested = set(floors_of(project, NOT_TESTED))
    for name in sorted(tested - set(pins)):
        wrong.append(f".ci/oldest.txt has no pin of {name}")
    for name in sorted(set(floors) & set(pins)):
        same(f"the floor of {name}", floors[name], {pins[name]})
    return wrong


def floors_of(project, without=()):
    """The floors of each package, in the dependencies and the extras."""
    floors = {}
    for requirement in requirements_of(project, without):
        (floor,) = [
            one.version for one in requirement.specifier if one.operator == ">="
        ]
        floors.setdefault(canonicalize_name(requirement.name), set()).add(floor)
    return floors


def requirements_of(project, without):
    """What the dependencies and the extras ask for, but for some extras."""
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [
        line for extra in set(extras) - set(without) for line in extras[extra]
    ]
    return [Requirement(line) for line in lines]


def pins_of(constraints):
    """The versions of .ci/oldest.txt: 1.3 for ==1.3.*, and for ==1.3."""
    lines = [line.partition("#")[0].strip() for line in constraints.splitlines()]
    pins = {}
    for requirement in map(Requirement, filter(None, lines)):
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
        pins[canonicalize_name(requirement.name)] = pin.version.removesuffix(".*")
    return pins


def test_all_places_name_the_same_versions():
    assert disagreements(read()) == []


@pytest.mark.parametrize(
    "name, old, new, complaint",
    [
        # A classifier below the floor, a gap, a floor that others do not follow.
        (
            FILES[0],
            f'  "{PYTHON}3.11"',
            f'  "{PYTHON}3.10",\n  "{PYTHON}3.11"',
            "classif",
        ),
        (FILES[0], f'  "{PYTHON}3.12",\n', "", "classifiers"),
        (FILES[0], 'requires-python = ">=3.11"', 'requires-python = ">=3.12"', "ruff"),
        (
            FILES[0],
            'requires-python = ">=3.11"',
            'requires-python = ">3.10"',
            "not like",
        ),
        (FILES[0], 'target-version = "py311"', 'target-version = "py312"', "ruff"),
        (FILES[0], "[tool.mypy]", '[tool.mypy]\npython_version = "3.11"', "mypy"),
        (FILES[0], '"numpy>=1.26"', '"numpy>=2.0"', "floor of numpy"),
        (FILES[0], '["pyarrow>=14"]', '["pyarrow>=14", "zstandard>=0.2"]', "zstandard"),
        # Two extras that do not agree.
        (
            FILES[0],
            'entropy = ["constriction>=0.4"]',
            'entropy = ["constriction>=0.3"]',
            "constriction",
        ),
        (FILES[1], "scipy==1.12.*\n", "", "no pin of scipy"),
        (FILES[1], "joblib==1.3.*", "joblib==1.4.*", "floor of joblib"),
        (FILES[2], "needs Python 3.11", "needs Python 3.10", "README.md"),
        (
            FILES[2],
            "scikit-learn 1.6 or newer",
            "scikit-learn 1.7 or newer",
            "README.md",
        ),
        (FILES[3], "skvq needs Python 3.11", "It needs Python 3.11", "getting_started"),
        # The policy: other floors, another date, a row that is gone.
        (FILES[4], "| NumPy | 1.26 |", "| NumPy | 2.0 |", "floor of NumPy in docs"),
        (
            FILES[4],
            "| scikit-learn | 1.6 |",
            "| scikit-learn | 1.4 |",
            "scikit-learn in",
        ),
        (FILES[4], "| Python | 3.11 |", "| Python | 3.10 |", "floor of Python in docs"),
        (FILES[4], "| January 2026 |", "| January 2027 |", "the end of SciPy"),
        (FILES[4], "| NumPy |", "| Numerics |", "the rows of docs"),
        # What a user installs has no upper bound, and an extra is one that there is.
        (FILES[0], '"scipy>=1.12"', '"scipy>=1.12,<2"', "more than a floor"),
        (FILES[0], "\nbench = [", "\nbenchmarks = [", "not there"),
    ],
)
def test_a_place_that_says_otherwise_is_found(name, old, new, complaint):
    texts = read()
    assert texts[name].count(old) == 1, old
    texts[name] = texts[name].replace(old, new)
    assert complaint in "; ".join(disagreements(texts))


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """.ci/pythons, where PATH has a folder of Pythons that only say what they are."""
    path = ROOT / ".ci" / "pythons"
    if os.name == "nt":
        pytest.skip("needs a system that runs scripts")
    loader = SourceFileLoader("pythons", str(path))
    script = module_from_spec(spec_from_loader("pythons", loader))
    with pytest.MonkeyPatch.context() as patch:
        # Nothing compiled is left beside it.
        patch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(script)
    monkeypatch.setenv("PATH", str(tmp_path))
    script.folder = tmp_path
    return script


def make(folder, name, lines):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def test_pythons_are_found_in_order_and_what_is_none_is_not(pythons, capsys):
    here = pythons.folder
    make(here, "python3.9", "echo 3.9.1 /older")
    make(here, "python3.11", "echo 3.11.2 /system")
    # A shim, and a build that is not to count, which says nothing.
    make(here, "python3.12", "echo 'command not found' >&2; exit 127")
    make(here, "python3.14", "")
    make(here, "python3.11-config", "echo 3.11.99 /none")
    make(here, "pyenv", f"echo {here}/of pyenv")
    make(here / "of pyenv/versions/3.11.7/bin", "python3.11", "echo 3.11.7 /of pyenv")
    make(here, "uv", f"echo {here}/of_uv")
    make(here / "of_uv/cpython-3.13.1/bin", "python3.13", "echo 3.13.1 /of_uv")

    def said(*arguments):
        assert pythons.main(arguments) == 0
        return capsys.readouterr().out.splitlines()

    assert said() == ["3.11.7 /of pyenv", "3.13.1 /of_uv"]
    assert said("--lowest") == ["/of pyenv"]
    assert said("--highest") == ["/of_uv"]
    assert said("--missing") == ["3.12"]


def test_without_a_python_all_classifiers_are_missing(pythons, capsys):
    assert pythons.main([]) == 1
    assert capsys.readouterr().err == "No Python 3.11 or newer was found.\n"
    assert pythons.main(["--missing"]) == 0
    assert capsys.readouterr().out.split()[:2] == ["3.11", "3.12"]


@pytest.mark.parametrize("arguments", [["--lowest", "--highest"], ["3.11"]])
def test_pythons_refuses_what_it_does_not_know(pythons, capsys, arguments):
    with pytest.raises(SystemExit) as refused:
        pythons.main(arguments)
    assert refused.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_this_python_is_what_the_script_takes_it_for(pythons):
    found = pythons.newest_of_each([sys.executable], (3, 0))
    version = sys.version_info
    if version.releaselevel == "final" and sys.implementation.name == "cpython":
        (found,) = found.values()
        assert found[0] == version[:3]
        assert Path(found[1]).samefile(os.path.realpath(sys.executable))
