"""Schemes in a few characters: ``pq:8x256``, ``pca:24+rq:4x256,beam_size=8``.

::

    SPEC   = { STEP "+" } SCHEME
    STEP   = NAME [ ":" SIZES ] { "," PARAMETER "=" VALUE }
    SCHEME = NAME [ ":" SIZES ] { "," PARAMETER "=" VALUE }

Parameters have the names that they have in the estimator.  Their values are written as
in Python; words need no quotes, and true, false and none no capital.  A scheme inside a
scheme stands in parentheses: ``pq:4x(fsq:8,8)``.  A further scheme is a further line
in `SCHEMES`.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import sklearn.decomposition
import sklearn.preprocessing
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline

import skvq
from skvq._cli.console import CommandError, first_line
from skvq._compat import validate_parameter_constraints
from skvq._deprecation import old_parameters


class SpecError(CommandError):
    """A specification that cannot be read, and what would be accepted."""


@dataclass(frozen=True)
class Entry:
    """What a name stands for.

    Parameters
    ----------
    name : str
        The name.
    estimator : str
        Class in the module.
    sizes : str
        How its sizes are written.
    read : callable
        Turns the sizes, a list of str, into parameters.
    fixed : mapping of str to object, optional
        Parameters that are others than the class has by default.
    part : str, optional
        Class in skvq of the part that it stands in front of, whose parameters are
        written as if they were its own.
    module : module, optional
        Where the class is.
    """

    name: str
    estimator: str
    sizes: str
    read: Callable[[list[str]], dict[str, Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    module: Any = skvq

    @property
    def usage(self) -> str:
        """How it is written."""
        return f"{self.name}[:{self.sizes}]" if self.sizes else self.name

    def make(self, arguments: Mapping[str, Any]) -> Any:
        """Return the estimator.

        Parameters
        ----------
        arguments : mapping
            Its parameters.
        """
        make, given = getattr(self.module, self.estimator), {**self.fixed, **arguments}
        if not self.part:
            return make(**given)
        own = {*make().get_params(deep=False), *old_parameters(make)} - {"quantizer"}
        part = {name: given[name] for name in given if name not in own}
        quantizer = getattr(self.module, self.part)(**part)
        return make(quantizer, **{name: given[name] for name in given if name in own})

    @property
    def accepted(self) -> list[str]:
        """Names of the parameters."""
        made = self.make({})
        names = list(made.get_params(deep=False))
        if not self.part:
            return names
        own = [name for name in names if name != "quantizer"]
        return [
            *own,
            *(n for n in made.quantizer.get_params(deep=False) if n not in own),
        ]

    @property
    def old(self) -> set[str]:
        """Old names of parameters, of which the estimator warns."""
        made = self.make({})
        parts = (made, made.quantizer) if self.part else (made,)
        return {name for each in parts for name in old_parameters(type(each))}

    def constraints(self, parameter: str) -> list[Any]:
        """Return what a parameter is constrained to.

        Parameters
        ----------
        parameter : str
            Its name.
        """
        made = self.make({})
        for each in (made, made.quantizer) if self.part else (made,):
            if parameter in each._parameter_constraints:
                return each._parameter_constraints[parameter]
        return []


# -- sizes -------------------------------------------------------------------------


def _none(sizes: list[str]) -> dict[str, Any]:
    if sizes:
        raise ValueError("it takes no sizes")
    return {}


def _one(parameter: str) -> Callable[[list[str]], dict[str, Any]]:
    """One number."""

    def read(sizes: list[str]) -> dict[str, Any]:
        if len(sizes) > 1:
            raise ValueError("it takes one size")
        return {parameter: _integer(sizes[0])} if sizes else {}

    return read


def _each(parameter: str) -> Callable[[list[str]], dict[str, Any]]:
    """One number for all columns, or one for each."""

    def read(sizes: list[str]) -> dict[str, Any]:
        numbers = [_integer(size) for size in sizes]
        if not numbers:
            return {}
        return {parameter: numbers[0] if len(numbers) == 1 else numbers}

    return read


def _tables(
    parts: str, *, of_schemes: bool = True
) -> Callable[[list[str]], dict[str, Any]]:
    """``M``, ``MxV``, ``V1,V2,...``, or, of schemes, ``Mx(SCHEME)``."""

    def read(sizes: list[str]) -> dict[str, Any]:
        if len(sizes) > 1:
            numbers = [_integer(size) for size in sizes]
            return {parts: len(numbers), "n_codewords": numbers}
        if not sizes:
            return {}
        number, times, what = sizes[0].partition("x")
        found: dict[str, Any] = {parts: _integer(number)}
        if times and what.startswith("(") and of_schemes:
            found["quantizer"] = _nested(what)
        elif times:
            found["n_codewords"] = _integer(what)
        return found

    return read


def _inner(sizes: list[str]) -> dict[str, Any]:
    """``(SCHEME)``."""
    if not sizes:
        return {}
    if len(sizes) > 1 or not sizes[0].startswith("("):
        raise ValueError("it takes one scheme, in parentheses")
    return {"quantizer": _nested(sizes[0])}


def _integer(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"'{text}' is not a size")
    return int(text)


# -- the registry ------------------------------------------------------------------

_TABLES = "M | MxV | V1,V2,... | Mx(SCHEME)"
_LEVELS = "L | L1,L2,..."

SCHEMES = [
    Entry("vq", "VectorQuantizer", "V", _one("n_codewords")),
    Entry("pq", "ProductQuantizer", _TABLES, _tables("n_subspaces")),
    Entry(
        "rq",
        "ResidualQuantizer",
        _TABLES,
        _tables("n_stages"),
    ),
    Entry(
        "opq",
        "RotatedQuantizer",
        _TABLES,
        _tables("n_subspaces"),
        fixed={"rotation": "learned"},
        part="ProductQuantizer",
    ),
    Entry(
        "aq",
        "AdditiveQuantizer",
        "M | MxV | V1,V2,...",
        _tables("n_codebooks", of_schemes=False),
    ),
    Entry(
        "kronecker",
        "KroneckerQuantizer",
        "V | V1,V2,...",
        _each("n_codewords"),
    ),
    Entry(
        "multiscale",
        "MultiScaleQuantizer",
        "V",
        _one("n_codewords"),
    ),
    Entry(
        "uniform",
        "UniformQuantizer",
        _LEVELS,
        _each("n_levels"),
    ),
    Entry(
        "step",
        "UniformQuantizer",
        "B",
        _one("target_bits"),
        fixed={"target_bits": 64},
    ),
    Entry(
        "tcq",
        "TrellisQuantizer",
        "R | R1,R2,...",
        _each("n_bits"),
    ),
    Entry("fsq", "FiniteScalarQuantizer", _LEVELS, _each("n_levels")),
    Entry("spherical", "SphericalQuantizer", _LEVELS, _each("n_levels")),
    Entry("binary", "BinaryQuantizer", "", _none),
    Entry("rotated", "RotatedQuantizer", "(SCHEME)", _inner),
    Entry("scaled", "ScaledQuantizer", "(SCHEME)", _inner),
]

# Steps before the scheme; each has a way back.
STEPS = [
    Entry("pca", "PCA", "K", _one("n_components"), module=sklearn.decomposition),
    *(
        Entry(name, estimator, "", _none, module=sklearn.preprocessing)
        for name, estimator in [
            ("standard", "StandardScaler"),
            ("robust", "RobustScaler"),
            ("minmax", "MinMaxScaler"),
            ("maxabs", "MaxAbsScaler"),
        ]
    ),
]


def by_name(entries: list[Entry]) -> dict[str, Entry]:
    """Return entries by name.

    Parameters
    ----------
    entries : list of Entry
        `SCHEMES` or `STEPS`.
    """
    return {entry.name: entry for entry in entries}


def usage() -> str:
    """Return what can be written, for the help."""
    schemes = "\n".join(f"  {entry.usage}" for entry in SCHEMES)
    steps = ", ".join(entry.usage for entry in STEPS)
    return (
        "schemes, with M tables of V codewords, or L levels for each feature:\n"
        f"{schemes}\n"
        f"\nsteps before them, joined with +: {steps}\n"
        "\nParameters of the estimator follow after commas, by their names and with "
        "values as\nin Python, words without quotes: vq:1024,learning=ema  "
        "'kronecker:16,factor_sizes=(8,8)'\nWhat is inside a scheme is in parentheses: "
        "'pca:24+pq:8x(vq:256,max_iter=50)'\n"
    )


# -- reading -----------------------------------------------------------------------


def build(text: str, seed: int | None) -> Any:
    """Return the estimator that a specification stands for, unfitted.

    Parameters
    ----------
    text : str
        The specification.
    seed : int or None
        Set as `random_state` of every step that has one, where the specification does
        not.

    Returns
    -------
    estimator : quantizer or Pipeline
        A pipeline if there are steps before the scheme.

    Raises
    ------
    SpecError
        If it cannot be read; the message says what would be accepted.
    """
    *before, last = split_steps(text)
    try:
        steps = [_component(step, STEPS, "step", seed) for step in before]
        quantizer = _component(last, SCHEMES, "scheme", seed)
    except (RecursionError, MemoryError) as error:
        raise SpecError(
            f"cannot read '{text[:40]}...': its brackets or signs are too deep in each "
            "other"
        ) from error
    return make_pipeline(*steps, quantizer) if steps else quantizer


def split_steps(text: str) -> list[str]:
    """Cut a specification at its plus signs.

    Parameters
    ----------
    text : str
        The specification.

    Returns
    -------
    steps : list of str
        The last is the scheme.
    """
    return [step.strip() for step in _split(text, "+")]


def _component(text: str, entries: list[Entry], kind: str, seed: int | None) -> Any:
    name, sizes, settings = _parts(text)
    entry = _entry(name, entries, kind)
    try:
        arguments = entry.read(sizes)
    except ValueError as error:
        expected = entry.usage if entry.sizes else f"'{name}' alone"
        raise SpecError(
            f"cannot read '{text}': {error}; expected {expected}"
        ) from error
    accepted = entry.accepted
    for key, value in settings:
        if key not in accepted and key not in entry.old:
            raise SpecError(
                f"{name} has no parameter '{key}', as in '{key}={value}'"
                f"{_did_you_mean(key, accepted)}; it has {', '.join(accepted)}"
            )
        if key in arguments:
            raise SpecError(f"'{text}' says twice what {key} is")
        if key == "quantizer":
            arguments[key] = _nested_ones(value)
        else:
            # What is one of the parameter's words is no other value.
            word = value in _words(entry.constraints(key))
            arguments[key] = value if word else _value(value)
    if "random_state" in accepted:
        arguments.setdefault("random_state", seed)
    return _checked(entry.make(arguments), text)


def _entry(name: str, entries: list[Entry], kind: str) -> Entry:
    known = by_name(entries)
    if name in known:
        return known[name]
    by_class = {entry.estimator.lower(): entry.name for entry in entries}
    near = _near(name, [*known, *by_class])
    near = list(dict.fromkeys(by_class.get(found, found) for found in near))
    message = f"unknown {kind} '{name}'{_question(near)}; known: {', '.join(known)}"
    if kind == "scheme" and name in by_name(STEPS):
        message += f"; {name} is a step, which comes before one"
    if kind == "step" and name in by_name(SCHEMES):
        message += f"; {name} is a scheme, which comes last"
    raise SpecError(message)


def _parts(text: str) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Return name, sizes, and names and values of parameters."""
    head, *items = _split(text, ",")
    name, colon, first = head.partition(":")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise SpecError(
            f"cannot read '{text}'; expected NAME[:SIZES][,PARAMETER=VALUE...], "
            f"such as pq:8x256"
        )
    sizes, settings = ([first] if colon else []), []
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if equals and key.isidentifier():
            settings.append((key, value))
        elif colon and not settings:
            sizes.append(item)
        else:
            raise SpecError(
                f"cannot read '{item}' in '{text}'; expected PARAMETER=VALUE"
            )
    return name, sizes, settings


