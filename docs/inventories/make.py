"""Write which pages of other projects document their names: ``python make.py``.

Sphinx reads these inventories, so that builds need no network.  They are in the first
version of its format, plain text: a name, its kind, and its page below the address
that ``conf.py`` has.  Names are those of the installed libraries; run this when a page
is to link to another one.
"""

import importlib
import inspect
from pathlib import Path

HERE = Path(__file__).parent

# All public classes and functions of these.
SKLEARN = [
    "cluster",
    "compose",
    "decomposition",
    "ensemble",
    "exceptions",
    "frozen",
    "linear_model",
    "manifold",
    "metrics",
    "model_selection",
    "neighbors",
    "pipeline",
    "preprocessing",
    "random_projection",
    "utils",
]
NUMPY = [
    "array_split",
    "concatenate",
    "dtype",
    "einsum",
    "kron",
    "load",
    "memmap",
    "ndarray",
    "packbits",
    "rint",
    "save",
    "savez",
    "searchsorted",
    "sort",
    "unique",
    "unpackbits",
]
SCIPY = [
    "linalg.hadamard",
    "linalg.lstsq",
    "linalg.qr",
    "optimize.linear_sum_assignment",
    "spatial.distance.cdist",
    "stats.ortho_group",
]
DASK = [
    "array.Array",
    "array.from_array",
    "array.from_npy_stack",
    "array.from_zarr",
    "array.map_blocks",
    "array.to_zarr",
    "dataframe.read_parquet",
]


def kind(item):
    """Return what Sphinx calls the kind of a documented thing."""
    if inspect.isclass(item):
        return "exception" if issubclass(item, BaseException) else "class"
    return "function"


def line(name, page):
    """Return the line of an installed thing."""
    module, _, attribute = name.rpartition(".")
    item = getattr(importlib.import_module(module), attribute)
    return f"{name} {kind(item)} {page.format(name)}"


def sklearn_names():
    """Return the public names of the modules above."""
    names = ["sklearn.base.BaseEstimator", "sklearn.base.clone"]
    for module in SKLEARN:
        contents = importlib.import_module(f"sklearn.{module}")
        for name in contents.__all__:
            try:
                item = getattr(contents, name)
            except ImportError:  # what is experimental
                continue
            if inspect.isclass(item) or inspect.isfunction(item):
                names.append(f"sklearn.{module}.{name}")
    return names


def write(project, names, page):
    """Write the inventory of a project."""
    library = importlib.import_module(project)
    head = [
        "# Sphinx inventory version 1",
        f"# Project: {project}",
        f"# Version: {library.__version__}",
    ]
    lines = [line(name, page) for name in sorted(names)]
    (HERE / f"{project}.inv").write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    write("sklearn", sklearn_names(), "modules/generated/{}.html")
    write("numpy", [f"numpy.{name}" for name in NUMPY], "reference/generated/{}.html")
    write("scipy", [f"scipy.{name}" for name in SCIPY], "reference/generated/{}.html")
    write("dask", [f"dask.{name}" for name in DASK], "generated/{}.html")
