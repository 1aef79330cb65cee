"""The description of a codec in its file."""

import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import sklearn

from skvq._pipelines import find_codec, flat_steps
from skvq._version import __version__

Description = dict[str, Any]


def describe(estimator: Any, details: Mapping[str, Any] | None) -> Description:
    """Return the description of a codec.

    Parameters
    ----------
    estimator : object
        The codec.
    details : mapping or None
        The user's own entries.

    Returns
    -------
    description : dict
        With the keys of `check_description`.

    Raises
    ------
    TypeError
        If it is not a codec.
    """
    if not isinstance(details, Mapping | None):
        raise TypeError(f"details={details!r}; expected a mapping.")
    quantizer = find_codec(estimator, at_end=True).quantizer
    # Raise now for what could not be read back.
    quantizer._check_fitted()
    quantizer._validate_params()
    # Some transformers, and pipelines that begin with one, do not have it.
    n_features = getattr(estimator, "n_features_in_", None)
    return {
        "steps": [type(step).__name__ for _, step in flat_steps(estimator)],
        "n_features": None if n_features is None else int(n_features),
        "codebook_sizes": [int(size) for size in quantizer.codebook_sizes_],
        "bits_per_sample": float(quantizer.bits_per_sample_),
        "versions": {
            "skvq": __version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "details": dict(details or {}),
    }


def check_description(found: Any, more: Iterable[str] = ()) -> Description:
    """Return a description, without unknown keys; a ValueError if it is not valid.

    Parameters
    ----------
    found : object
        The value that was read from JSON.
    more : iterable of str
        Keys that it must have in addition.

    Returns
    -------
    description : dict
    """
    if not isinstance(found, dict) or found.keys() != {*_DESCRIPTION, *more}:
        raise ValueError(f"is not an object with the keys {', '.join(_DESCRIPTION)}")
    for key, is_valid in _DESCRIPTION.items():
        if not is_valid(found[key]):
            raise ValueError(f"has {key} that are not valid")
    return {key: found[key] for key in _DESCRIPTION}


def _is_whole(value: Any, largest: int) -> bool:
    return type(value) is int and 1 <= value <= largest


def _are_strings(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


# Each key of a description, with the check of its value.
_DESCRIPTION: dict[str, Callable[[Any], bool]] = {
    "steps": lambda v: isinstance(v, list) and len(v) > 0 and _are_strings(v),
    "n_features": lambda v: v is None or _is_whole(v, sys.maxsize),
    "codebook_sizes": lambda v: (
        isinstance(v, list) and len(v) > 0 and all(_is_whole(V, 2**32) for V in v)
    ),
    "bits_per_sample": lambda v: type(v) in (int, float) and 0 <= v < 2**53,
    "versions": lambda v: isinstance(v, dict) and _are_strings(v.values()),
    "details": lambda v: isinstance(v, dict),
}


def check_codec(estimator: Any, description: Description) -> None:
    """Raise unless a codec that was loaded agrees with its description and decodes.

    Parameters
    ----------
    estimator : object
        The codec.
    description : dict
        The description in the file.
    """
    quantizer = find_codec(estimator, at_end=True).quantizer
    sizes = [int(size) for size in quantizer.codebook_sizes_]
    if sizes != description["codebook_sizes"]:
        raise ValueError(
            f"its description tells of codebooks of {description['codebook_sizes']} "
            f"codewords, the codec has {sizes}"
        )
    ends = np.array([[0] * len(sizes), [size - 1 for size in sizes]])
    with np.errstate(all="ignore"):
        decoded = quantizer.inverse_transform(ends)
    if tuple(decoded.shape) != (2, quantizer.n_features_in_):
        raise ValueError("its tables are not of the width that it says")
