"""Write down every public name of skvq, with what it takes, in ``current.txt``.

``python tests/interface/write.py`` from the root of the repository.  A test compares
the file with the code, so that no public name changes unseen.  One line stands for each

- module and name: ``skvq.codes.pack(codes, sizes, *, method='columns')``;
- parameter of a constructor: ``skvq.VectorQuantizer(1: n_codewords=256)`` may stand
  first without its name, ``skvq.VectorQuantizer(metric='sqeuclidean')`` may not;
- name that an option may have: ``skvq.VectorQuantizer(learning): 'ema'``,
  ``skvq.codes.pack(method): 'columns'``, or that a constant has;
- method, and attribute: ``skvq.VectorQuantizer.codebooks_``;
- class that an error is one of: ``skvq.io.FormatError: ValueError``;
- option and argument of the command line, and scheme that it builds.

What is inherited from scikit-learn is left out, and so are annotations: neither depends
on skvq alone.
"""

import argparse
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import skvq
from skvq import nearest
from skvq.__main__ import _parser
from skvq._cli.schemes import SCHEMES, STEPS
from skvq._compat import StrOptions

FOLDER = Path(__file__).parent
CURRENT, RELEASED = FOLDER / "current.txt", FOLDER / "released.txt"


def modules() -> list[str]:
    """Return the names of the public modules: those that say what they export."""
    found = ["skvq"]
    for module in pkgutil.walk_packages(skvq.__path__, "skvq."):
        name = module.name
        # Compiled libraries look like modules, and one module imports torch.
        if "._" in name or name.endswith(("__main__", ".torch_modules")):
            continue
        if hasattr(importlib.import_module(name), "__all__"):
            found.append(name)
    return found


def public_names() -> list[str]:
    """Return every public name with its module."""
    return sorted(
        f"{module}.{name}"
        for module in modules()
        for name in importlib.import_module(module).__all__
    )


def interface() -> list[str]:
    """Return the lines of the snapshot."""
    found = {*modules(), *_command_line()}
    for name in public_names():
        module, _, last = name.rpartition(".")
        found |= set(_described(name, getattr(importlib.import_module(module), last)))
    return sorted(found)


def attributes(cls: type[Any]) -> list[str]:
    """Return the attributes that the docstring of a class describes."""
    text = inspect.getdoc(cls) or ""
    section = re.search(
        r"^Attributes\n-+\n(.*?)(\n\n[A-Z][\w ]+\n-+\n|\Z)", text, re.M | re.S
    )
    if section is None:
        return []
    described = re.findall(r"^(\w[\w, ]*) : ", section[1], re.M)
    return [one for names in described for one in names.split(", ")]


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield name
        yield from _of_class(name, value)
    elif inspect.isroutine(value):
        yield from _of_function(name, value)
    else:
        yield name
        if isinstance(value, (frozenset, tuple)):
            yield from (f"{name}: {one!r}" for one in value if isinstance(one, str))


def _of_function(name: str, function: Any) -> Iterator[str]:
    yield name + _signature(function)
    for parameter, hint in get_type_hints(function).items():
        if parameter != "return":
            yield from _options_of(name, parameter, _literals(hint))


def _of_class(name: str, cls: type[Any]) -> Iterator[str]:
    for attribute in attributes(cls):
        yield f"{name}.{attribute}"
    if issubclass(cls, BaseException):
        for base in cls.__mro__[1:]:
            if base not in (BaseException, object):
                yield f"{name}: {base.__name__}"
    else:
        yield from _of_constructor(name, cls)
    for member in dir(cls):
        if member.startswith("_"):
            continue
        value = getattr(cls, member)
        if isinstance(value, (property, cached_property)):
            getter = value.fget if isinstance(value, property) else value.func
            if _is_own(getter):
                yield f"{name}.{member}"
        elif inspect.isroutine(value) and _is_own(value):
            yield from _of_function(f"{name}.{member}", value)


