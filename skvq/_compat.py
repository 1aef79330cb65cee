"""The only file that imports names which scikit-learn does not promise to keep."""

from collections.abc import Callable
from functools import wraps
from numbers import Integral
from types import MethodType
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval as _Interval
from sklearn.utils._param_validation import (
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import _check_sample_weight

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock
except ImportError:  # before scikit-learn 1.7
    from sklearn.utils._estimator_html_repr import _VisualBlock

from skvq._checks import LARGEST_SIZE, is_finite_number, is_sequence

__all__ = [
    "NUMBERS",
    "RANDOM_STATE",
    "SIZE",
    "SIZES",
    "UNUSED",
    "Accepted",
    "Interval",
    "Options",
    "StrOptions",
    "_BaseComposition",
    "_VisualBlock",
    "_check_sample_weight",
    "_fit_context",
    "available_unless",
    "is_library_followed",
    "output_container",
    "validate_parameter_constraints",
]


def is_library_followed(name: str) -> bool:
    """Return whether results for an array of a library stay in that library.

    They do for CuPy arrays, which NumPy cannot read, and for those of all other
    libraries if the user has switched on scikit-learn's ``array_api_dispatch``.
    """
    return name == "cupy" or (name != "numpy" and get_config()["array_api_dispatch"])


def output_container(estimator: Any) -> str:
    """Return the name of the container that `transform` of an estimator returns."""
    return _get_output_config("transform", estimator)["dense"]


class Interval(_Interval):
    """scikit-learn's interval, but it rejects bools and accepts fractions."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Return whether a value is a number of the type within the interval."""
        if isinstance(val, bool | np.bool_) or not isinstance(val, self.type):
            return False
        if self.type is Integral:
            # Compare Python ints: NumPy's may wrap around, or be unsigned.
            return int(val) in self
        return is_finite_number(val) and float(val) in self


class Accepted(Options):
    """A constraint that a function decides.

    Parameters
    ----------
    accepts : callable
        Returns whether it accepts a value.
    words : str
        Describes accepted values, after "must be ...".
    """

    def __init__(self, accepts: Callable[[Any], bool], words: str):
        super().__init__(type=object, options=set())
        self._accepts, self._words = accepts, words

    def is_satisfied_by(self, val: Any) -> bool:
        """Return whether the function accepts a value."""
        return self._accepts(val)

    def __str__(self) -> str:
        """Return the description."""
        return self._words


SIZE = Interval(Integral, 1, LARGEST_SIZE, closed="both")
# The entries are checked later, once their required number is known.
SIZES = Accepted(is_sequence, "a sequence of ints")
NUMBERS = Accepted(is_sequence, "a sequence of numbers")
RANDOM_STATE = [
    Interval(Integral, 0, 2**32 - 1, closed="both"),
    np.random.RandomState,
    None,
]


class _AvailableUnless:
    """A descriptor of a method that is absent while there is a reason against it.

    scikit-learn's `available_if` does the same, but does not pass the reason on.
    """

    def __init__(self, function: Callable, reason: Callable[[Any], str | None]):
        self._function, self._reason = function, reason
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self.__wrapped__ = function

        @wraps(function)
        def unbound(obj, *args, **kwargs):
            self._check(obj)
            return function(obj, *args, **kwargs)

        self._unbound = unbound

    def _check(self, obj: Any) -> None:
        try:
            reason = self._reason(obj)
        except Exception as error:
            # The parameters are not valid; `fit` will say so.
            name = type(obj).__name__
            reason = f"{name} has no {self._function.__name__}: {error}"
        if reason is not None:
            raise AttributeError(reason, name=self._function.__name__, obj=obj)

    def __get__(self, obj: Any, owner: type | None = None) -> Callable:
        # Access through the class gives a function, whose signature routing reads.
        if obj is None:
            return self._unbound
        self._check(obj)
        return MethodType(self._function, obj)


def available_unless(reason: Callable[[Any], str | None]) -> Callable:
    """Make a method exist only on objects that have no reason against it.

    Parameters
    ----------
    reason : callable
        Takes the object; returns the message of the AttributeError, or None.

    Returns
    -------
    decorator : callable
        A decorator for the method.
    """
    return lambda function: _AvailableUnless(function, reason)
