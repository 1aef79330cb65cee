"""Names that have changed: in files for good, and for users for two minor versions.

What is renamed gets its new name everywhere, and keeps the old one by a line here:

=====================  ===============================================================
a parameter            ``@renamed("0.3", old="new")`` above its class or function, and
                       a line of `IN_FILES`; None in place of "new": it is gone, and
                       has no effect
a value of it          ``@renamed_values("0.3", parameter={"old": "new"})`` in the same
                       place, and a line of `VALUES_IN_FILES`
an attribute, or a     ``old_ = RenamedAttribute("new_", "0.3")`` in the class; a line
method                 of `IN_FILES` for an attribute
a function, or a       ``__getattr__ = old_names(__name__, "0.3", old="skvq.io.new")``
class                  in its module; `BY_NAME` of `_codec.classes` reads the old name
                       of a class for good
a module               its file stays, with such a line and no more
an option of `skvq`    ``add_old_option(parser, "--old", new_action, "0.3")``, in
                       `_cli.console`
=====================  ===============================================================

Each warns with a FutureWarning, on the command line with a line on stderr, which names
the version in which the old name goes: two minor versions after the one given.  From
then on a test fails until the old name is gone; lines about files stay.
"""

import functools
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from skvq._checks import users_level

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

# By class and parameter, the values that were renamed, in the same way.
VALUES_IN_FILES: dict[str, Mapping[str, Mapping[str, str]]] = {}


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
    old_values: dict[str, Mapping[str, str]] = {}
    for base in reversed(cls.__mro__):
        old |= IN_FILES.get(base.__name__, {})
        old |= _renamed_parameters(base)
        old_values |= VALUES_IN_FILES.get(base.__name__, {})
        old_values |= vars(base).get("_renamed_values", {})
    # A class of a user's may have a parameter of such a name.
    own = set(cls._get_param_names()) if old.keys() & state.keys() else set()
    found = {}
    for name, value in state.items():
        new = name if name in own else old.get(name, name)
        if new is not None:
            found[new] = _new_value(value, old_values.get(new, {}))
    return found


def _new_value(value: Any, values: Mapping[str, str]) -> Any:
    # Others than texts, arrays among them, are never names.
    return values.get(value, value) if isinstance(value, str) else value


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
        declare(old, since)
    return decorate


def old_parameters(cls: type[Any]) -> set[str]:
    """Return the old names that the constructor of an estimator takes."""
    return {old for base in cls.__mro__ for old in _renamed_parameters(base)}


def _renamed_parameters(base: type[Any]) -> Mapping[str, str | None]:
    found: Mapping[str, str | None] = vars(base).get("_renamed_parameters", {})
    return found