def _of_constructor(name: str, cls: Any) -> Iterator[str]:
    place = 0
    for parameter in inspect.signature(cls).parameters.values():
        place += parameter.kind is not parameter.KEYWORD_ONLY
        by_place = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        yield f"{name}({f'{place}: ' if by_place else ''}{_plain(parameter)})"
    # What an estimator checks, and what others say that they take.
    checked = getattr(cls, "_parameter_constraints", None)
    if checked is None:
        hints = get_type_hints(cls.__init__)
        options = {name: _literals(hint) for name, hint in hints.items()}
    else:
        options = {name: _words(items) for name, items in checked.items()}
    for parameter, words in options.items():
        yield from _options_of(name, parameter, words)


def _words(constraints: Any) -> set[str]:
    """Return the texts that constraints of scikit-learn's kind name."""
    # Which metrics there are, another check tells.
    found = set(nearest.METRICS) if str in constraints else set()
    given = [one.options for one in constraints if isinstance(one, StrOptions)]
    return found.union(*given)


def _literals(hint: Any) -> set[str]:
    """Return the texts that an annotation names."""
    if get_origin(hint) is Literal:
        return {one for one in get_args(hint) if isinstance(one, str)}
    return set().union(*map(_literals, get_args(hint)))


def _options_of(name: str, parameter: str, words: set[str]) -> Iterator[str]:
    yield from (f"{name}({parameter}): {word!r}" for word in words)


