"""What computes on this machine, for reports of errors."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import threadpool_info

from skvq._version import __version__
from skvq.nearest import native

# What is not installed is left out.  CuPy has a distribution for each version of CUDA.
_DISTRIBUTIONS = [
    *("numpy", "scipy", "scikit-learn", "joblib", "safetensors", "threadpoolctl"),
    *("constriction", "torch"),
    *("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"),
]


def show_versions() -> None:
    """Print the versions, libraries and threads that compute here.

    This is what a report of an error needs.  One line is about the compiled engine: its
    set of instructions, file and compiler, or why NumPy computes in its place.  Neither
    CuPy nor torch is imported, and no GPU is touched.

    Examples
    --------
    >>> import skvq
    >>> skvq.show_versions()
    skvq: ...
    """
    print("\n".join(f"{name}: {said}" for name, said in _versions()))


def _versions() -> Iterator[tuple[str, str]]:
    yield "skvq", __version__
    engine = native.status()
    if engine.path is None:
        yield "compiled engine", f"none. {engine.reason}"
    else:
        file = Path(engine.path).name
        yield "compiled engine", f"{engine.level} ({file}, {engine.compiler})"
    yield "python", f"{platform.python_version()} ({platform.python_compiler()})"
    yield "platform", platform.platform()
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)
    for pool in threadpool_info():
        # Which of its kernels a BLAS has chosen, where it says so.
        kind = " ".join(
            str(pool[key])
            for key in ("internal_api", "version", "architecture", "threading_layer")
            if pool.get(key)
        )
        file = Path(pool["filepath"]).name
        yield pool["user_api"], f"{kind}, {pool['num_threads']} threads ({file})"
