"""The engine on a GPU: ratios to the device's limits, to torch, and to the host.

Flat argmin by each path that there is, product codes, one iteration of k-means, whole
calls of estimators, and the work from which NumPy's rows are worth the transfer, all in
one run.  The limits are those of the machine it runs on: flops over the measured rate
of SGEMM, bytes over the measured rate of a copy.  TF32 is off everywhere.  Without CuPy
or a device it says so and ends.
"""

import _common  # isort: skip  (before NumPy)

import statistics
import sys
import time
import warnings
from contextlib import contextmanager

import numpy as np
from joblib import cpu_count
from sklearn.exceptions import ConvergenceWarning

from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    KroneckerQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    SphericalQuantizer,
    TrellisQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq import nearest as engine
from skvq.nearest import native
from skvq.nearest.backends import cupy as of_cupy
from skvq.nearest.backends.choice import GPU_WORK, cupy_has_device


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
    size = 128 if quick else 8192
    # Not ones: constant data let the clocks run higher.
    rng = np.random.default_rng(0)
    a = cupy.asarray(rng.standard_normal((size, size), dtype=np.float32))
    out = cupy.empty_like(a)
    flops = 2 * size**3 / seconds(lambda: cupy.matmul(a, a, out=out), sync, repeats)
    source = cupy.zeros(2**16 if quick else 2**28, dtype=cupy.float32)
    target = cupy.empty_like(source)
    copying = seconds(lambda: cupy.copyto(target, source), sync, repeats)
    return flops, 2 * source.nbytes / copying


@contextmanager
def path_of(name):
    """Let flat searches go by a path, whatever the engine would choose."""
    widest = of_cupy._MAX_WIDTH
    if name == "product":
        of_cupy._MAX_WIDTH = 0
    try:
        yield
    finally:
        of_cupy._MAX_WIDTH = widest