def _is_own(value: Any) -> bool:
    """Return whether a function is of skvq, and not inherited from a library."""
    return (getattr(value, "__module__", None) or "").startswith("skvq")


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    kept = [
        parameter.replace(annotation=parameter.empty, default=_default(parameter))
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    plain = signature.replace(parameters=kept, return_annotation=signature.empty)
    return str(plain)


class _Written:
    """A default as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _default(parameter: inspect.Parameter) -> Any:
    # The repr of a dtype's class depends on the platform and on NumPy.
    value = parameter.default
    if isinstance(value, type) and value is not parameter.empty:
        return _Written(f"np.{value.__name__}")
    return value


def _plain(parameter: inspect.Parameter) -> str:
    default = _default(parameter)
    return str(parameter.replace(annotation=parameter.empty, default=default))


def _command_line() -> Iterator[str]:
    yield from (f"skvq scheme {entry.name}" for entry in SCHEMES)
    yield from (f"skvq step {entry.name}" for entry in STEPS)
    yield from _options("skvq", _parser())


def _options(program: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"{program} {name}"
                yield from _options(f"{program} {name}", command)
            continue
        for written in action.option_strings or [action.dest]:
            yield f"{program} {written}"


# -- what a release has to tell --------------------------------------------------------


def lines_of(text: str) -> list[str]:
    """Return the lines of a stored snapshot, without comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def untold(released: list[str], current: list[str], changelog: str) -> list[str]:
    """Return what has changed and no entry of a changelog tells, by its names.

    An entry tells of a change if it has all its names as code: the class and the
    parameter, the module and the function, and of a value the value as well.  Of what
    is new or gone as a whole its own name is enough, and of what has changed alike in
    all estimators that of `BaseQuantizer` in place of theirs.

    Parameters
    ----------
    released : list of str
        Lines of the last release; if there was none, nothing has to be told.
    current : list of str
        Today's lines.
    changelog : str
        Its text; of which the section "Unreleased" counts.
    """
    if not released:
        return []
    entries = _code_of_entries(changelog)
    before, now = set(released), set(current)
    which = [{names_of(line) for line in lines} for lines in (before, now)]
    alike = _changed_in_all(before, now)
    found = set()
    for line in before ^ now:
        names = names_of(line)
        starts = [names[:end] for end in range(1, len(names))]
        whole = [
            start for start in starts if (start in which[0]) != (start in which[1])
        ]
        ways = [min([*whole, names], key=len)]
        if _without_estimator(line) in alike:
            ways.append(("BaseQuantizer", *ways[0][1:]))
        told = (all(_has(code, one) for one in way) for way in ways for code in entries)
        if not any(told):
            found.add(" with ".join(f"`{name}`" for name in ways[-1]))
    return sorted(found)


def given_up(released: list[str], current: list[str], declared: list[str]) -> list[str]:
    """Return the names that are gone since a release, and do not warn.

    Commands, schemes and steps of the command line have no old names.

    Parameters
    ----------
    released, current : list of str
        Lines of the last release, and of today.
    declared : list of str
        Old names that still work, as `skvq._deprecation.DECLARED` has them.
    """
    before, now = ({names_of(line) for line in lines} for lines in (released, current))
    lines = {names_of(line): line for line in released}
    gone = set()
    for names in before - now:
        of_commands = lines[names].startswith("skvq ") and names[-1][:2] != "--"
        is_inside = any(names[:end] in before - now for end in range(1, len(names)))
        if not of_commands and not is_inside:
            gone.add(names[-1].rpartition(".")[2])
    return sorted(gone - set(re.findall(r"[\w-]+", " ".join(declared))))


def names_of(line: str) -> tuple[str, ...]:
    """Return the names that a line is about, the larger first.

    Examples
    --------
    >>> names_of("skvq.VectorQuantizer(1: n_codewords=256)")
    ('VectorQuantizer', 'n_codewords')
    >>> names_of("skvq.VectorQuantizer(learning): 'ema'")
    ('VectorQuantizer', 'learning', 'ema')
    >>> names_of("skvq.codes.pack(codes, sizes, *, method='columns')")
    ('codes.pack',)
    >>> names_of("skvq compare --bits")
    ('compare', '--bits')
    >>> names_of("skvq scheme pq")
    ('pq',)
    """
    if " " in line and line.startswith("skvq "):
        words = line.split()[1:]
        return tuple(words[words[0] in ("scheme", "step") :])
    path, inner, value = re.fullmatch(
        r"([\w.]+)(?:\((.*)\))?(?:: (.*))?", line
    ).groups()
    parts = path.split(".")
    # From the class on; what is in no class goes by its module and name.
    place = next((i for i, part in enumerate(parts) if part[0].isupper()), None)
    names = [".".join(parts[1:]) or path] if place is None else parts[place:]
    if value is not None:
        names += [inner] if inner else []
        names.append(value.strip("'"))
    elif inner and place == len(parts) - 1:  # of a constructor
        names.append(re.match(r"(?:\d+: )?\**(\w+)", inner)[1])
    return tuple(names)


def _code_of_entries(changelog: str) -> list[str]:
    """Return what stands as code in each entry of "Unreleased"."""
    section = re.search(r"^## Unreleased$(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    entries = re.split(r"^(?:- |#)", "" if section is None else section[1], flags=re.M)
    joined = (" ".join(entry.split()) for entry in entries)
    return [" | ".join(re.findall(r"`+([^`]+)`+", entry)) for entry in joined]


def _has(code: str, name: str) -> bool:
    # `skvq.codes.pack` is codes.pack; `mycodes.pack` and `codes.packed` are not.
    before = r"(?<![\w.])(?:skvq\.)?" if "." in name else r"(?<![\w-])"
    return re.search(rf"{before}{re.escape(name)}(?![\w-])", code) is not None


def _changed_in_all(before: set[str], now: set[str]) -> set[str]:
    """Return what has changed in the same way in all estimators that have it."""
    kept = {_without_estimator(line) for line in before & now}
    changed = [_without_estimator(line) for line in before ^ now]
    common = {one for one in changed if changed.count(one) > 2}
    return common - kept - {""}


def _without_estimator(line: str) -> str:
    found = re.fullmatch(r"skvq\.(?:base\.)?[A-Z]\w+([.(].*)", line)
    return found[1] if found else ""


def main() -> None:
    """Write the snapshot."""
    argparse.ArgumentParser(
        description="Write every public name of skvq to tests/interface/current.txt."
    ).parse_args()
    CURRENT.write_text("\n".join(interface()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
