"""Races of skvq and its peers: who takes how long, beside targets and the peak.

What all find is compared before it is timed.  A row whose quartiles are more than 10%
apart on any side says nothing, and is marked "void".
"""

import _common  # isort: split

import argparse
import os
import statistics
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from skvq.nearest import native

faiss = _common.peer("faiss")

PEAK_SHARE = 0.75
KEPT_SHARE = 0.8
MOST_GAP = 0.1
MOST_DISTORTION = 1.005
# By which two codewords may differ in distance where either may be found.
NEAR = 2.0**-18
UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3}


class Target(NamedTuple):
    """How many times as fast as a peer; 0 where nothing is promised."""

    avx2: float = 0.0
    avx512: float = 0.0
    two: float = 0.0  # threads, with AVX-512

    def here(self, n_threads):
        level = native.status().level
        if n_threads == 1:
            return {"v3": self.avx2, "v4": self.avx512}.get(level, 0.0)
        return self.two if n_threads == 2 and level == "v4" else 0.0


class Result(NamedTuple):
    """A row of a race."""

    case: tuple
    n_rows: int
    seconds: dict[str, list[float]]  # of each round, for all rows
    load: float  # CPUs that others kept busy
    of_peak: float  # 0 if it was not looked at, like
    distortion: float  # beside faiss's
    is_void: bool

    def kept(self):
        """Return what `figures.json` holds of it; times are those of one row."""
        looked_at = {"of_peak": self.of_peak, "distortion": self.distortion}
        return {
            "rows": self.n_rows,
            "rounds": len(self.seconds["skvq"]),
            "load": rounded(self.load),
            **{name: rounded(value) for name, value in looked_at.items() if value},
            "void": self.is_void,
            "sides": {
                side: middle_of([one / self.n_rows for one in seconds])
                for side, seconds in self.seconds.items()
            },
        }


def middle_of(seconds):
    """Return the median and the quartiles of rounds."""
    if len(seconds) < 2:
        return {"median": rounded(seconds[0]), "quartiles": None}
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": rounded(middle), "quartiles": [rounded(low), rounded(high)]}


def rounded(value):
    """Return a number with the four digits that are kept of it."""
    return float(f"{value:.4g}")


def peak(n_threads, seconds=0.2):
    """Multiply-adds that so many threads do in a second, at most."""
    library, rounds, best = native.library(), 4_000_000, 0.0
    library.skvq_peak.argtypes = [native.ctypes.c_int64]
    library.skvq_peak.restype = native.ctypes.c_int64
    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(n_threads) as pool:
        while time.perf_counter() < end:
            start = time.perf_counter()
            done = rounds * sum(pool.map(library.skvq_peak, [rounds] * n_threads))
            best = max(best, done / (time.perf_counter() - start))
    return best


