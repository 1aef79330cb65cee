"""An array library that nobody knows: its arrays are no other library's.

They wrap NumPy's, and refuse what arrays of many libraries do not know: to become
NumPy's by themselves, to be written into, masks of Booleans as an index, and a truth of
more than one element.  They say nothing of a namespace either.
"""

import builtins
import operator
from functools import wraps

import numpy as np

__name__ = "own"  # what it would be imported as


class Array:
    """An array that cannot change."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, held):
        self._held = np.array(held)
        self.shape, self.ndim, self.dtype = (
            getattr(self._held, name) for name in ("shape", "ndim", "dtype")
        )

    def __array__(self, *args, **kwargs):
        raise TypeError("this is no array of NumPy")

    def __bool__(self):
        if self._held.size != 1:
            raise TypeError("the truth of many elements")
        return builtins.bool(self._held)

    def __int__(self):
        return int(self._held)

    def __float__(self):
        return float(self._held)

    def __getitem__(self, key):
        for each in key if isinstance(key, tuple) else (key,):
            if not isinstance(each, int | slice | type(None) | type(...)):
                raise TypeError(f"{type(each).__name__} as an index")
        return Array(self._held[key])

    def __setitem__(self, key, value):
        raise TypeError("the array cannot be written into")

    def __neg__(self):
        return Array(-self._held)

    def __invert__(self):
        return Array(~self._held)

    @property
    def T(self):
        return Array(self._held.T)

    @property
    def mT(self):
        return Array(self._held.swapaxes(-1, -2))


def _opened(value):
    if isinstance(value, Array):
        return value._held
    if isinstance(value, np.ndarray):
        raise TypeError("an array of NumPy beside one of this library")
    return type(value)(map(_opened, value)) if type(value) in (list, tuple) else value


def _wrapped(function):
    @wraps(function)
    def call(*args, **kwargs):
        args = [_opened(each) for each in args]
        kwargs = {name: _opened(each) for name, each in kwargs.items()}
        with np.errstate(all="ignore"):
            return Array(function(*args, **kwargs))

    return call


def _in_place(self, other):
    raise TypeError("the array cannot be written into")


_OPERATORS = (
    "add sub mul truediv floordiv mod and or xor lshift rshift lt le gt ge eq ne"
)
for _name in _OPERATORS.split():
    _function = getattr(operator, {"and": "and_", "or": "or_"}.get(_name, _name))
    setattr(Array, f"__{_name}__", _wrapped(_function))
    if hasattr(operator, f"i{_name}"):
        setattr(Array, f"__i{_name}__", _in_place)
        _swapped = _wrapped(lambda a, b, own=_function: own(b, a))
        setattr(Array, f"__r{_name}__", _swapped)

# Its functions have the names of the standard, and some of its dtypes.
for _name in """abs all any argmax argmin argsort astype broadcast_to concat
    cumulative_sum expand_dims floor full_like isfinite max maximum matmul min minimum
    ones_like permute_dims reshape round searchsorted sign sort sqrt stack sum take
    where zeros_like""".split():
    globals()[_name] = _wrapped(getattr(np, _name))
for _name in "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64".split():
    globals()[_name] = getattr(np, _name)
float32, float64, inf, nan = np.float32, np.float64, np.inf, np.nan
isdtype = np.isdtype


def arange(*args, dtype=None, device=None):
    return Array(np.arange(*args, dtype=dtype))


def zeros(shape, dtype=None, device=None):
    return Array(np.zeros(shape, dtype))


def asarray(values, dtype=None, device=None):
    """Copy an array of NumPy, or what it would make of values."""
    return values if isinstance(values, Array) else Array(np.array(values, dtype))


def as_numpy(array):
    """Copy an array to NumPy: the only way out."""
    return array._held.copy()
