"""The only file that imports names which scikit-learn does not promise to keep.

And the one that says of what types scikit-learn's bases and decorators are, which do
not say it themselves: a class with a base that checkers know nothing of has, for them,
every attribute, and a method under such a decorator returns anything.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from importlib.metadata import PackageNotFoundError, metadata
from numbers import Integral
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
from sklearn import get_config
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils._set_output import (
    ADAPTERS_MANAGER,
    _get_container_adapter,
    _get_output_config,
)
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import _check_sample_weight

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock
except ImportError:  # before scikit-learn 1.7
    from sklearn.utils._estimator_html_repr import _VisualBlock

from skvq._checks import LARGEST_SIZE, is_finite_number, is_sequence

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from skvq._typing import MatrixLike, NamesLike, OutputContainer

    class BaseEstimator:
        """What estimators have of scikit-learn's class."""

        _parameter_constraints: ClassVar[dict[str, list[Any]]]

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """Return the parameters, by their names."""
            ...

        def set_params(self, **params: Any) -> Self:
            """Set parameters, by their names."""
            ...

        def get_metadata_routing(self) -> Any:
            """Return what the methods ask of metadata."""
            ...

        def _validate_params(self) -> None: ...
        def __getstate__(self) -> dict[str, Any]: ...
        def __setstate__(self, state: dict[str, Any]) -> None: ...
        def __sklearn_tags__(self) -> Any: ...

    class TransformerMixin:
        """What transformers have of scikit-learn's class."""

        def fit_transform(
            self, X: MatrixLike, y: Any = None, **fit_params: Any
        ) -> NDArray[Any]:
            """Fit, and transform the same samples."""
            ...

        def set_output(self, *, transform: OutputContainer = None) -> Self:
            """Choose the container that `transform` answers in."""
            ...

    class OneToOneFeatureMixin:
        """Transformers whose columns keep the names of the features."""

        def get_feature_names_out(
            self: Any, input_features: NamesLike | None = None
        ) -> NDArray[Any]:
            """Return the names of the columns."""
            ...

    class ClassNamePrefixFeaturesOutMixin:
        """Transformers whose columns are named after the class."""

        def get_feature_names_out(
            self, input_features: NamesLike | None = None
        ) -> NDArray[Any]:
            """Return the names of the columns."""
            ...

    class Options:
        """Values that a parameter may have."""

        options: set[Any]

        def __init__(self, type: type[Any], options: set[Any]) -> None: ...
        def is_satisfied_by(self, val: Any) -> bool:
            """Tell whether a value is one of them."""
            ...

    class StrOptions(Options):
        """Texts that a parameter may be."""

        def __init__(self, options: set[str]) -> None: ...

    class _Interval:
        def __init__(
            self,
            type: type[Any],
            left: float | None,
            right: float | None,
            *,
            closed: str,
        ) -> None: ...

        type: Any

        def __contains__(self, val: Any) -> bool: ...
        def is_satisfied_by(self, val: Any) -> bool: ...

    class _BaseComposition(BaseEstimator):
        def _get_params(self, attr: str, deep: bool = True) -> dict[str, Any]: ...
        def _set_params(self, attr: str, **params: Any) -> Self: ...
        def _validate_names(self, names: list[str]) -> None: ...

    class CallbackSupportMixin:
        """What estimators have of scikit-learn's class, from its version 1.9 on."""

        def set_callbacks(self, *callbacks: Any) -> Self:
            """Set the callbacks that are told of the tasks of a fit."""
            ...

    def callback_management_context(
        estimator: Any,
    ) -> AbstractContextManager[None]:
        """Take the callbacks down when a fit has ended."""
        ...

else:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        OneToOneFeatureMixin,
        TransformerMixin,
        _fit_context,
    )
    from sklearn.utils._param_validation import Interval as _Interval
    from sklearn.utils._param_validation import Options, StrOptions
    from sklearn.utils.metaestimators import _BaseComposition, available_if

    try:
        from sklearn.callback import CallbackSupportMixin
        from sklearn.callback._callback_support import callback_management_context
    except ImportError:  # before scikit-learn 1.9, which has no callbacks

        class CallbackSupportMixin:
            """Stands for scikit-learn's, and adds nothing."""

        def callback_management_context(estimator):
            """Return a context that does nothing."""
            return nullcontext()


C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    def _fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[F], F]:
        """Let a method that fits validate the parameters first."""
        ...

    def available_if(check: Callable[[Any], bool]) -> Callable[[F], F]:
        """Make a method an attribute of some objects only."""
        ...


