"""The engine on a GPU: ratios to the device's limits, to torch, and to NumPy.

Flat argmin, product codes, and one iteration of k-means, all in one run.  The limits
are those of the machine it runs on: flops over the measured rate of SGEMM, bytes over
the measured rate of a copy.  TF32 is off everywhere.  Without CuPy or a device it says
so and ends.
"""

import _common as common  # isort: skip  (before NumPy)

import statistics
import sys
import time

import numpy as np

from skvq import nearest as engine
from skvq.nearest._backend import GPU_WORK, cupy_has_device


def seconds(function, synchronise, repeats):
    """Return the median time of a call, the first one not counted."""
    function()
    times = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        function()
        synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Torch:
    """What torch does of the same, on the same device; None where it is missing."""

    def __init__(self):
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        self.torch = torch

    def of(self, array):
        """Return an array of CuPy as one of torch, sharing its memory."""
        return self.torch.from_dlpack(array)

    def cdist(self, X, table):
        """Return the codes by all distances, in tiles of 1 GB."""
        tile = max(1, 2**28 // len(table))
        return [self.torch.cdist(part, table).argmin(1) for part in X.split(tile)]

    def tiled(self, X, table):
        """Return the codes by one product per tile."""
        half = 0.5 * (table * table).sum(1)
        tile = max(1, 2**24 // len(table))
        return [
            self.torch.addmm(half, part, table.T, alpha=-1).argmin(1)
            for part in X.split(tile)
        ]


def load_torch():
    try:
        found = Torch()
    except ImportError:
        return None
    return found if found.torch.cuda.is_available() else None


def limits(cupy, sync, repeats, quick):
    """Return the measured rates: flops of SGEMM, bytes of a copy."""
    size = 1024 if quick else 8192
    a = cupy.ones((size, size), dtype=cupy.float32)
    out = cupy.empty_like(a)
    flops = 2 * size**3 / seconds(lambda: cupy.matmul(a, a, out=out), sync, repeats)
    source = cupy.zeros(2**22 if quick else 2**28, dtype=cupy.float32)
    target = cupy.empty_like(source)
    copying = seconds(lambda: cupy.copyto(target, source), sync, repeats)
    return flops, 2 * source.nbytes / copying


def report(name, own, rivals, limit):
    ratios = [f"{label} {t / own:.2f}x" for label, t in rivals.items() if t]
    print(
        f"{name}: {own * 1e3:.2f} ms; of the limit {limit / own:.0%}; "
        + "; ".join(ratios)
    )


def main():
    arguments = common.parser(__doc__, repeats=7).parse_args()
    if not cupy_has_device():
        print("benchmarks/gpu.py: CuPy is missing or sees no CUDA device; nothing run.")
        return
    import cupy

    sync, repeats = cupy.cuda.get_current_stream().synchronize, arguments.repeats
    rows = 10_000 if arguments.quick else 1_000_000
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"]
    flops, bandwidth = limits(cupy, sync, repeats, arguments.quick)
    print(
        f"{name.decode()}: SGEMM {flops / 1e12:.1f} Tflop/s, "
        f"copy {bandwidth / 1e9:.0f} GB/s, CuPy {cupy.__version__}"
    )
    torch = load_torch()
    rng = np.random.default_rng(0)
    host = rng.standard_normal((rows, 128), dtype=np.float32)
    X = cupy.asarray(host)

    for size in (1024, 4096):
        table = X[:size].copy()
        own = seconds(
            lambda table=table: engine.nearest(X, table, return_distances=False),
            sync,
            repeats,
        )
        rivals = {}
        if torch:
            x, t = torch.of(X), torch.of(table)
            rivals["torch tiled"] = seconds(
                lambda x=x, t=t: torch.tiled(x, t), sync, repeats
            )
            rivals["torch cdist"] = seconds(
                lambda x=x, t=t: torch.cdist(x, t), sync, repeats
            )
        few, small = host[: rows // 20], host[:size]
        with engine.using("numpy"):
            start = time.perf_counter()
            engine.nearest(few, small, return_distances=False)
            on_host = 20 * (time.perf_counter() - start)
        rivals["NumPy"] = on_host
        report(
            f"argmin {rows} x 128, V = {size}",
            own,
            rivals,
            2 * rows * 128 * size / flops,
        )
        with engine.using("cupy"):
            sent = seconds(
                lambda small=small: engine.nearest(host, small, return_distances=False),
                sync,
                1,
            )
        print(
            f"  NumPy's rows sent to the device: {sent * 1e3:.1f} ms, on the host "
            f"{on_host * 1e3:.0f} ms; 'auto' sends from {GPU_WORK:.0e} multiply-adds"
        )

    tables = [X[:256, 8 * j : 8 * j + 8].copy() for j in range(16)]
    own = seconds(
        lambda: engine.nearest_product(X, tables, dtype=np.uint8), sync, repeats
    )
    rivals = {}
    if torch:
        parts = [torch.of(X[:, 8 * j : 8 * j + 8].copy()) for j in range(16)]
        others = [torch.of(table) for table in tables]
        rivals["torch cdist"] = seconds(
            lambda: [torch.cdist(*pair) for pair in zip(parts, others, strict=True)],
            sync,
            repeats,
        )
    limit = max(2 * rows * 128 * 256 / flops, (X.nbytes + 16 * rows) / bandwidth)
    report(f"product {rows} x 128, 16 x 8 bits", own, rivals, limit)

    del X
    X = cupy.random.standard_normal((8 * rows, 128), dtype=cupy.float32)
    table = X[:1024].copy()

    def argmin():
        return engine.nearest(X, table, return_distances=False)[0]

    def iteration():
        sums, counts = engine.accumulate(X, argmin(), 1024)
        return sums / cupy.maximum(counts, 1)[:, None]

    alone = seconds(argmin, sync, repeats)
    own = seconds(iteration, sync, repeats)
    report(
        f"k-means iteration {8 * rows} x 128, V = 1024",
        own,
        {"its argmin": alone},
        2 * 8 * rows * 128 * 1024 / flops,
    )


if __name__ == "__main__":
    sys.exit(main())
