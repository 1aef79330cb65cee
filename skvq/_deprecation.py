"""Names that have changed: in files for good, and for users for two minor versions.

To rename a parameter, rename it, write its old name into `IN_FILES`, and put
``@renamed("0.3", old="new")`` above the class, or above the function that has it; None
in place of "new" says that it is gone and has no effect.  An attribute is handed on by
``old_ = RenamedAttribute("new_", "0.3")`` in the class, and a function by
``old = renamed_function(new, "old", "0.3")``.  Each warns with a FutureWarning that
names the version in which the old name goes: two minor versions after the one given.
From then on a test fails until the old name is gone; the line of `IN_FILES` stays.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# By class, the names that parameters and fitted attributes had in files and pickles
# before they were renamed.  A line stays for good, since files stay readable.
IN_FILES: dict[str, Mapping[str, str]] = {
    "BinaryQuantizer": {"radius_levels": "n_radius_levels"},
    "FiniteScalarQuantizer": {
        "levels": "n_levels",
        "bound": "squash",
        "formula": "squash_formula",
    },
    "ScaledQuantizer": {"scale": "scaling", "scale_bits": "n_scale_bits"},
    "SphericalQuantizer": {"radius_levels": "n_radius_levels"},
    "TrellisQuantizer": {"levels": "alphabets"},
    "UniformQuantizer": {
        "feature_range": "clip_range",
        "feature_range_": "clip_range_",
        "density": "feature_distribution",
        "ends": "range_ends",
    },
}


class Old(NamedTuple):
    """A name that still works, and the version in which it goes."""

    name: str
    removal: tuple[int, int]


# All that were declared by what has been imported.
DECLARED: list[Old] = []


def with_new_names(cls: type[Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of an estimator under the names that it has today.

    Parameters
    ----------
    cls : type
        Its class, or one that inherits from it.
    state : mapping
        Parameters and attributes, as a file or a pickle has them.

    Returns
    -------
    state : dict
        Without parameters that are gone.
    """
    old: dict[str, str | None] = {}
    for base in reversed(cls.__mro__):
        old |= IN_FILES.get(base.__name__, {})
        old |= vars(base).get("_renamed_parameters", {})
    if not old.keys() & state.keys():
        return dict(state)
    # A class of a user's may have a parameter of such a name.
    own = set(cls._get_param_names())
    found = {}
    for name, value in state.items():
        new = name if name in own else old.get(name, name)
        if new is not None:
            found[new] = value
    return found


def renamed(since: str, **names: str | None) -> Callable[[F], F]:
    """Let old names of parameters work for two minor versions.

    Parameters
    ----------
    since : str
        The first version that has the new names, such as "0.3".
    **names : str or None
        By old name the new one; None: it is gone, and its value has no effect.

    Returns
    -------
    decorate : callable
        For a function; or for an estimator's class, whose constructor, `set_params` and
        attributes then take the old names as well.
    """

    def decorate(target: F) -> F:
        if not inspect.isclass(target):
            return _translating(target, names, since, target.__qualname__)
        cls: Any = target
        for method in ("__init__", "set_params"):
            made = _translating(getattr(cls, method), names, since, cls.__name__)
            setattr(cls, method, made)
        for old, new in names.items():
            if new is not None:
                setattr(cls, old, RenamedAttribute(new, since, old))
        cls._renamed_parameters = names
        return target

    for old in names:
        DECLARED.append(Old(old, removal(since)))
    return decorate


def _translating(
    function: Any, names: Mapping[str, str | None], since: str, owner: str
) -> Any:
    """Return a function that takes old names of its keywords, and warns of them."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for old in names.keys() & kwargs.keys():
            new, value = names[old], kwargs.pop(old)
            _warn(f"The parameter {old} of {owner}", new, since)
            if new in kwargs:
                raise TypeError(
                    f"{owner} got {old}={value!r} and {new}={kwargs[new]!r}, which are "
                    f"the same parameter: give {new} alone."
                )
            if new is not None:
                kwargs[new] = value
        return function(*args, **kwargs)

    return call


class RenamedAttribute:
    """An attribute of an old name, which hands on another one and warns.

    Parameters
    ----------
    new : str
        Its name today.
    since : str
        The first version that has it.
    declared : str, optional
        The old name, where that has been declared before.
    """

    def __init__(self, new: str, since: str, declared: str | None = None) -> None:
        self._new, self._since, self._old = new, since, declared

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._old = name
        DECLARED.append(Old(f"{owner.__name__}.{name}", removal(self._since)))

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            return self
        value = getattr(instance, self._new)
        _warn(f"{owner.__name__}.{self._old}", self._new, self._since)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        _warn(f"{type(instance).__name__}.{self._old}", self._new, self._since)
        setattr(instance, self._new, value)


def renamed_function(function: F, old: str, since: str) -> F:
    """Return a function under its old name.

    Parameters
    ----------
    function : callable
        The function under its new name.
    old : str
        The old name.
    since : str
        The first version that has the new one.

    Returns
    -------
    function : callable
        One that warns, and then does the same.
    """
    DECLARED.append(Old(old, removal(since)))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _warn(f"{old}()", function.__name__, since)
        return function(*args, **kwargs)

    result: Any = call
    result.__name__ = old
    return result


def removal(since: str) -> tuple[int, int]:
    """Return the version in which a name goes that is old since another one.

    Examples
    --------
    >>> removal("0.3")
    (0, 5)
    """
    major, minor = map(int, since.split(".")[:2])
    return major, minor + 2


def overdue(declared: list[Old], version: str) -> list[str]:
    """Return the old names that a version should no longer have.

    Parameters
    ----------
    declared : list of Old
        Names that still work.
    version : str
        The version; one in development counts as the version that it leads to.

    Examples
    --------
    >>> overdue([Old("levels", (0, 5)), Old("bound", (0, 6))], "0.5.0.dev0")
    ['levels']
    """
    major, minor = map(int, version.split(".")[:2])
    return [name for name, gone in declared if gone <= (major, minor)]


def _warn(what: str, new: str | None, since: str) -> None:
    """Warn whoever has called what calls this."""
    gone = ".".join(map(str, removal(since)))
    instead = "has no effect any more" if new is None else f"is {new}"
    warnings.warn(
        f"{what} {instead} since skvq {since}; the old name goes in {gone}.",
        FutureWarning,
        stacklevel=3,
    )
