"""Results of `compare`, kept for a later run with the same rows and schemes.

A folder of small JSON files, one for each scheme that was fitted, in the place that the
platform has for files that may be deleted at any time.  Each is written whole or not at
all; what cannot be read, or is not what it should be, counts as not there.
"""

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn

import skvq
from skvq.io import atomic_write

logger = logging.getLogger("skvq.cli")

# Bytes of an array that are hashed at a time.
_PIECE = 2**24


def default_folder() -> Path | None:
    """Return the folder of the platform for skvq's cache; None if there is none."""
    try:
        if os.path.isabs(given := os.environ.get("XDG_CACHE_HOME", "")):
            return Path(given) / "skvq"
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return Path(local) / "skvq" / "Cache" if local else None
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "skvq"
        return Path.home() / ".cache" / "skvq"
    except RuntimeError:  # a user without a home
        return None


class Cache:
    """Results by the rows, the seed and the scheme that they are of.

    Parameters
    ----------
    folder : Path or None
        Where they are; None: nowhere, so that nothing is found and nothing kept.
    arrays : iterable of ndarray
        The rows.
    seed : int
        The seed.
    """

    def __init__(self, folder: Path | None, arrays: Iterable[np.ndarray], seed: int):
        self.folder = folder
        self._facts: dict[str, Any] = {}
        if folder is not None:
            self._facts = {
                "rows": [_digest(array) for array in arrays],
                "seed": seed,
                "versions": {
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                    "scipy": scipy.__version__,
                    "scikit-learn": sklearn.__version__,
                    "skvq": skvq.__version__,
                },
                # A version under development keeps its number while it changes, and
                # times are those of a machine.
                "sources": _sources(),
                "machine": platform.node(),
            }

    def read(self, scheme: str) -> Any:
        """Return what is known of a scheme.

        Parameters
        ----------
        scheme : str
            Its specification.

        Returns
        -------
        result : object
            As `write` was given it; None if nothing is known.
        """
        if self.folder is None:
            return None
        key = self._key(scheme)
        try:
            stored = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(stored, dict) or stored.get("key") != key:
            return None
        return stored.get("result")

    def write(self, scheme: str, result: Any) -> None:
        """Keep a result, if the folder can be written.

        Parameters
        ----------
        scheme : str
            Its specification.
        result : object
            What JSON can hold.
        """
        if self.folder is None:
            return
        key = self._key(scheme)
        content = json.dumps({"key": key, "scheme": scheme, "result": result})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(key)) as file:
                file.write(content.encode())
        except OSError as error:
            logger.info("%s is not kept: %s", scheme, error)

    def _key(self, scheme: str) -> str:
        facts = json.dumps({**self._facts, "scheme": scheme}, sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"compare-{key[:32]}.json"


def _digest(array: np.ndarray) -> str:
    """Return a hash of type, shape and numbers, read piece by piece."""
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    step = max(1, _PIECE // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        found.update(np.ascontiguousarray(array[start : start + step]).data)
    return found.hexdigest()


def _sources() -> str:
    """Return a hash that another state of the package's files does not have."""
    folder = Path(skvq.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        # The compiled engine is a part of it.
        if path.suffix in (".py", ".so", ".dll"):
            facts = path.stat()
            name = path.relative_to(folder).as_posix()
            found.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return found.hexdigest()
