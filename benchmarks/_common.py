"""What the benchmarks share: arguments, data, interleaved timing, tables.

Every script imports this module before NumPy: OpenBLAS reads its settings when it is
loaded.
"""

import os
import sys

# A pinned kernel would measure the pin: every library is to use what the CPU offers.
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)
if "--avx2" in sys.argv:  # unless all are to use the same, as `timed_parser` offers
    os.environ |= {"FAISS_SIMD_LEVEL": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
    os.environ |= {"SKVQ_NATIVE": "v3"}

import argparse
import datetime
import functools
import importlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import _figures
import numpy as np
from threadpoolctl import threadpool_info

# Threads of a BLAS or OpenMP pool keep spinning for a while after a call; a pause
# before each timed call keeps those of one library out of the other's time.
_PAUSE_SECONDS = 0.1

# Schedulers may leave a woken thread beside its waker for some milliseconds.
_SETTLING_SECONDS = 0.15

# A round is quiet if others used no more than this many CPUs; /proc/stat counts in
# hundredths of a second, so that much less could not be told.
_QUIET_CPUS = 0.1

_QUICK_ROWS = 2_000


def parser(
    description: str, *, repeats: int, records: bool = False
) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has.

    One that `records` figures, by `record`, has the option that asks for it as well.
    """
    result = argparse.ArgumentParser(description=description)
    result.add_argument(
        "--repeats",
        type=_positive,
        default=repeats,
        help=f"repeats, or seeds, per row of the table (default: {repeats})",
    )
    either = result.add_mutually_exclusive_group()
    either.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, once: shows that the script runs, and measures nothing",
    )
    if records:
        commit()  # of the files as they are now, and not when the script ends
        either.add_argument(
            "--record",
            action="store_true",
            help="write the figures that pages give into figures.json",
        )
    return result


def timed_parser(
    description: str, *, repeats: int, patience: float = 60.0, records: bool = False
) -> argparse.ArgumentParser:
    """Return a parser with the options of a script that measures time."""
    timed = parser(description, repeats=repeats, records=records)
    timed.add_argument(
        "--patience",
        type=float,
        default=patience,
        metavar="SECONDS",
        help="per row, to wait for, and to repeat, rounds that no other process "
        f"disturbs (default: {patience:.0f})",
    )
    timed.add_argument("--avx2", action="store_true", help="hold all sides to AVX2")
    return timed


def parse_timed(
    description: str, *, repeats: int, records: bool = False
) -> argparse.Namespace:
    """Parse the options of a script that measures time, and has no others."""
    timed = timed_parser(description, repeats=repeats, records=records)
    return settle(timed.parse_args())


def settle(arguments: argparse.Namespace) -> argparse.Namespace:
    """Make --quick quick."""
    global _PAUSE_SECONDS, _SETTLING_SECONDS
    if arguments.quick:
        arguments.repeats, arguments.patience = 1, 0.0
        _PAUSE_SECONDS = _SETTLING_SECONDS = 0.0
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return value


def peer(name: str, extra: str = "bench") -> Any:
    """Import a package of an extra, or end with one line that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        sys.exit(f"{name} is missing: pip install 'skvq[{extra}]'")


# -- data ------------------------------------------------------------------------------


class DataSet(NamedTuple):
    """Samples to train on and others to test on, float32."""

    name: str
    train: np.ndarray
    test: np.ndarray


def samples(n_features: int, *, quick: bool, n_rows: int = 100_000) -> np.ndarray:
    """Return real samples, float32 of shape (n_rows, n_features).

    With SKVQ_DATA: the rows of patches100k for 64 features, else the first columns of
    dsift100k.  Without: grey patches of the photographs that scikit-learn bundles.
    """
    n_rows = _QUICK_ROWS if quick else n_rows
    if _data_folder() is None:
        return _photo_patches(n_rows, n_features, photos=(0, 1))
    rows = load("patches100k" if n_features == 64 else "dsift100k").train
    if len(rows) < n_rows or rows.shape[1] < n_features:
        sys.exit(f"the data are {rows.shape}; expected {n_rows, n_features} or more")
    return np.ascontiguousarray(rows[:n_rows, :n_features])


def data_sets(names: Sequence[str], *, quick: bool) -> list[DataSet]:
    """Return the named sets of SKVQ_DATA, else sets of what scikit-learn bundles."""
    if _data_folder() is not None:
        sets = [load(name) for name in names]
    else:
        photo = DataSet(
            "photo patches 8x8, train on one photo, test on the other",
            _photo_patches(20_000, 64, photos=(0,)),
            _photo_patches(10_000, 64, photos=(1,)),
        )
        sets = [_digits(), photo]
    if quick:
        sets = [DataSet(s.name, s.train[:600], s.test[:200]) for s in sets[:1]]
    return sets


def load(name: str) -> DataSet:
    """Read one file of SKVQ_DATA."""
    path = Path(_data_folder() or ".", f"{name}.npz")
    try:
        with np.load(path) as file:
            parts = [np.ascontiguousarray(file[k], np.float32) for k in _PARTS]
    except (OSError, KeyError) as error:
        sys.exit(f"SKVQ_DATA has no readable {path.name} with {_PARTS}: {error}")
    return DataSet(name, *parts)


def data_line() -> str:
    """Say where the data come from."""
    if _data_folder() is None:
        return "Data: what scikit-learn bundles (SKVQ_DATA is not set)."
    return "Data: the files that SKVQ_DATA names."


def data_words() -> str:
    """Name what `samples` returns."""
    if _data_folder() is None:
        return "grey patches of photographs"
    return "SIFT-like descriptors, and patches of images where d = 64"


_PARTS = ("train", "test")


def _data_folder() -> str | None:
    return os.environ.get("SKVQ_DATA") or None


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    rows = load_digits().data.astype(np.float32)
    order = np.random.default_rng(0).permutation(len(rows))
    return DataSet("digits 8x8", rows[order[:1_200]], rows[order[1_200:]])


def _photo_patches(n_rows: int, n_features: int, photos: Sequence[int]) -> np.ndarray:
    """Cut grey patches with as many pixels as features, at random places."""
    peer("PIL", extra="demo")
    from sklearn.datasets import load_sample_images

    height = 2 ** (int(np.log2(n_features)) // 2)
    width = n_features // height
    rng = np.random.default_rng(0)
    images = [image.mean(axis=2) for image in load_sample_images().images]
    parts = []
    for count, photo in zip(_shares(n_rows, len(photos)), photos, strict=True):
        views = np.lib.stride_tricks.sliding_window_view(images[photo], (height, width))
        places = rng.choice(views.shape[0] * views.shape[1], count, replace=False)
        chosen = views[np.unravel_index(places, views.shape[:2])]
        parts.append(chosen.reshape(count, n_features))
    return rng.permutation(np.concatenate(parts).astype(np.float32))


def _shares(total: int, n_parts: int) -> list[int]:
    return [len(part) for part in np.array_split(np.empty(total), n_parts)]


# -- measuring -------------------------------------------------------------------------


class Timing(NamedTuple):
    """Seconds of every kept round of a call, and what the call last returned."""

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


class Measured(NamedTuple):
    """Timings by name, and the CPUs that others kept busy in the worst kept round."""

    timings: dict[str, Timing]
    disturbance: float


def interleave(
    calls: dict[str, Callable[[], Any]],
    arguments: argparse.Namespace,
    *,
    warm: bool = False,
) -> Measured:
    """Time calls in turn, round by round, so that noise falls on all of them alike.

    Each round starts with another call.  A round before the first warms up caches,
    thread pools and lazy imports.  Rounds during which other processes kept a CPU busy
    are repeated while the patience lasts, and the quietest count: a call that waits at
    barriers for its slowest thread, as OpenMP's do, may take ten times as long then.
    With `warm`, for calls of milliseconds, each call is repeated until the threads that
    it woke have found their cores, and the median of three calls after that counts.
    """
    names = list(calls)
    rounds: list[tuple[float, dict[str, float]]] = []
    results: dict[str, Any] = {name: calls[name]() for name in names}
    deadline = time.monotonic() + arguments.patience
    n_quiet = 0
    while len(rounds) < arguments.repeats or (
        n_quiet < arguments.repeats and time.monotonic() < deadline
    ):
        _wait_until_quiet(deadline)
        shift = len(rounds) % len(names)
        seconds = {}
        load = _OthersLoad()
        for name in names[shift:] + names[:shift]:
            results[name] = None  # frees the memory of the round before
            time.sleep(_PAUSE_SECONDS)
            repeats = 3 if warm else 1
            settled = time.perf_counter() + (_SETTLING_SECONDS if warm else 0.0)
            while time.perf_counter() < settled:
                calls[name]()
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                results[name] = calls[name]()
                times.append(time.perf_counter() - start)
            seconds[name] = statistics.median(times)
        rounds.append((load.so_far(), seconds))
        n_quiet += rounds[-1][0] <= _QUIET_CPUS
    kept = sorted(rounds, key=lambda one: one[0])[: arguments.repeats]
    return Measured(
        {name: Timing([one[1][name] for one in kept], results[name]) for name in names},
        kept[-1][0],
    )


class _OthersLoad:
    """How many CPUs other processes keep busy; 0 where the kernel does not say."""

    def __init__(self) -> None:
        self._start = time.monotonic(), _busy_seconds(), time.process_time()

    def so_far(self) -> float:
        wall, busy, own = self._start
        others = (_busy_seconds() - busy) - (time.process_time() - own)
        return max(0.0, others / max(time.monotonic() - wall, 1e-9))


def _busy_seconds() -> float:
    """Time that all CPUs together have not been idle, by Linux's /proc/stat."""
    path = Path("/proc/stat")
    if not path.exists():
        return time.process_time()
    ticks = [int(field) for field in path.read_text().split(maxsplit=9)[1:9]]
    idle, waiting = ticks[3:5]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _wait_until_quiet(deadline: float) -> None:
    while time.monotonic() < deadline:
        load = _OthersLoad()
        time.sleep(0.5)
        if load.so_far() <= _QUIET_CPUS:
            return


def times_faster(ours: Timing, theirs: Timing) -> float:
    """Return the peer's median time over ours: above 1 we are faster."""
    return theirs.median / ours.median


def spread(ours: Timing, theirs: Timing) -> str:
    """Lowest and highest ratio of the single rounds."""
    ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def equal_share(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Share of equal entries, in percent."""
    return f"{100 * np.mean(ours == theirs):.3f}%"


def milliseconds(timing: Timing) -> str:
    """Median, in milliseconds."""
    return f"{1e3 * timing.median:.1f}"


# -- recording -------------------------------------------------------------------------

PEERS = ("numpy", "scikit-learn", "faiss-cpu", "nanopq")
DEVICE_PEERS = ("cupy-cuda12x", "cupy-cuda13x", "torch")
INSTRUCTIONS = {"avx2": "AVX2", "avx512": "AVX-512", "neon": "NEON"}


def record(
    arguments: argparse.Namespace,
    key: str,
    figure: str,
    what: str,
    *,
    data: str,
    device: str | None = None,
) -> None:
    """Keep a figure that pages give in ``figures.json``, if --record asks for it.

    Parameters
    ----------
    arguments : Namespace
        Of a parser that records.
    key : str
        Name of the figure; it begins with that of the script.
    figure : str
        As a sentence shows it.
    what : str
        What it is.
    data : str
        What it was measured on.
    device : str, optional
        Name of the GPU that computed.
    """
    if not arguments.record:
        return
    script = Path(sys.argv[0]).name
    figures = _figures.load()
    origin = about(data, n_cpus())
    if device is not None:
        origin["device"] = device
        origin["versions"] |= _versions(DEVICE_PEERS)
    figures["said"][key] = _figures.sealed(
        {"figure": figure, "what": what, "script": f"benchmarks/{script}"} | origin
    )
    _figures.store(figures)


def about(data: str, threads: int) -> dict[str, Any]:
    """Return what a record says of its measurement."""
    from skvq.nearest.native import status

    versions = {"python": platform.python_version()} | _versions(("skvq", *PEERS))
    instructions = _figures.SETS.get(status().level or "")
    return {
        "machine": {
            "processor": processor(),
            "instructions": INSTRUCTIONS.get(instructions, "NumPy's engine"),
            "cores": os.cpu_count(),
            "threads": threads,
        },
        "versions": versions,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "data": data,
    }


def _versions(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = _version(name)
        except PackageNotFoundError:
            continue
    return versions


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout, marked if what is measured differs from it."""
    code = ["--", "skvq", "benchmarks/*.py"]
    try:
        named, changed = (
            subprocess.run(
                ["git", *words], cwd=_figures.ROOT, capture_output=True, text=True
            )
            for words in (
                ["rev-parse", "--short=7", "HEAD"],
                ["status", "--porcelain", *code],
            )
        )
    except OSError:
        return None
    if named.returncode:
        return None
    return named.stdout.strip() + "-dirty" * bool(changed.stdout)


# -- printing --------------------------------------------------------------------------


def verdict(*met: bool) -> str:
    """Mark a row that misses one of its targets."""
    return "ok" if all(met) else "**below**"


class Table:
    """A markdown table, printed row by row as the figures come in."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        print(f"\n### {title}\n", flush=True)
        print("| " + " | ".join(columns) + " |")
        print("|" + " --- |" * len(columns), flush=True)
        self._n_columns = len(columns)

    def row(self, *cells: object) -> None:
        """Print one row."""
        if len(cells) != self._n_columns:
            raise ValueError(f"{len(cells)} cells; expected {self._n_columns}.")
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def print_header(
    title: str, arguments: argparse.Namespace, data: str | None = None
) -> None:
    """Print the title and what the figures depend on."""
    print(f"## {title}\n")
    print(environment_line())
    print()
    print(data_line() if data is None else data)
    if arguments.quick:
        print("\nQuick run: sizes too small to judge, the verdicts mean nothing.")


def environment_line() -> str:
    """Name the CPUs, the versions and the BLAS libraries with their kernels."""
    parts = [f"{n_cpus()} CPUs ({processor()})"]
    parts.append(f"Python {platform.python_version()}")
    for name in ("skvq", *PEERS):
        try:
            parts.append(f"{name} {_version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    return "; ".join(parts + _blas_names()) + "."


def n_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Name the processor's model, where the system says it, else its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _version(name: str) -> str:
    # skvq may run from a checkout that is not installed.
    return (
        importlib.import_module(name).__version__ if name == "skvq" else version(name)
    )


def _blas_names() -> list[str]:
    names = []
    for library in threadpool_info():
        if library["user_api"] == "blas":
            owner = Path(library["filepath"]).parent.name
            names.append(
                f"BLAS of {owner}: {library['internal_api']} {library['version']}, "
                f"kernel {library.get('architecture', 'unknown')}, "
                f"{library['num_threads']} threads"
            )
    return sorted(names)