def quartile_gap(seconds):
    """How far the quartiles are apart, as a share of the median."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


class Race:
    """A table of sides that take turns, the first of which is skvq.

    Parameters
    ----------
    title : str
        What is timed, and what the numbers of a case are.
    arguments : Namespace
        As `parse` returns.
    sides : tuple of str
        Whose times are shown.  Beside "kernel", what skvq spends in its engine alone,
        it is seen how much of the engine's speed is kept.
    peers : tuple of str
        Those of them that skvq is to be faster than.
    unit : {"ns", "us", "ms"}
        Of the times of one row.
    of_peak : bool
        Whether cases have a share of the peak.
    distortion : bool
        Whether cases have a distortion beside that of the first peer.
    """

    def __init__(
        self,
        title,
        arguments,
        *,
        sides=("skvq", "faiss"),
        peers=("faiss",),
        unit="ns",
        of_peak=False,
        distortion=False,
    ):
        self.arguments, self.sides, self.peers = arguments, sides, peers
        self.unit, self.of_peak, self.distortion = unit, of_peak, distortion
        self.results = []
        columns = ["case", "rows", *(f"{side} {unit}" for side in sides)]
        for peer in peers:
            columns += [f"x {peer}", "target"]
        columns += ["kept of the kernel's"] * ("kernel" in sides)
        columns += ["distortion"] * distortion + ["of the peak"] * of_peak
        columns += ["quartiles apart", "others' load", "verdict"]
        self.table = _common.Table(title, columns)

    def row(self, case, n, calls, targets, *, work=0, most=None, judge=None, warm=True):
        """Time calls that see n rows.

        Parameters
        ----------
        case : tuple
            What is told apart.
        n : int
            Number of rows.
        calls : dict
            Functions by their sides; some of the sides.
        targets : dict
            A `Target` for some of the peers.
        work : int
            Multiply-adds of a row.
        most : float, optional
            Seconds that skvq may take for a row.
        judge : callable, optional
            Gives the distortion of skvq beside a peer's from what the calls have found.
        warm : bool
            As in `_common.interleave`.
        """
        n_threads = self.arguments.threads
        before = peak(n_threads) if work else 0.0
        timings, load = _common.interleave(calls, self.arguments, warm=warm)
        highest = max(before, peak(n_threads)) if work else 1.0
        seconds = {side: timings[side].median / n for side in calls}
        ours = seconds["skvq"]
        share = work / ours / highest
        if share > 1 and not self.arguments.quick:
            raise RuntimeError(f"{share:.0%} of the peak: the peak was not measured.")
        scale = UNITS[self.unit]
        words = [part for part in case if isinstance(part, str)]
        numbers = " x ".join(str(part) for part in case if not isinstance(part, str))
        cells = [" ".join([*words, numbers]), f"{n:,}"]
        cells += [
            f"{scale * seconds[side]:.4g}" if side in seconds else ""
            for side in self.sides
        ]
        met, distortion = [most is None or ours <= most], 0.0
        for peer in self.peers:
            if peer not in seconds:
                cells += ["", ""]
                continue
            target = targets.get(peer, Target()).here(n_threads)
            cells += [f"{seconds[peer] / ours:.2f}", f">= {target}" if target else ""]
            met.append(seconds[peer] / ours >= target)
        if "kernel" in self.sides:
            kept = seconds["kernel"] / ours if "kernel" in seconds else None
            cells.append("" if kept is None else f"{kept:.0%}")
            met.append(kept is None or kept >= KEPT_SHARE)
        if self.distortion:
            distortion = judge({side: timings[side].result for side in calls})
            cells.append(f"{distortion:.4f}")
            met.append(distortion <= MOST_DISTORTION)
        if self.of_peak:
            cells.append(f"{share:.0%}" if work else "")
            if work and case[0] >= 64 and case[1] >= 1024:
                met.append(share >= PEAK_SHARE)
        gaps = [quartile_gap(timings[side].seconds) for side in calls]
        is_void = max(gaps) > MOST_GAP
        self.table.row(
            *cells,
            " ".join(f"{gap:.0%}" for gap in gaps),
            f"{load:.2f}",
            "void" if is_void else _common.verdict(*met),
        )
        rounds = {side: timings[side].seconds for side in calls}
        self.results.append(
            Result(case, n, rounds, load, share, distortion, bool(is_void))
        )


# -- what is compared ------------------------------------------------------------------


def exact_distances(X, tables, codes):
    """Squared distances of slices of rows to their codewords, for each table."""
    start = 0
    for table, column in zip(tables, codes.T, strict=True):
        stop = start + table.shape[1]
        gaps = X[:, start:stop].astype(float) - np.asarray(table, float)[column]
        yield np.square(gaps).sum(axis=1)
        start = stop


def check_no_worse(X, tables, ours, theirs):
    """Raise unless each of our codes is as near as the peer's, by exact distances."""
    for mine, other in zip(
        exact_distances(X, tables, ours),
        exact_distances(X, tables, theirs),
        strict=True,
    ):
        if (mine > (1 + NEAR) * other).any():
            raise RuntimeError("Some codes are not the nearest.")


def error_of_sums(X, codebooks, codes):
    """Squared error of sums of codewords, of all rows together."""
    sums = sum(
        np.asarray(table, float)[column]
        for table, column in zip(codebooks, codes.T, strict=True)
    )
    return np.square(X - sums).sum()


def codebook_of(X, n_codewords):
    distinct = np.unique(X, axis=0)
    return np.random.default_rng(0).permutation(distinct)[:n_codewords]


# -- running ---------------------------------------------------------------------------


def options(doc, groups, *, repeats):
    """Return the parser of a script whose tables are made by `groups`, by name."""

    def names(text):
        unknown = set(text.split(",")) - set(groups)
        if unknown:
            raise argparse.ArgumentTypeError(
                f"expected some of {','.join(groups)}; not {','.join(unknown)}"
            )
        return text.split(",")

    parser = _common.timed_parser(doc.splitlines()[0], repeats=repeats, patience=30.0)
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument(
        "--only",
        type=names,
        default=list(groups),
        metavar="NAMES",
        help=f"some of the tables: {','.join(groups)}",
    )
    return parser


def run(title, groups, arguments):
    """Print the chosen tables, and return their results."""
    if native.library() is None:
        print(f"The compiled engine is not there: {native.status().reason}")
        return {}
    _common.settle(arguments)
    _common.print_header(title, arguments)
    level, compiled = native.status().level, faiss.get_compile_options().strip()
    print(f"\nskvq {level}, faiss {compiled}, {arguments.threads} threads,", end=" ")
    print("load " + " ".join(f"{load:.2f}" for load in os.getloadavg()))
    faiss.omp_set_num_threads(arguments.threads)
    with threadpool_limits(arguments.threads), warnings.catch_warnings():
        # Few iterations are the same number for all.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {name: groups[name](arguments) for name in arguments.only}