def _split(text: str, separator: str) -> Iterator[str]:
    """Cut a text at a separator, but not within brackets or quotes, nor 1e+5."""
    closing: list[str] = []
    quote, start = "", 0
    for i, character in enumerate(text):
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        elif character in _BRACKETS:
            closing.append(_BRACKETS[character])
        elif character in _BRACKETS.values():
            if not closing or closing.pop() != character:
                raise SpecError(f"the parentheses in '{text}' do not match")
        elif character == separator and not closing:
            if separator == "+" and re.search(r"[0-9]e$", text[:i]):
                continue
            yield text[start:i]
            start = i + 1
    if closing or quote:
        what = "quotes" if quote else "parentheses"
        raise SpecError(f"the {what} in '{text}' do not match")
    yield text[start:]


_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def _words(constraints: list[Any]) -> set[str]:
    return set().union(*(getattr(item, "options", ()) for item in constraints))


_CONSTANTS = {"true": True, "false": False, "none": None}


def _value(text: str) -> Any:
    """Read a value: as in Python, a word without quotes, or a (scheme)."""
    text = text.strip()
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    if text.startswith(("(", "[")):
        return _several(text)
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


def _several(text: str) -> Any:
    """Read a (scheme), or what is in (parentheses) or [brackets]."""
    inner = text[1:-1]
    if text[0] == "(" and re.split("[^a-z]", inner, maxsplit=1)[0] in by_name(SCHEMES):
        return _nested(text)
    items = list(_split(inner, ","))
    values = [_value(item) for item in items if item.strip()]
    if text[0] == "[":
        return values
    return values[0] if len(items) == 1 and values else tuple(values)


