"""The versions and libraries that compute on this machine, for bug reports."""

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import threadpool_info

from skvq._version import __version__
from skvq.nearest import native

# Packages that are not installed are skipped.  CuPy has a package per CUDA version.
_DISTRIBUTIONS = [
    *("numpy", "scipy", "scikit-learn", "joblib", "safetensors", "threadpoolctl"),
    *("constriction", "torch"),
    *("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"),
]


def show_versions() -> None:
    """Print the versions, libraries and threads that compute on this machine.

    A bug report needs this output.  One line describes the compiled engine: its set of
    instructions, file and compiler, or why NumPy computes instead.  Neither CuPy nor
    torch is imported, and no GPU is touched.

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
        # The kernels that a BLAS has chosen, if it reports them.
        kind = " ".join(
            str(pool[key])
            for key in ("internal_api", "version", "architecture", "threading_layer")
            if pool.get(key)
        )
        file = Path(pool["filepath"]).name
        yield pool["user_api"], f"{kind}, {pool['num_threads']} threads ({file})"
