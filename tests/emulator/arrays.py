"""Arrays of the emulated device, and NumPy's functions for them."""

import operator
import types
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from emulator import device

# What NumPy has and CuPy 14 has not.
_MISSING = frozenset(
    """asmatrix block bmat bytes_ character clongdouble complex256 datetime64
    einsum_path errstate flexible float128 frompyfunc fromregex geomspace
    getbufsize geterr insert isnat longdouble matrix matvec memmap
    nanpercentile nanquantile ndenumerate nditer object_ polyder polydiv
    polyint recarray record setbufsize seterr str_ timedelta64 unstack vecdot
    vecmat void vector_norm svdvals matrix_norm""".split()
)
# Parameters of NumPy's functions that CuPy's do not have.
_NO_PARAMETERS = frozenset({"initial", "where", "like", "device", "stable"})
# Functions that take what is not on the device.
_FROM_HOST = frozenset({"asarray", "array", "ascontiguousarray", "full"})
_NAN_BYTES = 0xFF


def _host(value: Any) -> Any:
    """Return what stands for a value on the host; arrays of the host are refused."""
    if isinstance(value, ndarray):
        if value.device != device.Device():
            raise ValueError(
                f"array of {value.device}, but {device.Device()} is in use"
            )
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(_host(each) for each in value)
    return value


def _device(value: Any) -> Any:
    """Return a result of NumPy as one of the device."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, tuple):
        found = [_device(each) for each in value]
        return type(value)(*found) if hasattr(value, "_fields") else tuple(found)
    return [_device(each) for each in value] if isinstance(value, list) else value


def _wrapped(key: Any, shape: tuple[int, ...]) -> Any:
    """Return an index as CuPy takes it: arrays of integers modulo the length."""
    if isinstance(key, np.ndarray) and key.dtype.kind in "iu" and key.ndim:
        return key % shape[0]
    return key


def _take(a: Any, indices: Any, axis: Any = None) -> "ndarray":
    """Take entries, of any index, as CuPy does."""
    return _device(np.take(_host(a), _host(indices), axis=axis, mode="wrap"))


class ndarray:
    """An array on the emulated device."""

    # The name of its class is how it is known.
    __module__ = "cupy"
    # NumPy's functions and operators do not take it.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        device.MEMORY.take(host)
        self._host = host

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: ndarray(self._host.T))
    mT = property(lambda self: ndarray(np.swapaxes(self._host, -1, -2)))
    device = property(lambda self: device.Device(device.MEMORY.place_of(self._host)))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))

    def get(self) -> np.ndarray:
        """Return a copy on the host."""
        return self._host.copy()

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        """Copy an array of the host into this one, on a stream."""
        assert array.dtype == self.dtype, (array.dtype, self.dtype)
        assert array.shape == self.shape, (array.shape, self.shape)
        assert array.flags.c_contiguous
        assert self.flags.c_contiguous
        stream = device.get_current_stream() if stream is None else stream
        stream.copy(array, self._host)

    def __getitem__(self, key: Any) -> "ndarray":
        return _device(self._host[_wrapped(_host(key), self.shape)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_host(key)] = _host(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (_device(each) for each in self._host)

    def __repr__(self) -> str:
        return repr(self._host)

    __bool__, __int__ = (lambda self: bool(self._host)), (lambda self: int(self._host))
    __float__ = lambda self: float(self._host)  # noqa: E731
    __index__ = lambda self: operator.index(self._host)  # noqa: E731


def _binary(name: str) -> Callable:
    method = getattr(np.ndarray, name)

    def apply(self: ndarray, other: Any) -> Any:
        if isinstance(other, np.ndarray) or not isinstance(
            other, ndarray | int | float | complex | np.generic
        ):
            raise TypeError(f"Unsupported type {type(other)}")
        found = method(self._host, _host(other))
        return found if found is NotImplemented else _device(found)

    return apply


def _in_place(name: str) -> Callable:
    apply = _binary(name)

    def change(self: ndarray, other: Any) -> ndarray:
        apply(self, other)
        return self

    return change


def _method(name: str) -> Callable:
    method = getattr(np.ndarray, name)

    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        return _device(method(self._host, *_host(args), **_checked(kwargs)))

    return call


for (
    _name
) in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
    setattr(ndarray, f"__{_name}__", _binary(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", _binary(f"__r{_name}__"))
    if _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in "lt le gt ge eq ne".split():
    setattr(ndarray, f"__{_name}__", _binary(f"__{_name}__"))
for (
    _name
) in """__neg__ __abs__ __invert__ __pos__ all any argmax argmin argsort astype clip
    copy cumsum dot fill flatten item max mean min nonzero ravel repeat reshape round
    sort squeeze std sum swapaxes take tolist transpose var view""".split():
    setattr(ndarray, _name, _method(_name))


def _checked(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in _NO_PARAMETERS & kwargs.keys():
        raise TypeError(f"got an unexpected keyword argument '{name}'")
    return {name: _host(value) for name, value in kwargs.items()}


def _on_device(name: str, function: Callable) -> Callable:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if name in _FROM_HOST:
            args = tuple(a if isinstance(a, np.ndarray) else _host(a) for a in args)
            if isinstance(args[0], np.ndarray) and kwargs.get("copy") is not False:
                # Memory of the host is never that of the device.
                kwargs = {"copy": True, **kwargs} if name == "array" else kwargs
        else:
            args = _host(args)
        given = _checked(kwargs)
        out = kwargs.get("out")
        found = function(*args, **given)
        if out is not None:
            return out
        if name == "empty":
            # Whoever reads what nobody wrote shall notice.
            found.view(np.uint8)[...] = _NAN_BYTES
        return _device(found)

    return call


def _as_device(dtype_of: Callable) -> Callable:
    """Return `asarray` or its like, which copies what is on the host."""

    @wraps(dtype_of)
    def call(a: Any, dtype: Any = None, order: Any = None, **kwargs: Any) -> ndarray:
        own = isinstance(a, ndarray)
        host = a._host if own else a if isinstance(a, np.ndarray) else _host(a)
        made = dtype_of(host, dtype=dtype, order=order or "K", **_checked(kwargs))
        if own:
            return a if made is host else ndarray(made)
        return ndarray(
            made.copy() if np.shares_memory(made, np.asarray(host)) else made
        )

    return call


def functions(module: types.ModuleType) -> dict[str, Any]:
    """Return what a module of NumPy has and CuPy has also, for arrays of the device."""
    found: dict[str, Any] = {}
    for name in dir(module):
        value = getattr(module, name)
        if (
            name.startswith("_")
            or name in _MISSING
            or isinstance(value, types.ModuleType)
        ):
            continue
        if isinstance(value, type) or not callable(value):
            found[name] = value
        else:
            found[name] = _on_device(name, value)
    if module is np:
        found["take"] = _take
        found["asarray"] = _as_device(np.asarray)
        found["ascontiguousarray"] = lambda a, dtype=None: found["asarray"](
            a, dtype, order="C"
        )
    return found
