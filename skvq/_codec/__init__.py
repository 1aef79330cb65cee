"""What a codec file is made of, and what becomes of it when it is read.

=================  =====================================================================
module             what it is about
=================  =====================================================================
`container`        bytes: a header and tensors, as safetensors has them, and digests
`description`      what a file says of itself, in JSON
`encoding`         fitted estimators as values, tensors and objects of known classes
`classes`          the classes of skvq that are known
`transformers`     those of scikit-learn, and which attributes each of them has
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

# Of the format of codec files; those before hold a pickle.
VERSION = 4


def save_objects(estimator: Any) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return an estimator as objects and arrays, as `encoding.encode` does."""
    return encoding.encode(estimator, BY_CLASS)


def load_objects(objects: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return the estimator of objects and arrays, as `encoding.decode` does."""
    return encoding.decode(objects, arrays, BY_NAME)
