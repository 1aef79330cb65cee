"""The one file that imports what scikit-learn does not promise to keep."""

from sklearn import get_config
from sklearn.base import _fit_context
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import _check_sample_weight

__all__ = [
    "UNUSED",
    "HasMethods",
    "Interval",
    "Options",
    "StrOptions",
    "_check_sample_weight",
    "_fit_context",
    "is_library_followed",
    "validate_parameter_constraints",
]


def is_library_followed(name: str) -> bool:
    """Whether the answer to an array of a library is to be one of it.

    So it is for CuPy's arrays, which NumPy cannot read, and for those of all other
    libraries where the user has switched on scikit-learn's ``array_api_dispatch``.
    """
    return name == "cupy" or (name != "numpy" and get_config()["array_api_dispatch"])
