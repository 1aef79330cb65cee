"""CuPy without a GPU, for tests: its names on NumPy's arrays, CUDA kernels on the CPU.

What the code under test sees is a module `cupy` whose arrays NumPy refuses to read,
whose memory has an end, whose copies on other streams happen as late as they may, and
whose raw kernels are compiled from their CUDA source and run thread by thread, so that
barriers and exchanges in a warp mean what they mean on a device.  It shows that code
is right; of its speed it shows nothing.

========================  ============================================================
`arrays`                  the class of arrays, and NumPy's functions for it
`device`                  memory, streams, pinned memory
`kernels`, `runtime.h`    raw kernels: the compiler, and what it compiles them with
========================  ============================================================
"""

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from emulator import arrays, device, kernels

__all__ = ["CudaCompiler", "device", "emulated_cupy", "find_compiler"]

find_compiler, CudaCompiler = kernels.find_compiler, kernels.CudaCompiler


@cache
def _modules() -> dict[str, types.ModuleType]:
    """Return the modules that stand for CuPy, by name."""
    modules = {
        name: types.ModuleType(name)
        for name in (
            *("cupy", "cupy.cuda", "cupy.cuda.device", "cupy.linalg", "cupy.fft"),
            "cupyx",
        )
    }
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []  # type: ignore[attr-defined]
    cupy, cuda = modules["cupy"], modules["cupy.cuda"]
    vars(cupy).update(arrays.functions(np))
    vars(cupy).update(
        __version__="14.2.0",
        ndarray=arrays.ndarray,
        cuda=cuda,
        linalg=modules["cupy.linalg"],
        fft=modules["cupy.fft"],
        RawKernel=kernels.RawKernel,
        asnumpy=lambda array: array.get(),
        get_default_memory_pool=lambda: device.POOL,
    )
    vars(modules["cupy.linalg"]).update(arrays.functions(np.linalg))
    vars(modules["cupy.fft"]).update(arrays.functions(np.fft))
    vars(cuda).update(
        Device=device.Device,
        Stream=device.Stream,
        Event=device.Event,
        get_current_stream=device.get_current_stream,
        runtime=device.RUNTIME,
        memory=types.SimpleNamespace(OutOfMemoryError=device.OutOfMemoryError),
    )
    modules["cupy.cuda.device"].Device = device.Device  # type: ignore[attr-defined]
    modules["cupyx"].empty_pinned = device.empty_pinned  # type: ignore[attr-defined]
    return modules


@contextmanager
def emulated_cupy() -> Iterator[Any]:
    """Let ``import cupy`` find the emulation inside the block, and nothing after it."""

    def of_cupy(name: str) -> bool:
        return name.split(".")[0] in ("cupy", "cupyx") or (
            "array_api_compat.cupy" in name
        )

    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if of_cupy(name)}
    sys.modules.update(_modules())
    device.reset()
    try:
        yield sys.modules["cupy"]
    finally:
        for name in [name for name in sys.modules if of_cupy(name)]:
            if "array_api_compat" in name:
                # Kept for the next time: namespaces are known by their identity.
                _modules()[name] = sys.modules[name]
            del sys.modules[name]
        sys.modules.update(kept)
