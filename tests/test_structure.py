"""What the package promises about itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import skvq

SOURCE = Path(skvq.__file__).parent
# What asks of which library an array is.
ASKS = re.compile(
    r"is_foreign|library_name|array_namespace|on_host|__array_namespace__"
    r"|isinstance\([^)]*(?:ndarray|np\.generic|Tensor)|\.__module__(?! = )"
)
# Outside of the backends, who may ask, how often, and why.
MAY_ASK = {
    # scikit-learn validates NumPy's arrays, and other libraries' only by request.
    "_validation.py": 2,
    # The namespace in which a loss is written down, for automatic differentiation.
    "losses.py": 2,
    # What a class is called in messages.
    "_checks.py": 1,
    # Chunks of Dask's arrays are NumPy's.
    "learning/partitions.py": 1,
    # A file of NumPy's holds an array or an archive.
    "_cli/sources.py": 1,
}


def test_only_backends_ask_of_which_library_an_array_is():
    asked = {}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith("nearest/backends/"):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if ASKS.search(line)]
        if found:
            asked[name] = len(found)
    assert asked == MAY_ASK
    assert sum(asked.values()) <= 10


# Who can unpickle, and what for.
MAY_UNPICKLE = {
    # Codec files of versions 1 to 3, where the reader allows it.
    "_layouts.py",
    # Raises what pickle raises, where a pickle has no version.
    "base.py",
}


def unpicklers(sources):
    """Return the modules that import or call what runs code of a file."""
    runs_code = re.compile(
        r"^\s*(?:import|from) (?:pickle|cloudpickle|dill|marshal|shelve)\b"
        r"|from joblib import .*\bload\b|joblib\.load"
        r"|(?:np|numpy)\.load\([^)]*allow_pickle=True",
        re.MULTILINE,
    )
    return {name for name, text in sources.items() if runs_code.search(text)}


def test_nothing_but_old_files_is_unpickled():
    sources = {
        path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8")
        for path in SOURCE.rglob("*.py")
    }
    assert unpicklers(sources) == MAY_UNPICKLE
    for planted in (
        "import pickle",
        "    from pickle import loads",
        "import cloudpickle as c",
        "from joblib import dump, load",
        "x = joblib.load(path)",
        "np.load(path, allow_pickle=True)",
    ):
        assert unpicklers({"_codec/callables.py": f"{planted}\n"}), planted
    assert not unpicklers({"parts.py": "from joblib import effective_n_jobs\n"})


def test_the_page_of_the_design_and_the_import_contract_name_every_module(tree):
    modules = {
        path.stem
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    page = (tree / "docs" / "design.md").read_text(encoding="utf-8")
    layers = page.partition("## Layers\n")[2].partition("\nImports point")[0]
    # Words of the left column, or of a description that begins further to the right.
    assert modules - set(re.findall(r"\w+", layers)) == set()
    settings = (tree / "pyproject.toml").read_text(encoding="utf-8")
    contract = settings.partition('"imports point downward"')[2].partition("\n]")[0]
    # `radius` only hands on names; `_cli` is what `__main__` is made of.
    named = set(re.findall(r"skvq\.(\w+)", contract))
    assert modules ^ named == {"radius", "_cli"}


# -- the tests themselves --------------------------------------------------------------

TESTS = Path(__file__).parent
# By this line, conftest.py knows a module that needs the tree.
OF_TREE = "ROOT = Path(__file__).parent.parent"


def looks_above(text):
    """Return the lines by which a test looks above its folder in its own way."""
    line = r".*Path\(__file__\)\.(?:parents\b|parent\.parent|resolve).*"
    return [one for one in re.findall(line, text) if one != OF_TREE]


def test_what_tests_read_of_the_tree_is_known():
    """Modules by ROOT, which conftest.py looks for, and other tests by its fixture."""
    found = {
        path.relative_to(TESTS).as_posix(): looks_above(path.read_text("utf-8"))
        for path in TESTS.rglob("*.py")
    }
    # The second tier runs in a clone; this module knows the line itself.
    assert {name for name in found if found[name]} == {
        "conftest.py",
        "nightly/harness.py",
        "test_structure.py",
    }
    planted = [OF_TREE.replace("ROOT", "PAGE"), f"    {OF_TREE}"]
    assert looks_above("\n".join([OF_TREE, *planted])) == planted


def test_without_the_tree_its_tests_are_not_collected(tmp_path):
    """Packagers run the tests of an installed skvq, with tests and settings alone."""
    folder = tmp_path / "tests"
    folder.mkdir()
    of_tree = [
        path
        for path in TESTS.glob("test_*.py")
        if OF_TREE in path.read_text(encoding="utf-8").splitlines()
    ]
    assert {"test_docs.py", "test_release.py"} < {path.name for path in of_tree}
    for path in (TESTS / "conftest.py", *of_tree):
        shutil.copy(path, folder)
    (folder / "test_installed.py").write_text(
        "def test_one():\n    pass\n\n\ndef test_page(tree):\n    assert False\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = tests\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "needs the source tree" in done.stdout