class Run:
    """What all parts of the benchmark have in common."""

    def __init__(self, cupy, arguments):
        self.cupy, self.arguments = cupy, arguments
        self.quick = arguments.quick
        self.sync = cupy.cuda.get_current_stream().synchronize
        self.torch = load_torch()
        device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self.device = device["name"].decode()
        self.flops, self.bandwidth = limits(
            cupy, self.sync, arguments.repeats, self.quick
        )
        self.rows = 300 if self.quick else 1_000_000
        self.rng = np.random.default_rng(0)

    def record(self, key, figure, what, **more):
        """Keep a figure of the page, if --record asks for it."""
        more = {"data": "Gaussian", "device": self.device} | more
        _common.record(self.arguments, f"gpu.{key}", figure, what, **more)

    def report(self, key, name, own, rivals, limit):
        """Print a time as a share of the limit, and how often rivals take it."""
        ratios = {label: t / own for label, t in rivals.items() if t}
        print(
            f"{name}: {own * 1e3:.2f} ms; of the limit {limit / own:.0%}; "
            + "; ".join(f"{label} {ratio:.2f}x" for label, ratio in ratios.items())
        )
        self.record(f"{key}.ms", f"{own * 1e3:.2g}", f"ms of {name}")
        self.record(f"{key}.limit", f"{limit / own:.0%}", f"of the limit, {name}")
        for label, ratio in ratios.items():
            if label.startswith("torch"):
                what = f"times of {label} over ours, {name}"
                self.record(f"{key}.{label.split()[1]}", f"{ratio:.1f}", what)

    def seconds(self, function, repeats=None):
        """Return the median time of a call."""
        return seconds(function, self.sync, repeats or self.arguments.repeats)

    def normal(self, *shape):
        """Return random numbers on the host."""
        return self.rng.standard_normal(shape, dtype=np.float32)

    def flat(self, width, size):
        """Compare the paths of a flat search with each other, and with torch."""
        X = self.cupy.asarray(self.normal(self.rows, width))
        table = X[:size].copy()
        known = engine.Table(table.get())
        times, codes = {}, {}
        for path in ("registers", "product"):
            if path == "registers" and width > of_cupy._MAX_WIDTH:
                continue
            with path_of(path):

                def search():
                    return engine.nearest(X, known, return_distances=False)[0]

                times[path], codes[path] = self.seconds(search), search()
        chosen = "registers" if width <= of_cupy._MAX_WIDTH else "product"
        rivals = {f"by {path}": t for path, t in times.items() if path != chosen}
        if self.torch:
            x, t = self.torch.of(X), self.torch.of(table)
            rivals["torch tiled"] = self.seconds(lambda: self.torch.tiled(x, t))
            rivals["torch cdist"] = self.seconds(lambda: self.torch.cdist(x, t))
        name = f"argmin {self.rows} x {width}, V = {size}, by {chosen}"
        work = 2 * self.rows * width * size
        key = f"flat.{width}x{size}"
        self.report(key, name, times[chosen], rivals, work / self.flops)
        for path, found in codes.items():
            share = float((found != codes[chosen]).mean())
            if share > 0:
                print(f"  by {path}: {share:.1e} of the codes are others (rounding)")

    def product(self):
        """Compare product codes of 16 x 8 bits with torch, subspace by subspace."""
        X = self.cupy.asarray(self.normal(self.rows, 128))
        tables = [X[:256, 8 * j : 8 * j + 8].copy() for j in range(16)]
        known = engine.Tables([table.get() for table in tables])
        own = self.seconds(lambda: engine.nearest_product(X, known, dtype=np.uint8))
        rivals = {}
        if self.torch:
            of = self.torch.of
            parts = [of(X[:, 8 * j : 8 * j + 8].copy()) for j in range(16)]
            pairs = list(zip(parts, map(of, tables), strict=True))
            for label in ("tiled", "cdist"):
                search = getattr(self.torch, label)
                rivals[f"torch {label}"] = self.seconds(
                    lambda search=search: [search(*pair) for pair in pairs]
                )
        compute = 2 * self.rows * 128 * 256 / self.flops
        traffic = (X.nbytes + 16 * self.rows) / self.bandwidth
        name = f"product {self.rows} x 128, 16 x 8 bits"
        self.report("product", name, own, rivals, max(compute, traffic))

    def estimators(self):
        """Compare what users call, on the device, with the same on the host."""
        rows, few = (300, 4) if self.quick else (200_000, 256)
        host = self.normal(rows, 64)
        here = self.cupy.asarray(host)
        sample = max(300, rows // 4)
        sets = {"random_state": 0}
        quantizers = {
            "vector": VectorQuantizer(4 * few, max_iter=10, **sets),
            "product": ProductQuantizer(8, few, **sets),
            "residual": ResidualQuantizer(4, few, **sets),
            "residual-beam": ResidualQuantizer(4, few, beam_size=5, **sets),
            "additive": AdditiveQuantizer(4, few // 4, beam_size=8, max_iter=3, **sets),
            "kronecker": KroneckerQuantizer((8, 8), few // 8 + 2, max_iter=5, **sets),
            "uniform": UniformQuantizer(),
            "spherical": SphericalQuantizer(),
            "binary": BinaryQuantizer(),
            "trellis": TrellisQuantizer(),
        }
        for name, quantizer in quantizers.items():
            own = self.calls(quantizer, here, sample)
            ratios = [
                b / a
                for a, b in zip(own, self.calls(quantizer, host, sample), strict=True)
            ]
            for i, call in enumerate(("fit", "transform")):
                told = f"{type(quantizer).__name__}.{call}, {name}, {rows} x 64"
                print(
                    f"{told}: {own[i] * 1e3:.1f} ms; backend {self.host!r} "
                    f"on {cpu_count()} cores {ratios[i]:.1f}x"
                )
                what = f"times of {cpu_count()} cores over the device's, {told}"
                figure = f"{ratios[i]:.1f}" if ratios[i] < 10 else f"{ratios[i]:.0f}"
                self.record(f"{name}.{call}", figure, what)

    def calls(self, quantizer, X, sample):
        """Return the times of fit on the first rows and of transform of all."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            of_fit = self.seconds(lambda: quantizer.fit(X[:sample]), 1)
        return of_fit, self.seconds(lambda: quantizer.transform(X), 3)

    @property
    def host(self):
        """What "auto" takes where there is no device."""
        return "numpy" if native.status().level is None else "native"

    def lloyd(self):
        """Compare an iteration of k-means with its own argmin."""
        n, size = 8 * self.rows, 1024 if not self.quick else 64
        # On the device from the start: 4 GB.
        X = self.cupy.random.standard_normal((n, 128), dtype=self.cupy.float32)
        table = X[:size].copy()

        def argmin():
            return engine.nearest(X, table, return_distances=False)[0]

        def iteration():
            sums, counts = engine.accumulate(X, argmin(), size)
            return sums / self.cupy.maximum(counts, 1)[:, None]

        alone, own = self.seconds(argmin), self.seconds(iteration)
        name = f"k-means iteration {n} x 128, V = {size}"
        limit = 2 * n * 128 * size / self.flops
        self.report("lloyd", name, own, {"its argmin": alone}, limit)

    def transfer(self, width, size):
        """Find from how many rows on the device is faster for rows of the host."""
        table, level = self.normal(size, width), None
        host = self.host
        most = 2**9 if self.quick else 2**21
        X = self.normal(most, width)
        for n in [most >> k for k in (8, 6, 4, 2, 0)]:
            times = {}
            for backend in (host, "cupy"):
                with engine.using(backend):
                    times[backend] = self.seconds(
                        lambda n=n: engine.nearest(X[:n], table, return_distances=False)
                    )
            if level is None and times["cupy"] <= times[host]:
                level = n * width * size
            ratio = times[host] / times["cupy"]
            self.record(
                f"transfer.{n}x{width}x{size}",
                f"{ratio:.1f}",
                f"times of {cpu_count()} cores over the device's, rows of the host",
            )
            print(
                f"rows of the host, {n} x {width}, V = {size}: backend {host!r} on "
                f"{cpu_count()} cores takes {ratio:.2f}x the "
                "device's time"
            )
        found = "at no size that was tried" if level is None else f"from {level:.0e}"
        print(f"  level {found} multiply-adds; 'auto' sends from {GPU_WORK:.0e}")


def main(options=None):
    parser = _common.parser(__doc__.splitlines()[0], repeats=7, records=True)
    arguments = parser.parse_args(options)
    if not cupy_has_device():
        print("benchmarks/gpu.py: CuPy is missing or sees no CUDA device; nothing run.")
        return
    import cupy

    run = Run(cupy, arguments)
    print(
        f"{run.device}: SGEMM {run.flops / 1e12:.1f} Tflop/s, "
        f"copy {run.bandwidth / 1e9:.0f} GB/s, CuPy {cupy.__version__}"
    )
    run.record("sgemm", f"{run.flops / 1e12:.0f}", "Tflop/s of SGEMM, 8192^3")
    run.record("copy", f"{run.bandwidth / 1e12:.1f}", "TB/s read and written by a copy")
    sizes = [(128, 4096), (128, 1024), (64, 256), (32, 256), (16, 256), (8, 256)]
    for width, size in sizes[:3] if arguments.quick else sizes:
        run.flat(width, min(size, run.rows))
    run.product()
    run.lloyd()
    run.transfer(128, 64 if arguments.quick else 1024)
    run.transfer(8, 64 if arguments.quick else 256)
    run.estimators()


if __name__ == "__main__":
    sys.exit(main())
