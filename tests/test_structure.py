"""What the package promises about itself."""

import re
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


def test_the_page_of_the_design_and_the_import_contract_name_every_module():
    modules = {
        path.stem
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    page = (SOURCE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    layers = page.partition("## Layers\n")[2].partition("\nImports point")[0]
    # Words of the left column, or of a description that begins further to the right.
    assert modules - set(re.findall(r"\w+", layers)) == set()
    settings = (SOURCE.parent / "pyproject.toml").read_text(encoding="utf-8")
    contract = settings.partition('"imports point downward"')[2].partition("\n]")[0]
    # `radius` only hands on names; `_cli` is what `__main__` is made of.
    named = set(re.findall(r"skvq\.(\w+)", contract))
    assert modules ^ named == {"radius", "_cli"}
