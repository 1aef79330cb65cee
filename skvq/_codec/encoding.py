"""Fitted estimators as plain values, tensors and objects of known classes.

An object is the name of its class, which `classes` knows, and a state: attributes by
name.  Objects stand in one list, each after those that it refers to; the last one is
the codec.  An object that several refer to is stored once, and is one object again when
it is read.

None, booleans, strings, ints and finite floats are themselves in JSON, and lists are
lists.  Anything else is an object of one key, which gives its type:

=============  ==================  =====================================================
key            its value           stands for
=============  ==================  =====================================================
``object``     number              that object of the list
``array``      name, and           a tensor, kept transposed where the memory order is
               memory order        Fortran's
``tuple``      list                a tuple
``dict``       object              a dict whose keys are strings
``float``      name                nan, inf or -inf
``scalar``     dtype, value        a number of NumPy's
``dtype``      name                a dtype of numbers
``slice``      start, stop, step   a slice
``strings``    list                a 1-d array of strings, of dtype object
=============  ==================  =====================================================

Everything else, above all code, is refused by naming the attribute.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from skvq._checks import class_name
from skvq._codec.container import DTYPES, dtype_name

State = dict[str, Any]

_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_SCALARS = {dtype.type for dtype in DTYPES.values()}
# The name of the codec in messages.
_ROOT = "codec"
_PLAIN = (type(None), bool, int, str)


class Kind(NamedTuple):
    """How objects of a class are taken apart and put together."""

    name: str  # in files
    cls: type[Any]
    take: Callable[[Any], State]
    # Raises a ValueError, or an error of the class, if a state is not valid.
    make: Callable[[State], Any]


def encode(
    root: Any, kinds: Mapping[type[Any], Kind]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Take an object apart.

    Parameters
    ----------
    root : object
        The codec.
    kinds : mapping of type to Kind
        The kind of each known class.

    Returns
    -------
    objects : list of dict
        Values that JSON can hold.
    arrays : dict of str to ndarray
        The tensors; contiguous.

    Raises
    ------
    TypeError
        If it contains an object of an unknown kind.
    ValueError
        If it is nested too deep.
    """
    encoder = _Encoder(kinds)
    try:
        encoder.object(root, _ROOT)
    except RecursionError:
        raise ValueError("the codec nests too deep for a file") from None
    return encoder.objects, encoder.arrays


class _Encoder:
    """The objects and arrays that have been encoded."""

    def __init__(self, kinds: Mapping[type[Any], Kind]) -> None:
        self._kinds = kinds
        self.objects: list[dict[str, Any]] = []
        self.arrays: dict[str, np.ndarray] = {}
        # By id; the object is kept too, lest another one get its id later.
        self._met: dict[int, tuple[Any, Any]] = {}

    def object(self, value: Any, path: str) -> int:
        """Append an object unless it is there already; return its number."""
        if id(value) in self._met:
            return self._met[id(value)][1]
        kind = self._kinds.get(type(value))
        if kind is None:
            raise TypeError(_why_not(value, path))
        inner = "" if path == _ROOT else f"{path}."
        state = {
            name: self._value(item, f"{inner}{name}")
            for name, item in kind.take(value).items()
        }
        self.objects.append({"class": kind.name, "state": state})
        number = len(self.objects) - 1
        self._met[id(value)] = value, number
        return number

    def _value(self, value: Any, path: str) -> Any:
        if type(value) in _PLAIN:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if type(value) is np.str_:
            return str(value)
        if type(value) in (list, tuple):
            parts = [self._value(item, f"{path}.{i}") for i, item in enumerate(value)]
            return parts if type(value) is list else {"tuple": parts}
        if type(value) is dict and all(type(key) is str for key in value):
            items = {key: self._value(v, f"{path}.{key}") for key, v in value.items()}
            return {"dict": items}
        if type(value) is slice:
            ends = value.start, value.stop, value.step
            return {"slice": [self._value(end, path) for end in ends]}
        if isinstance(value, np.dtype) and dtype_name(value):
            return {"dtype": value.name}
        if type(value) in _SCALARS:
            return {"scalar": [value.dtype.name, self._value(value.item(), path)]}
        if type(value) in (np.ndarray, np.memmap):
            return self._array(value, path)
        return {"object": self.object(value, path)}

    def _array(self, value: np.ndarray, path: str) -> dict[str, Any]:
        if value.dtype == object and value.ndim == 1:
            strings = value.tolist()
            if all(isinstance(item, str) for item in strings):
                return {"strings": [str(item) for item in strings]}
        if dtype_name(value.dtype) is None:
            raise TypeError(
                f"{path} is an array of {value.dtype}, which a codec file cannot hold: "
                "it has room for integers and truth values, and for floats of 16 to "
                "64 bits"
            )
        if id(value) in self._met:
            return self._met[id(value)][1]
        order = "C"
        contiguous = np.asarray(value)
        if value.flags.f_contiguous and not value.flags.c_contiguous:
            order, contiguous = "F", contiguous.T
        contiguous = contiguous.astype(
            value.dtype.newbyteorder("="), order="C", copy=False
        )
        name = _tensor_name(path, self.arrays)
        self.arrays[name] = contiguous
        found = {"array": [name, order]}
        self._met[id(value)] = value, found
        return found