__all__ = [
    "CALLBACKS",
    "NUMBERS",
    "OF_A_RUNNING_FIT",
    "RANDOM_STATE",
    "SIZE",
    "SIZES",
    "UNUSED",
    "Accepted",
    "BaseEstimator",
    "CallbackSupportMixin",
    "ClassNamePrefixFeaturesOutMixin",
    "Documented",
    "Interval",
    "OneToOneFeatureMixin",
    "Options",
    "StrOptions",
    "TransformerMixin",
    "_BaseComposition",
    "_VisualBlock",
    "_check_sample_weight",
    "_fit_context",
    "available_if",
    "available_unless",
    "callback_management_context",
    "documentation_address",
    "frame_like",
    "has_callbacks",
    "in_output_container",
    "is_library_followed",
    "output_container",
    "published_in",
    "validate_parameter_constraints",
]


def is_library_followed(name: str) -> bool:
    """Return whether results for an array of a library stay in that library.

    They do for CuPy arrays, which NumPy cannot read, and for those of all other
    libraries if the user has switched on scikit-learn's ``array_api_dispatch``.
    """
    return name == "cupy" or (name != "numpy" and get_config()["array_api_dispatch"])


# Where an estimator keeps the callbacks that are set on it.
CALLBACKS = "_skl_callbacks"
# What it holds beside them while a fit is going on.
OF_A_RUNNING_FIT = (
    "_callback_fit_ctx",
    "_skl_callbacks_to_teardown",
    "_parent_callback_ctx",
)


class Documented:
    """Links scikit-learn's HTML representation to the pages of this library.

    The address is that of "Documentation" in the ``project.urls`` of the installed
    package; there is no link where there is none.
    """

    _doc_link_module = "skvq"

    @property
    def _doc_link_template(self) -> str:
        address = documentation_address()
        # A page for each public name of the package, see docs/api.rst.
        return address and f"{address}/generated/skvq.{{estimator_name}}.html"


def published_in(module: str) -> Callable[[C], C]:
    """Let a class name the module in which users find it, not that of its file.

    Parameters
    ----------
    module : str
        The public module.

    Returns
    -------
    decorator : callable
        A decorator for the class.
    """

    def decorator(cls: C) -> C:
        cls.__module__ = module
        # From Python 3.13 on, a class knows its line, and `inspect` would take it for a
        # line of the public module's file.
        if "__firstlineno__" in vars(cls):
            del cls.__firstlineno__  # type: ignore[attr-defined]
        return cls

    return decorator


def documentation_address() -> str:
    """Return where the site of this library is, as its metadata tell; or ""."""
    try:
        urls = metadata("skvq").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    found = dict(url.split(", ", 1) for url in urls)
    return found.get("Documentation", "").rstrip("/")


def has_callbacks(estimator: Any) -> bool:
    """Whether somebody has asked to be told of the fits of an estimator."""
    return bool(vars(estimator).get(CALLBACKS))


def output_container(estimator: Any) -> str:
    """Return the name of the container that `transform` of an estimator returns."""
    return _get_output_config("transform", estimator)["dense"]


def in_output_container(
    estimator: Any, found: Any, X: Any, columns: Sequence[str]
) -> Any:
    """Return an array in the container that `set_output` has chosen for `transform`.

    Parameters
    ----------
    estimator : estimator
        Whose output it is.
    found : array of shape (n_samples, n_columns)
        The output.
    X : object
        What it was made of; it gives the index.
    columns : sequence of str
        Names of the columns of a data frame.
    """
    adapter = _get_container_adapter("transform", estimator)
    if adapter is None:
        return found
    return adapter.create_container(found, X, columns=list(columns))


def frame_like(frame: Any, array: Any, columns: Callable[[], list[str]]) -> Any:
    """Return a data frame of an array, of the library and with the index of another.

    None if the other is no data frame; then the names are not asked for.
    """
    for library, adapter in ADAPTERS_MANAGER.adapters.items():
        # Adapters import their library, which a frame of it has done already.
        if library in sys.modules and adapter.is_supported_container(frame):
            return adapter.create_container(array, frame, columns=columns())
    return None


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

    def __init__(self, accepts: Callable[[Any], bool], words: str) -> None:
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

    def __init__(
        self, function: Callable[..., Any], reason: Callable[[Any], str | None]
    ) -> None:
        self._function, self._reason = function, reason
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self.__wrapped__ = function

        @wraps(function)
        def unbound(obj: Any, *args: Any, **kwargs: Any) -> Any:
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

    def __get__(self, obj: Any, owner: type[Any] | None = None) -> Callable[..., Any]:
        # Access through the class gives a function, whose signature routing reads.
        if obj is None:
            return self._unbound
        self._check(obj)
        return MethodType(self._function, obj)


def available_unless(reason: Callable[[Any], str | None]) -> Callable[[F], F]:
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

    # For checkers it is the method: whether it is there, they cannot know.
    def decorator(function: F) -> F:
        return cast(F, _AvailableUnless(function, reason))

    return decorator
