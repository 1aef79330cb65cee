"""Write down every public name of skvq, with what it takes, in ``current.txt``.

``python tests/interface/write.py`` from the root of the repository.  A test compares
the file with the code, so that no public name changes unseen.  One line stands for each

- module and name: ``skvq.codes.pack(codes, sizes, *, method='columns')``;
- parameter of a constructor: ``skvq.VectorQuantizer(1: n_codewords=256)`` may stand
  first without its name, ``skvq.VectorQuantizer(metric='sqeuclidean')`` may not;
- method, and attribute: ``skvq.VectorQuantizer.codebooks_``;
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
from typing import Any

import skvq
from skvq.__main__ import _parser
from skvq._cli.schemes import SCHEMES, STEPS

FOLDER = Path(__file__).parent
CURRENT, RELEASED = FOLDER / "current.txt", FOLDER / "released.txt"
# Documented names of modules without `__all__`.
ALONE = (
    "skvq.base.BaseQuantizer",
    "skvq.binary.hamming_distances",
    "skvq.finite.recommended_levels",
    "skvq.sphere.from_spherical",
    "skvq.sphere.to_spherical",
)


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
    named = [
        f"{module}.{name}"
        for module in modules()
        for name in importlib.import_module(module).__all__
    ]
    return sorted({*named, *ALONE})


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
        yield name + _signature(value)
    else:
        yield name


def _of_class(name: str, cls: type[Any]) -> Iterator[str]:
    for attribute in attributes(cls):
        yield f"{name}.{attribute}"
    if not issubclass(cls, BaseException):
        place = 0
        for parameter in inspect.signature(cls).parameters.values():
            place += parameter.kind is not parameter.KEYWORD_ONLY
            by_place = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            yield f"{name}({f'{place}: ' if by_place else ''}{_plain(parameter)})"
    for member in dir(cls):
        if member.startswith("_"):
            continue
        value = getattr(cls, member)
        if isinstance(value, (property, cached_property)):
            getter = value.fget if isinstance(value, property) else value.func
            if _is_own(getter):
                yield f"{name}.{member}"
        elif inspect.isroutine(value) and _is_own(value):
            yield f"{name}.{member}{_signature(value)}"


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
    """Return the names that have changed, and that a changelog does not have.

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
    section = re.search(r"^## Unreleased$(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    told = "" if section is None else section[1]
    changed = set(released) ^ set(current)
    names = {last_name(line) for line in changed}
    return sorted(n for n in names if not re.search(rf"(?<!\w){re.escape(n)}\b", told))


def last_name(line: str) -> str:
    """Return the name that a line is about, without its class or module.

    Examples
    --------
    >>> last_name("skvq.VectorQuantizer(1: n_codewords=256)")
    'n_codewords'
    >>> last_name("skvq.codes.pack(codes, sizes, *, method='columns')")
    'pack'
    >>> last_name("skvq compare --bits")
    '--bits'
    """
    if line.startswith("skvq "):
        return line.rpartition(" ")[2]
    path, _, within = line.partition("(")
    last = path.rpartition(".")[2]
    # A constructor has its parameters one by one; functions are told as a whole.
    if last[0].isupper() and within:
        return re.sub(r"^\d+: |^\*+|[=)].*$", "", within.partition("=")[0]).strip(")")
    return last


def main() -> None:
    """Write the snapshot."""
    argparse.ArgumentParser(
        description="Write every public name of skvq to tests/interface/current.txt."
    ).parse_args()
    CURRENT.write_text("\n".join(interface()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
