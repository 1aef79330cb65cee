"""The compiled engine: its sources, its libraries, and which of them is loaded.

``hatch_build.py`` compiles the sources beside this file when skvq is installed, once
for each set of instructions: ``_v3`` (x86-64 with AVX2 and FMA), ``_v4`` (AVX-512 with
VBMI and VNNI), ``_neon`` (arm64).  All libraries have the same functions.  One of them
is loaded at its first use; if none runs on this machine, NumPy computes.

``hatch_build.py`` also runs this file without skvq: it needs Python alone.
"""

import ctypes
import hashlib
import json
import os
import platform
import sys
import sysconfig
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

# The libraries for each processor, best first, and the instructions that they need.
LEVELS = {
    "x86_64": {
        "v4": "AVX-512 F, BW, CD, DQ, VL, VBMI and VNNI",
        "v3": "AVX2, FMA, BMI1, BMI2, F16C, LZCNT and MOVBE",
    },
    "aarch64": {"neon": "nothing"},
}
# The library's numbers of types, see rows.h.
TYPES = {
    name: number
    for number, name in enumerate(
        "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 "
        "float64".split()
    )
}
VARIABLE = "SKVQ_NATIVE"
_CHOICES = [*(level for levels in LEVELS.values() for level in levels), "numpy"]

_FOLDER = Path(__file__).parent
_SUFFIX = ".dll" if os.name == "nt" else ".so"
# The file in which the build notes why there is no library.
NOTE = "_build.json"


class Status(NamedTuple):
    """What was loaded, or why nothing was."""

    level: str | None
    path: str | None
    compiler: str | None
    reason: str | None


def library() -> ctypes.CDLL | None:
    """Load the compiled engine, once.

    Returns
    -------
    library : CDLL or None
        None if NumPy is to compute instead.

    Raises
    ------
    ValueError
        If the value of `SKVQ_NATIVE` is not a library.
    ImportError
        If the library it names was not built, does not match its sources, or does not
        run on this machine.
    """
    return _choose()[0]


def status() -> Status:
    """Return which library computes, or why none does.

    Returns
    -------
    status : Status
        The level ("v3", "v4", "neon"), path and compiler of the library, or the reason
        why there is none.
    """
    try:
        return _choose()[1]
    except (ImportError, ValueError) as error:
        return Status(None, None, None, str(error))


def machine() -> str:
    """Return the processor for which this Python was compiled."""
    if sys.platform == "darwin":  # "universal2" stands for two processors
        name = platform.machine()
    else:
        name = sysconfig.get_platform().rpartition("-")[2]
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)
    return name if sys.maxsize > 2**32 else f"{name} in 32 bits"


def digest(folder: Path) -> str | None:
    """Return the digest of the sources in a folder; None if there are none."""
    joined, found = (
        hashlib.sha256(),
        sorted([*folder.glob("*.cc"), *folder.glob("*.h")]),
    )
    for path in found:
        # Git may have changed the line endings.
        text = path.read_bytes().replace(b"\r\n", b"\n")
        joined.update(b"%s %d " % (path.name.encode(), len(text)) + text)
    return joined.hexdigest()[:16] if found else None


_lock = threading.Lock()
_chosen: tuple[ctypes.CDLL | None, Status] | None = None


def _renew_after_fork() -> None:
    """Replace the lock in a forked child, where its holder does not exist."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


def _choose() -> tuple[ctypes.CDLL | None, Status]:
    global _chosen
    stale = None
    with _lock:
        if _chosen is None:
            try:
                _chosen = _load(os.environ.get(VARIABLE, ""))
            except _NoLibraryError as error:
                _chosen = None, Status(None, None, None, str(error))
                stale = error if isinstance(error, _StaleError) else None
        chosen = _chosen
    if stale is not None:
        # The choice is settled by now: where warnings are errors, one call raises.
        warnings.warn(f"NumPy computes. {stale}", RuntimeWarning, stacklevel=4)
    return chosen


class _NoLibraryError(ImportError):
    """The compiled engine cannot be used; the message says why."""


class _StaleError(_NoLibraryError):
    """The library was compiled from other sources than those beside it."""


def _load(wanted: str) -> tuple[ctypes.CDLL | None, Status]:
    """Load the named library, or, if there is no name, the best that runs here."""
    if wanted not in ("", *_CHOICES):
        raise ValueError(
            f"{VARIABLE} has to be one of {', '.join(_CHOICES)}, or not set; got "
            f"{wanted!r}."
        )
    if wanted == "numpy":
        return None, Status(None, None, None, f"{VARIABLE}=numpy.")
    try:
        level = _runnable(wanted)
        path = _path(level)
        library = _open(path)
    except _NoLibraryError as error:
        if wanted:
            raise ImportError(f"{VARIABLE}={wanted}: {error}") from None
        raise
    return library, Status(level, str(path), _said(library, "skvq_compiler"), None)


def _runnable(wanted: str) -> str:
    """Return the wanted level, or the best one, that was built and runs here."""
    here = machine()
    levels = LEVELS.get(here, {})
    if not levels:
        raise _NoLibraryError(f"There is no compiled engine for {here}.")
    if wanted and wanted not in levels:
        raise _NoLibraryError(f"{here} has {' and '.join(levels)}.")
    built = [x for x in levels if _path(x).exists() and wanted in ("", x)]
    if not built:
        raise _NoLibraryError(_why_not_built())
    # arm64 has no levels: every such processor has the vectors of _neon.
    best = _cpu_level() if here == "x86_64" else 0
    level = next((x for x in built if x == "neon" or int(x[1:]) <= best), None)
    if level is None:
        raise _NoLibraryError(
            f"This processor, or its system, lacks some of what _{built[-1]} needs: "
            f"{levels[built[-1]]}."
        )
    return level


def _path(level: str) -> Path:
    return _FOLDER / f"_{level}{_SUFFIX}"


def _cpu_level() -> int:
    """Return the level of x86-64 that runs here: 4, 3, or 0."""
    return _open(_path("cpu")).skvq_cpu_level()


def _open(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise _NoLibraryError(f"{path.name} cannot be loaded: {error}.") from None
    sources = digest(_FOLDER)
    # Installed wheels have no sources.
    if sources is not None and sources_of(library) != sources:
        raise _StaleError(
            f"{path.name} was compiled from other sources than those beside it in "
            f"{_FOLDER}; run `pip install -e .` again in {_FOLDER.parents[2]}."
        )
    return library


def sources_of(library: ctypes.CDLL) -> str:
    """Return the digest of the sources that a library was compiled from."""
    return _said(library, "skvq_sources")


def _said(library: ctypes.CDLL, name: str) -> str:
    """Return a text from the library; empty if the library is too old to have it."""
    try:
        function = library[name]
    except AttributeError:
        return ""
    function.restype = ctypes.c_char_p
    return function().decode()


def _why_not_built() -> str:
    try:
        error = json.loads((_FOLDER / NOTE).read_text(encoding="utf-8"))["error"]
    except (OSError, ValueError, KeyError):
        error = None
    return error or (
        "The compiled engine was not built; `pip install -e .` in a clone builds it."
    )