def _nested(text: str) -> Any:
    """Read a scheme, in parentheses or not; its seed comes from the outer one."""
    inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return _component(inner, SCHEMES, "scheme", None)


def _nested_ones(text: str) -> Any:
    """Read a scheme, a list of schemes in brackets, or none."""
    if text.lower() == "none":
        return None
    if text.startswith("["):
        return [_nested(item.strip()) for item in _split(text[1:-1], ",")]
    return _nested(text)


def _checked(estimator: Any, text: str) -> Any:
    """Let the estimator check its parameters now, before any data is read."""
    for each in (estimator, getattr(estimator, "quantizer", None)):
        if not isinstance(each, BaseEstimator):
            continue
        constraints = each._parameter_constraints
        for name, value in each.get_params(deep=False).items():
            if name not in constraints:
                continue
            try:
                validate_parameter_constraints(
                    {name: constraints[name]},
                    {name: value},
                    caller_name=type(each).__name__,
                )
            except ValueError as error:
                message = f"'{text}': {first_line(error)}"
                if isinstance(value, str):
                    hint = _did_you_mean(value, _words(constraints[name]))
                    message = message.removesuffix(".") + hint if hint else message
                raise SpecError(message) from error
    return estimator


# -- near names --------------------------------------------------------------------


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    return _question(_near(name, known))


def _question(near: list[str]) -> str:
    if not near:
        return ""
    return f"; did you mean {' or '.join(repr(name) for name in near)}?"


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of the known names: those with it as a word, or alike."""
    name, known = name.lower(), sorted(known)
    words = [other for other in known if name in other.split("_")]
    return list(dict.fromkeys([*words, *get_close_matches(name, known)]))[:3]