def _translating(
    function: Any, names: Mapping[str, str | None], since: str, owner: str
) -> Any:
    """Return a function that takes old names of its keywords, and warns of them."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for old in names.keys() & kwargs.keys():
            new, value = names[old], kwargs.pop(old)
            warn_of_old(f"The parameter {old} of {owner}", new, since)
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
        declare(f"{owner.__name__}.{name}", self._since)

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            return self
        value = getattr(instance, self._new)
        warn_of_old(f"{owner.__name__}.{self._old}", self._new, self._since)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        warn_of_old(f"{type(instance).__name__}.{self._old}", self._new, self._since)
        setattr(instance, self._new, value)


def renamed_values(since: str, **values: Mapping[str, str]) -> Callable[[F], F]:
    """Let old values of parameters work for two minor versions.

    Parameters
    ----------
    since : str
        The first version that has the new values, such as "0.3".
    **values : mapping of str to str
        By parameter, and by old value, the new one.

    Returns
    -------
    decorate : callable
        For a function; or for an estimator's class, whose parameters then take the old
        values wherever they are set, and have the new ones.
    """

    def decorate(target: F) -> F:
        if not inspect.isclass(target):
            return _translating_values(target, values, since)
        cls: Any = target
        for parameter, news in values.items():
            setattr(cls, parameter, _RenamedValues(parameter, news, since))
        cls._renamed_values = values
        return target

    for parameter, news in values.items():
        for old in news:
            declare(f"{parameter}={old!r}", since)
    return decorate


def _translating_values(
    function: Any, values: Mapping[str, Mapping[str, str]], since: str
) -> Any:
    """Return a function that takes old values, by name or by place, and warns."""
    places = list(inspect.signature(function).parameters)
    owner = function.__qualname__

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        for parameter, news in values.items():
            place = places.index(parameter)
            if parameter in kwargs:
                value = kwargs[parameter]
                kwargs[parameter] = _told_value(owner, parameter, value, news, since)
            elif place < len(given):
                value = given[place]
                given[place] = _told_value(owner, parameter, value, news, since)
        return function(*given, **kwargs)

    return call


def _told_value(
    owner: str, parameter: str, value: Any, news: Mapping[str, str], since: str
) -> Any:
    new = _new_value(value, news)
    if new is not value:
        warn_of_old(f"{parameter}={value!r} of {owner}", repr(new), since)
    return new


class _RenamedValues:
    """A parameter of an estimator that takes old values, and keeps the new ones.

    It stands between the attribute and the dict of the estimator, so that constructor,
    `set_params` and assignments are translated alike, and `clone` finds what it set.
    """

    def __init__(self, name: str, values: Mapping[str, str], since: str) -> None:
        self._name, self._values, self._since = name, values, since

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            return self
        try:
            return vars(instance)[self._name]
        except KeyError:
            raise AttributeError(
                f"{owner.__name__!r} object has no attribute {self._name!r}",
                name=self._name,
                obj=instance,
            ) from None

    def __set__(self, instance: Any, value: Any) -> None:
        owner = type(instance).__name__
        new = _told_value(owner, self._name, value, self._values, self._since)
        vars(instance)[self._name] = new


def old_names(module: str, since: str, **names: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that has had other names.

    Parameters
    ----------
    module : str
        Its name.
    since : str
        The first version that has the new names.
    **names : str
        By old name the new one, with its module.

    Returns
    -------
    find : callable
        Gives functions, classes and modules for their old names, and warns; so that
        objects and subclasses made of them are of the new class.
    """
    for old in names:
        declare(f"{module}.{old}", since)

    def find(name: str) -> Any:
        if name not in names:
            message = f"module {module!r} has no attribute {name!r}"
            raise AttributeError(message, name=name)
        warn_of_old(f"{module}.{name}", names[name], since)
        return pkgutil.resolve_name(names[name])

    return find


def declare(old: str, since: str) -> None:
    """Note down an old name that works, for the test that asks when it has to go."""
    DECLARED.append(Old(old, removal(since)))


def removal(since: str) -> tuple[int, int]:
    """Return the version in which a name goes that is old since another one.

    Examples
    --------
    >>> removal("0.3")
    (0, 5)
    """
    major, minor = map(int, since.split(".")[:2])
    return major, minor + 2


def warn_of_old(what: str, new: str | None, since: str) -> None:
    """Warn the user, at the user's line, of an old name.

    Parameters
    ----------
    what : str
        The old name, and of what it is one.
    new : str or None
        The new name; None: there is none.
    since : str
        The first version that has it.
    """
    warnings.warn(message_of_old(what, new, since), FutureWarning, users_level())


def message_of_old(what: str, new: str | None, since: str) -> str:
    """Return what a user is told of an old name.

    Examples
    --------
    >>> message_of_old("skvq fit --state", "--seed", "0.3")
    'skvq fit --state is --seed since skvq 0.3; the old name goes in 0.5.'
    """
    gone = ".".join(map(str, removal(since)))
    instead = "has no effect any more" if new is None else f"is {new}"
    return f"{what} {instead} since skvq {since}; the old name goes in {gone}."
