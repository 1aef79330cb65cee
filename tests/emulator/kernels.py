"""CUDA kernels on the CPU: the compiler is that of the machine, the device a header."""

import ctypes
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from emulator import device
from emulator.arrays import ndarray

# Dynamic shared memory of a block, without and with the kernel's leave for more.
_SHARED_BYTES, _MOST_SHARED_BYTES = 48 * 1024, 227 * 1024
_ONE_AT_A_TIME = threading.Lock()
_HEADER = Path(__file__).with_name("runtime.h")
_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned char": np.uint8,
    "unsigned short": np.uint16,
}
_ERRORS = {
    1: "not all threads reach the same barrier, or exchange",
    2: "a thread that has ended is asked for its value",
}


class CudaCompiler:
    """NVIDIA's compiler of kernels, which needs no device."""

    def __init__(self, path: Path) -> None:
        # It looks for what it brings along by name only.
        for part in path.parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(part), ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(path))

    @classmethod
    def find(cls) -> "CudaCompiler | None":
        """Return that of the package nvidia-cuda-nvrtc; None if it is not there."""
        spec = importlib.util.find_spec("nvidia")
        folders = [] if spec is None else spec.submodule_search_locations or []
        for folder in folders:
            for path in sorted(Path(folder).glob("**/libnvrtc.so.*")):
                return cls(path)
        return None

    def compile(self, code: str, architecture: str) -> str:
        """Compile a kernel to machine code, and return what the compiler says of it.

        Raises
        ------
        ValueError
            With its messages, if it finds errors.
        """
        program = ctypes.c_void_p()
        options = [f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
        given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        call = self._library
        failed = call.nvrtcCreateProgram(
            ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None
        )
        assert not failed, failed
        failed = call.nvrtcCompileProgram(program, len(options), given)
        size = ctypes.c_size_t()
        call.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        call.nvrtcGetProgramLog(program, log)
        call.nvrtcDestroyProgram(ctypes.byref(program))
        if failed:
            raise ValueError(log.value.decode())
        return log.value.decode()


@cache
def find_compiler() -> list[str] | None:
    """Return the command of a C++ compiler, the machine's or of the package ziglang."""
    for name in ("g++", "clang++", "c++"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    return None


class RawKernel:
    """A kernel, compiled when it is first called, as CuPy does it."""

    def __init__(self, code: str, name: str, options: tuple = (), **_: Any) -> None:
        self.code, self.name = code, name
        self.max_dynamic_shared_size_bytes = _SHARED_BYTES

    def __call__(
        self, grid: tuple, block: tuple, args: tuple, shared_mem: int = 0
    ) -> None:
        """Run the kernel to its end."""
        with _ONE_AT_A_TIME:
            self._run(grid, block, args, shared_mem)

    def _run(self, grid: tuple, block: tuple, args: tuple, shared_mem: int) -> None:
        launch, wanted = _compiled(self.code, self.name)
        assert len(args) == len(wanted), (self.name, len(args), wanted)
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= _MOST_SHARED_BYTES
        grid, block = ((*size, 1, 1)[:3] for size in (grid, block))
        assert 0 < np.prod(block) <= 1024, block
        assert 0 < grid[0] < 2**31, grid
        assert all(0 < n < 2**16 for n in grid[1:]), grid
        values = [_argument(arg, *each) for arg, each in zip(args, wanted, strict=True)]
        pointers = (ctypes.c_void_p * len(values))(
            *(ctypes.addressof(value) for value in values)
        )
        sizes = (ctypes.c_uint * 6)(*map(int, grid), *map(int, block))
        device.RUNTIME.n_launches[self.name] = (
            device.RUNTIME.n_launches.get(self.name, 0) + 1
        )
        failed = launch(sizes, ctypes.c_size_t(shared_mem), pointers)
        assert not failed, f"{self.name}: {_ERRORS[failed]}"


def _argument(given: Any, dtype: Any, is_pointer: bool) -> Any:
    """Return an argument as the kernel's parameter wants it; CuPy does not look."""
    if is_pointer:
        assert isinstance(given, ndarray), type(given)
        assert given.dtype == dtype, (given.dtype, dtype)
        assert given.flags.c_contiguous, given.strides
        assert given.device == device.Device(), "an array of another device"
        return ctypes.c_void_p(given._host.ctypes.data)
    assert type(given) is dtype, (type(given), dtype)
    return np.ctypeslib.as_ctypes_type(dtype)(given.item())


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="emulated-kernels-")


def _parameters(code: str, name: str) -> list[tuple[str, str]]:
    """Return type, and a star or none, of each parameter of a kernel."""
    bounds = r"(?:__launch_bounds__\([^)]*\) )?"
    found = re.search(rf"__global__ void {bounds}{name}\((.*?)\)", code, re.DOTALL)
    assert found is not None, name
    defined = dict(re.findall(r"#define (\w+) (\w+(?: \w+)?)", code))
    parameters = []
    for parameter in found[1].split(","):
        parts = re.fullmatch(r"\s*(?:const )?([\w ]+?)\s*(\*?)\s*\w+\s*", parameter)
        assert parts is not None, parameter
        parameters.append((defined.get(parts[1], parts[1]), parts[2]))
    return parameters


@cache
def _compiled(code: str, name: str) -> tuple[Any, list[tuple[Any, bool]]]:
    """Return the function that launches a kernel, and the types of its parameters."""
    parameters = _parameters(code, name)
    call = ", ".join(
        f"*({kind}{star}*)arguments[{i}]" for i, (kind, star) in enumerate(parameters)
    )
    body = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?", "extern ", code)
    body = body.replace("__shared__", "static")
    source = (
        f'#include "{_HEADER}"\n{body}\n'
        'extern "C" int launch(\n'
        "    const unsigned* sizes, size_t shared, void** arguments) {\n"
        f"    return emulate(sizes, shared, [=] {{ {name}({call}); }});\n"
        "}\n"
    )
    stem = Path(_folder().name) / hashlib.sha256(source.encode()).hexdigest()[:16]
    text, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    text.write_text(source)
    # Warnings are about pragmas of CUDA.  What is read four at a time must lie where a
    # device can.
    flags = [
        *"-std=c++17 -O2 -fPIC -shared -w -ffp-contract=off".split(),
        *"-fsanitize=alignment -fsanitize-undefined-trap-on-error".split(),
    ]
    command = find_compiler()
    assert command is not None
    subprocess.run([*command, *flags, "-o", library, text], check=True)
    types = [(_TYPES[kind], bool(star)) for kind, star in parameters]
    return ctypes.CDLL(str(library)).launch, types
