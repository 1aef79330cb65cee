"""Measure the memory that large mapped files take: to transform, and to search.

Claims: transforming a memory-mapped float32 file of 2 GB grows resident memory by less
than 150 MB beyond the codes and beyond the pages of the file.  The anonymous memory of
a process that searches 100 MB of mapped codes stays under 200 MB, with all that it has
imported.

How: the quantizer is fitted on a sample and pickled here.  A fresh process loads it,
maps the file, and transforms it, while a thread reads the process's RssAnon from
/proc/self/status every few milliseconds.  RssAnon is the resident memory that belongs
to no file: what the process has allocated and touched.  The pages of the mapped file
are counted apart, as RssFile; they belong to the page cache, which the kernel takes
back whenever it needs to.  Growth is the largest RssAnon seen, less that of the moment
before the call, less the bytes of the codes; of several runs, the worst counts.
"""

import _common  # isort: split

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from skvq import (
    ProductQuantizer,
    QuantizedNeighbors,
    ResidualQuantizer,
    VectorQuantizer,
)

N_FEATURES = 128
LIMIT_MB = 150
N_CODES, MAPPED_BYTES, MOST_MB = 8, 10**8, 200
QUICK_GIGABYTES = 0.05
_SAMPLE_SECONDS = 0.002
_PIECE_ROWS = 50_000


def resident(field):
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"this kernel's /proc/self/status has no {field}")


class PeakSampler:
    """Follows RssAnon from a thread of its own."""

    def __enter__(self):
        self.before = self.peak = resident("RssAnon")
        self.n_samples = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, resident("RssAnon"))

    def _watch(self):
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, resident("RssAnon"))
            self.n_samples += 1


def mapped_pages():
    """Bytes of resident pages that belong to files, on disk or in a tmpfs."""
    return resident("RssFile") + resident("RssShmem")


def measure(pickled, path):
    """Transform the file and print what it took; runs in a process of its own."""
    quantizer = pickle.loads(Path(pickled).read_bytes())
    X = np.load(path, mmap_mode="r")
    pages = mapped_pages()
    start = time.perf_counter()
    with PeakSampler() as sampler:
        codes = quantizer.transform(X)
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "seconds": seconds,
                "growth": sampler.peak - sampler.before - codes.nbytes,
                "codes": codes.nbytes,
                "file": mapped_pages() - pages,
                "samples": sampler.n_samples,
            }
        )
    )


def measure_search(pickled, path):
    """Search codes in the file and print what it took; in a process of its own."""
    quantizer = pickle.loads(Path(pickled).read_bytes())
    codes = np.memmap(path, np.uint8, "r").reshape(-1, N_CODES)
    queries = np.random.default_rng(1).normal(size=(100, quantizer.n_features_in_))
    start = time.perf_counter()
    with PeakSampler() as sampler:
        search = QuantizedNeighbors(quantizer, 100).fit_codes(codes, packed=True)
        ready = time.perf_counter()
        search.kneighbors(queries)
    seconds = ready - start, time.perf_counter() - ready
    print(json.dumps({"peak": sampler.peak, "seconds": seconds}))


def write_noise(path, n_rows):
    """Write a .npy file piece by piece; the values play no part in the memory."""
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, N_FEATURES)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n_rows, _PIECE_ROWS):
            size = min(_PIECE_ROWS, n_rows - start)
            rng.standard_normal((size, N_FEATURES), np.float32).tofile(file)


def run_apart(quantizer, folder, path, how="--measure"):
    """Measure in a fresh process, so that no earlier work has left memory to reuse."""
    pickled = folder / "quantizer.pickle"
    pickled.write_bytes(pickle.dumps(quantizer))
    command = [sys.executable, __file__, how, str(pickled), str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def compare(arguments):
    table = _common.Table(
        f"transform of a mapped float32 file of {N_FEATURES} features",
        [
            *("quantizer", "rows", "file MB", "seconds"),
            *("mapped pages MB", "codes MB", "growth beyond both, MB"),
            *("samples", "target", "verdict"),
        ],
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "noise.npy"
        write_noise(path, int(arguments.gigabytes * 1e9) // (4 * N_FEATURES))
        X = np.load(path, mmap_mode="r")
        sample = np.array(X[:: max(1, len(X) // 10_000)])
        part = VectorQuantizer(256, max_iter=3, random_state=0)
        for quantizer in (ProductQuantizer(8, quantizer=part), part):
            fitted = quantizer.fit(sample)
            runs = [run_apart(fitted, folder, path) for _ in range(arguments.repeats)]
            worst = max(runs, key=lambda run: run["growth"])
            table.row(
                *(type(quantizer).__name__, f"{len(X):,}"),
                *(f"{X.nbytes / 1e6:.0f}", f"{worst['seconds']:.1f}"),
                *(f"{worst[key] / 1e6:.1f}" for key in ("file", "codes", "growth")),
                *(worst["samples"], f"< {LIMIT_MB}"),
                _common.verdict(worst["growth"] < LIMIT_MB * 1e6),
            )


def compare_searches(arguments):
    n_bytes = MAPPED_BYTES // (100 if arguments.quick else 1)
    table = _common.Table(
        f"100 nearest rows of 100 queries in {n_bytes / 1e6:.0f} MB of mapped codes",
        [
            *("quantizer", "rows", "fit_codes, seconds", "kneighbors, seconds"),
            *("anonymous memory MB", "target", "verdict"),
        ],
    )
    X = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    part = VectorQuantizer(256, learning="fixed", init="random", random_state=0)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "codes")
        np.random.default_rng(0).integers(0, 256, n_bytes, np.uint8).tofile(path)
        for make in (ProductQuantizer, ResidualQuantizer):
            quantizer = make(N_CODES, quantizer=part).fit(X)
            found = run_apart(quantizer, Path(name), path, "--measure-search")
            table.row(
                *(make.__name__, f"{n_bytes // N_CODES:,}"),
                *(f"{seconds:.1f}" for seconds in found["seconds"]),
                *(f"{found['peak'] / 1e6:.0f}", f"< {MOST_MB}"),
                _common.verdict(found["peak"] < MOST_MB * 1e6),
            )


def main():
    parser = _common.parser(__doc__.splitlines()[0], repeats=3)
    parser.add_argument(
        "--gigabytes", type=float, default=2.0, help="size of the file (default: 2)"
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure-search", nargs=2, help=argparse.SUPPRESS)
    arguments = _common.settle(parser.parse_args())
    if not Path("/proc/self/status").exists():
        print("needs Linux: reads /proc/self/status")
    elif arguments.measure:
        measure(*arguments.measure)
    elif arguments.measure_search:
        measure_search(*arguments.measure_search)
    else:
        if arguments.quick:
            arguments.gigabytes = QUICK_GIGABYTES
        _common.print_header("Memory", arguments, "Data: normal noise.")
        compare(arguments)
        compare_searches(arguments)


if __name__ == "__main__":
    main()