def _tensor_name(path: str, taken: Mapping[str, Any]) -> str:
    """Return a name that tells where a tensor occurs first, as far as names allow."""
    plain = "".join(
        c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in path
    )
    plain = plain[:200]
    name, n = plain, 1
    while name in taken:
        name, n = f"{plain}.{n}", n + 1
    return name


def _why_not(value: Any, path: str) -> str:
    name = class_name(type(value))
    if hasattr(value, "best_estimator_"):
        return f"{path} is a {name}: save its best_estimator_, which is a codec"
    if callable(value):
        return (
            f"{path}={value!r} is code, which a codec file does not hold: use what has "
            "a name, such as metric='manhattan', or keep the estimator with pickle or "
            "joblib, and with the code"
        )
    return (
        f"{path} is an object of {name}, which a codec file does not hold: it has the "
        "quantizers of skvq, and transformers of scikit-learn that keep arrays, such "
        "as StandardScaler and PCA; keep others with pickle or joblib"
    )


# -- the way back ----------------------------------------------------------------------


def decode(
    objects: Any, arrays: Mapping[str, np.ndarray], kinds: Mapping[str, Kind]
) -> Any:
    """Put a codec together.

    Parameters
    ----------
    objects : list of dict
        The result of `encode`, as read from JSON.
    arrays : mapping of str to ndarray
        The tensors.
    kinds : mapping of str to Kind
        The kind of each known class, by its name in files.

    Returns
    -------
    root : object
        The codec.

    Raises
    ------
    ValueError
        If it contains something unknown or invalid.
    """
    if not isinstance(objects, list) or not objects:
        raise ValueError("it has no objects")
    decoder = _Decoder(arrays)
    for entry in objects:
        decoder.add(entry, kinds)
    return decoder.made[-1]


class _Decoder:
    """The objects that have been decoded."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.made: list[Any] = []
        # An array is one object, however many refer to it.
        self._arrays = {
            order: {
                name: array if order == "C" else array.T
                for name, array in arrays.items()
            }
            for order in ("C", "F")
        }
        self._readers: dict[str, Callable[[Any], Any]] = {
            "object": self._object,
            "array": self._array,
            "tuple": lambda items: tuple(map(self._value, _checked(items, list))),
            "dict": lambda items: {
                key: self._value(item) for key, item in _checked(items, dict).items()
            },
            "float": lambda name: _FLOATS[_checked(name, str)],
            "scalar": self._scalar,
            "dtype": _dtype,
            "slice": lambda ends: slice(*map(self._value, _checked(ends, list))),
            "strings": _strings,
        }

    def add(self, entry: Any, kinds: Mapping[str, Kind]) -> None:
        """Decode the next object."""
        if not isinstance(entry, dict) or entry.keys() != {"class", "state"}:
            raise ValueError("an object of it has no class and state")
        name, state = _checked(entry["class"], str), _checked(entry["state"], dict)
        if name not in kinds:
            raise ValueError(
                f"its class {name!r} is not known here; a newer skvq may know it"
            )
        values = {}
        for key, item in state.items():
            if not key.isidentifier() or key.startswith("__"):
                raise ValueError(f"{name} has an attribute {key!r}")
            try:
                values[key] = self._value(item)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{name}.{key}: {error}") from error
        self.made.append(kinds[name].make(values))

    def _value(self, value: Any) -> Any:
        if type(value) in (*_PLAIN, float):
            return value
        if type(value) is list:
            return [self._value(item) for item in value]
        if type(value) is not dict or len(value) != 1:
            raise ValueError("it is not a value")
        ((key, item),) = value.items()
        if key not in self._readers:
            raise ValueError(f"it is of a kind {key!r} that is not known")
        return self._readers[key](item)

    def _object(self, number: Any) -> Any:
        # Later objects do not exist yet, so no object can contain itself.
        if type(number) is not int or not 0 <= number < len(self.made):
            raise ValueError(f"there is no object {number!r} before it")
        return self.made[number]

    def _array(self, place: Any) -> np.ndarray:
        name, order = _checked(place, list)
        return self._arrays[order][name]

    def _scalar(self, item: Any) -> Any:
        name, value = _checked(item, list)
        return _dtype(name).type(self._value(value))


def _checked(value: Any, cls: type[Any]) -> Any:
    if type(value) is not cls:
        raise ValueError(
            f"it has a {type(value).__name__} in place of a {cls.__name__}"
        )
    return value


def _dtype(name: Any) -> np.dtype:
    if _checked(name, str) not in DTYPES:
        raise ValueError(f"{name!r} is not a dtype of numbers")
    return np.dtype(name)


def _strings(items: Any) -> np.ndarray:
    array = np.empty(len(_checked(items, list)), dtype=object)
    array[:] = [_checked(item, str) for item in items]
    return array
