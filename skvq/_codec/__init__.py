"""Writing and reading codec files.

=================  =====================================================================
module             contents
=================  =====================================================================
`container`        bytes: a header and tensors, as safetensors has them, and digests
`description`      the description of a codec in its file, in JSON
`encoding`         fitted estimators as values, tensors and objects of known classes
`classes`          the known classes of skvq
`transformers`     the known transformers of scikit-learn, and their attributes
`pickled`          files of versions before 4, which hold a pickle
=================  =====================================================================
"""

from typing import Any

import numpy as np

from skvq._codec import container, encoding
from skvq._codec.classes import BY_CLASS, BY_NAME
from skvq._codec.description import check_codec, check_description, describe

__all__ = [
    "VERSION",
    "check_codec",
    "check_description",
    "container",
    "describe",
    "load_objects",
    "save_objects",
]

# The version of the format of codec files; files before it hold a pickle.
VERSION = 4


def save_objects(estimator: Any) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return an estimator as objects and arrays, see `encoding.encode`."""
    return encoding.encode(estimator, BY_CLASS)


def load_objects(objects: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return the estimator made from objects and arrays, see `encoding.decode`."""
    return encoding.decode(objects, arrays, BY_NAME)
