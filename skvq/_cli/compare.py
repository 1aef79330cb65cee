"""``compare``: schemes at equal bits, on samples that they have not seen."""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from skvq._cli import schemes, sources
from skvq._cli.codec import (
    check_finite,
    check_output,
    open_data,
    positive,
    sample,
    seed,
)
from skvq._cli.console import (
    CommandError,
    Progress,
    first_line,
    markdown_table,
    say,
    say_json,
)
from skvq.codes import packed_bits
from skvq.display import RateDistortionDisplay
from skvq.io import atomic_write
from skvq.metrics import bits_per_sample, distortion, entropy_bits, sqnr

# The largest table that is learned here: more codewords take minutes.
_MAX_CODEWORDS = 2**12


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command.

    Parameters
    ----------
    commands : object
        What `add_subparsers` has returned.
    common : ArgumentParser
        Parent with the options of every command.
    """
    compare = commands.add_parser(
        "compare",
        parents=[common],
        help="compare schemes at equal bits",
        description="Fit schemes at budgets of bits on a part of the rows, and judge "
        "them on the rest: a table of bits per row, distortion (mean squared error, "
        "summed over features), signal-to-noise ratio and times.",
        epilog=f"families, sized to each budget: {', '.join(families())}\n\n"
        + schemes.usage(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument(
        "data", type=Path, metavar="DATA", help="matrix, samples in rows"
    )
    compare.add_argument(
        "--bits",
        type=positive,
        nargs="+",
        default=[],
        metavar="B",
        help="budgets, in bits per row",
    )
    compare.add_argument(
        "--schemes",
        nargs="+",
        metavar="SCHEME",
        help="families, with steps before them or not (standard+pq), and schemes with "
        "sizes (pq:8x256), which are fitted as they are; default: all families",
    )
    compare.add_argument(
        "--test-size",
        type=_share,
        default=0.25,
        metavar="SHARE",
        help="share of the rows to judge by; default: %(default)s",
    )
    compare.add_argument(
        "--test-key",
        metavar="NAME",
        help="array of the .npz file to judge by, instead of a share of the rows",
    )
    compare.add_argument(
        "--rows",
        type=positive,
        metavar="N",
        help="take a random sample of N rows; default: all",
    )
    compare.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="S",
        help="seed of sample, split and schemes; default: %(default)s",
    )
    compare.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="picture of distortion over bits, .png, .svg or .pdf",
    )
    sources.add_options(compare)
    compare.set_defaults(run=_compare)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(
            f"expected a share between 0 and 1, got '{text}'"
        )
    return share


# -- families: a scheme for each budget --------------------------------------------


class Unsuitable(Exception):
    """Why a family has no scheme for a budget."""


def _vq(bits: int, n_features: int, n_rows: int) -> str:
    if bits > 63 or 2**bits > _MAX_CODEWORDS:
        raise Unsuitable(f"one table may have at most {_MAX_CODEWORDS} codewords here")
    _check_rows(2**bits, n_rows)
    return f"vq:{2**bits}"


def _tables(name: str, n_most: int | None = None) -> Callable[[int, int, int], str]:
    """Tables of 256 codewords; the last ones smaller, if bits are left."""

    def size(bits: int, n_features: int, n_rows: int) -> str:
        n_tables = max(2, -(-bits // 8))
        if name in ("pq", "opq"):  # a table has at least one feature
            n_tables = min(n_tables, n_features)
        if bits < n_tables or n_tables < 2:
            raise Unsuitable("it needs two tables of two codewords")
        widths = [bits // n_tables + (j < bits % n_tables) for j in range(n_tables)]
        if 2 ** widths[0] > _MAX_CODEWORDS:
            raise Unsuitable(f"tables may have at most {_MAX_CODEWORDS} codewords here")
        _check_rows(2 ** widths[0], n_rows)
        if len(set(widths)) == 1:
            return f"{name}:{n_tables}x{2 ** widths[0]}"
        return f"{name}:{','.join(str(2**width) for width in widths)}"

    return size


def _kronecker(bits: int, n_features: int, n_rows: int) -> str:
    # Its search is over all pairs.
    if bits % 2 or bits > 16:
        raise Unsuitable("it has two factors of at most 256 codewords here")
    _check_rows(2 ** (bits // 2), n_rows)
    return f"kronecker:{2 ** (bits // 2)}"


def _levels(name: str) -> Callable[[int, int, int], str]:
    """As many levels for each feature as fit into the budget."""

    def size(bits: int, n_features: int, n_rows: int) -> str:
        n_levels = _whole_root(bits, n_features)
        if n_levels < 2:
            raise Unsuitable(
                f"it takes at least {n_features} bits, one for each feature"
            )
        return f"{name}:{n_levels}"

    return size


def _allocated(name: str) -> Callable[[int, int, int], str]:
    """Bits that are spread over the features."""

    def size(bits: int, n_features: int, n_rows: int) -> str:
        return f"{name},total_bits={bits}"

    return size


def _step(bits: int, n_features: int, n_rows: int) -> str:
    return f"step:{bits}"


def _spherical(bits: int, n_features: int, n_rows: int) -> str:
    if n_features < 2:
        raise Unsuitable("a direction needs two features")
    n_levels = _whole_root(bits - 8, n_features - 1) if bits > 8 else 1
    if n_levels < 2:
        raise Unsuitable(
            f"it takes at least {n_features + 7} bits: 8, and one for each angle"
        )
    return f"spherical:{n_levels}"


def _binary(bits: int, n_features: int, n_rows: int) -> str:
    if bits != n_features:
        raise Unsuitable(f"it takes {n_features} bits, one for each feature")
    return "binary"


def _pca_binary(bits: int, n_features: int, n_rows: int) -> str:
    if bits > min(n_features, n_rows):
        raise Unsuitable(f"there are only {min(n_features, n_rows)} components")
    return f"pca:{bits}+binary"


def _whole_root(bits: int, n: int) -> int:
    """Return the largest L with n log2 L <= bits, at most 2**16."""
    if bits >= 16 * n:
        return 2**16
    # Rounding must not turn a whole root into the number below.
    return math.floor(2 ** (bits / n) * (1 + 1e-12))


def _check_rows(n_codewords: int, n_rows: int) -> None:
    if n_codewords > n_rows:
        raise Unsuitable(f"{n_codewords} codewords are more than {n_rows} rows")


_FAMILIES: dict[str, Callable[[int, int, int], str]] = {
    "vq": _vq,
    "pq": _tables("pq"),
    "opq": _tables("opq"),
    "rq": _tables("rq"),
    "aq": _tables("aq"),
    "kronecker": _kronecker,
    "uniform": _allocated("uniform"),
    "tcq": _allocated("tcq"),
    "step": _step,
    "fsq": _levels("fsq"),
    "spherical": _spherical,
    "binary": _binary,
}
# Parameters that suit data of any scale, unless the user gives some.
_SETTINGS = {
    # Few equal cells between the extremes may be worse than the mean alone.
    "uniform": "levels=lloyd-max",
    "fsq": "bound=cdf",
    "spherical": "angles=density,radius=learned",
}
# What quantizes features one by one is best along principal axes; signs and directions
# are those about the mean.
_DEFAULT = ["vq", "pq", "opq", "rq", "aq", "kronecker", "uniform", "pca+uniform"]
_DEFAULT += ["pca+tcq", "pca+step", "fsq"]
_DEFAULT += ["standard+spherical", "standard+binary", "pca+binary"]


def families() -> list[str]:
    """Return the families that are compared by default."""
    return list(_DEFAULT)


@dataclass
class Candidate:
    """A scheme to be fitted, and what came out.

    Parameters
    ----------
    family : str
        What the user has named.
    scheme : str
        Its specification, with sizes.
    budget : int or None
        The bits that it was sized to.
    """

    family: str
    scheme: str
    budget: int | None
    bits: float = math.nan
    packed_bits: int = 0
    coded_bits: float = math.nan
    distortion: float = math.nan
    sqnr: float = math.nan
    fit_seconds: float = math.nan
    encode_seconds: float = math.nan
    warnings: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The bits that it is compared at: coded ones where it was sized to these."""
        last = schemes.split_steps(self.scheme)[-1]
        return self.coded_bits if last.startswith("step") else self.bits


@dataclass
class Skipped:
    """A scheme that there is no result of.

    Parameters
    ----------
    family : str
        What the user has named.
    budget : int or None
        The bits that it was to be sized to.
    reason : str
        Why.
    """

    family: str
    budget: int | None
    reason: str


def _candidates(
    names: list[str], budgets: list[int], n_features: int, n_rows: int
) -> tuple[list[Candidate], list[Skipped]]:
    """Size families to budgets; schemes with sizes stay as they are."""
    found, skipped = [], []
    for name in dict.fromkeys(names):
        if not _is_family(name):
            found.append(Candidate(name, name, None))
            continue
        for bits in budgets:
            try:
                scheme = _sized(name, bits, n_features, n_rows)
            except Unsuitable as reason:
                skipped.append(Skipped(name, bits, str(reason)))
                continue
            found.append(Candidate(name, scheme, bits))
    return found, skipped


def _is_family(name: str) -> bool:
    *_, last = schemes.split_steps(name)
    return last.partition(",")[0] in _FAMILIES


def _sized(name: str, bits: int, n_features: int, n_rows: int) -> str:
    if name == "pca+binary":  # sized as one
        return _pca_binary(bits, n_features, n_rows)
    *before, last = schemes.split_steps(name)
    family, comma, settings = last.partition(",")
    sized = _FAMILIES[family](bits, _n_left(name, n_features, n_rows), n_rows)
    settings = settings if comma else _SETTINGS.get(family, "")
    return "+".join([*before, ",".join(filter(None, [sized, settings]))])


def _n_left(name: str, n_features: int, n_rows: int) -> int:
    """Return the number of features that the steps before a scheme leave of these.

    Where a share of the variance decides, only fitting tells: as many as there are.
    """
    for _, step in getattr(schemes.build(name, None), "steps", [])[:-1]:
        if "n_components" not in step.get_params():
            continue
        n_features = min(n_features, n_rows)
        if isinstance(step.n_components, int):
            n_features = min(n_features, step.n_components)
    return n_features


# -- the command -------------------------------------------------------------------


def _compare(arguments: argparse.Namespace) -> None:
    if arguments.plot is not None:
        check_output(arguments.plot, arguments.data)
        _check_plot(arguments.plot)
    names = arguments.schemes or families()
    _check_names(names, arguments.bits)
    progress = Progress(arguments.progress)
    train, test = _split(arguments, progress)
    found, skipped = _candidates(names, arguments.bits, train.shape[1], len(train))
    results = []
    for i, candidate in enumerate(found, 1):
        with progress.step(f"[{i}/{len(found)}] {candidate.scheme}"):
            reason = _run(candidate, train, test, arguments.seed)
        if reason is None:
            results.append(candidate)
        else:
            skipped.append(Skipped(candidate.family, candidate.budget, reason))
    results.sort(key=lambda found: (found.budget or found.rate, found.distortion))
    if arguments.plot is not None and results:
        _plot(arguments.plot, results, train, test)
    _report(arguments, train, test, results, skipped)
    if not results:
        raise CommandError("no scheme could be fitted", status=2)


def _check_names(names: list[str], budgets: list[int]) -> None:
    """Fail before any work if a scheme cannot be read."""
    for name in names:
        schemes.build(name, None)
        if _is_family(name) and not budgets:
            raise CommandError(
                f"--bits is missing: '{name}' is sized to budgets, such as --bits 32 64"
            )


def _split(
    arguments: argparse.Namespace, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    source = open_data(arguments)
    X, rows = sample(source, arguments.rows, arguments.seed, progress)
    check_finite(source.path, X, rows)
    if arguments.test_key is not None:
        other = sources.open_source(arguments.data, key=arguments.test_key)
        if other.n_features != source.n_features or not other.n_rows:
            raise CommandError(
                f"--test-key: '{arguments.test_key}' has shape ({other.n_rows}, "
                f"{other.n_features}), and should have {source.n_features} columns"
            )
        train, test = X, other.load()
        check_finite(other.path, test, None)
    else:
        if len(X) < 3:
            raise CommandError(f"{source.path} has {len(X)} rows: too few to split")
        n_test = min(max(1, round(arguments.test_size * len(X))), len(X) - 2)
        train, test = train_test_split(X, test_size=n_test, random_state=arguments.seed)
    return train, test


def _run(
    candidate: Candidate, train: np.ndarray, test: np.ndarray, seed: int
) -> str | None:
    """Fit and judge a candidate; return why that was not possible."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _measure(candidate, train, test, seed)
        except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
            return first_line(error) or type(error).__name__
    messages = [first_line(warning.message) for warning in caught]
    candidate.warnings = list(dict.fromkeys(messages))
    return None


def _measure(
    candidate: Candidate, train: np.ndarray, test: np.ndarray, seed: int
) -> None:
    estimator = schemes.build(candidate.scheme, seed)
    began = time.perf_counter()
    estimator.fit(train)
    fitted = time.perf_counter()
    codes = estimator.transform(test)
    encoded = time.perf_counter()
    decoded = estimator.inverse_transform(codes)
    quantizer = getattr(estimator, "steps", [(None, estimator)])[-1][1]
    candidate.bits = bits_per_sample(estimator)
    candidate.packed_bits = packed_bits(quantizer.codebook_sizes_)
    if all(counts is not None for counts in quantizer.code_counts_):
        candidate.coded_bits = entropy_bits(estimator, test)
    candidate.distortion = distortion(test, decoded)
    candidate.sqnr = sqnr(test, decoded)
    candidate.fit_seconds = fitted - began
    candidate.encode_seconds = encoded - fitted


# -- what the user sees ------------------------------------------------------------


def _report(
    arguments: argparse.Namespace,
    train: np.ndarray,
    test: np.ndarray,
    results: list[Candidate],
    skipped: list[Skipped],
) -> None:
    if arguments.json:
        say_json(
            {
                "data": str(arguments.data),
                "seed": arguments.seed,
                "train_rows": len(train),
                "test_rows": len(test),
                "features": train.shape[1],
                "results": [asdict(result) for result in results],
                "skipped": [asdict(skip) for skip in skipped],
            }
        )
        return
    lines = _table(results) if results else []
    lines += [
        "",
        f"Fitted on {len(train):,} rows of {train.shape[1]} features, judged on "
        f"{len(test):,} others.",
        "bits: of each row, packed. coded: in the mean, in a file of encode --entropy. "
        "distortion:",
        "mean squared error of a row, summed over features. encode: for those rows.",
    ]
    for result in results:
        lines += [f"{result.scheme}: {message}" for message in result.warnings]
    lines += _describe_skipped(skipped)
    if arguments.plot is not None and results:
        lines += ["", f"Picture: {arguments.plot}"]
    say("\n".join(lines))


def _table(results: list[Candidate]) -> list[str]:
    header = "scheme", "bits", "coded", "distortion", "SQNR, dB", "fit, s", "encode, s"
    rows = [
        (
            result.scheme,
            f"{result.bits:.6g}",
            "" if math.isnan(result.coded_bits) else f"{result.coded_bits:.2f}",
            f"{result.distortion:.6g}",
            f"{result.sqnr:.2f}",
            f"{result.fit_seconds:.2f}",
            f"{result.encode_seconds:.3f}",
        )
        for result in results
    ]
    return markdown_table([header, *rows])


def _describe_skipped(skipped: list[Skipped]) -> list[str]:
    """Return a line for each reason, with the budgets that it holds for."""
    budgets: dict[tuple[str, str], list[str]] = {}
    for skip in skipped:
        found = budgets.setdefault((skip.family, skip.reason), [])
        found += [] if skip.budget is None else [str(skip.budget)]
    lines = ["", "Left out:"] if budgets else []
    for (family, reason), bits in budgets.items():
        lines.append(f"{family}{' at ' if bits else ''}{', '.join(bits)}: {reason}")
    return lines


def _check_plot(path: Path) -> None:
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise CommandError(
            "--plot needs matplotlib: pip install 'skvq[demo]'"
        ) from error
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise CommandError(
            f"--plot: {path} should end in one of .{', .'.join(sorted(kinds))}"
        )


def _plot(
    path: Path, results: list[Candidate], train: np.ndarray, test: np.ndarray
) -> None:
    """Draw a curve for each family, and the bound of a Gaussian source."""
    from matplotlib.figure import Figure

    # Figure has no global state and no window.
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    middle = test.mean(axis=0, dtype=np.float64)
    variance = distortion(test, np.broadcast_to(middle, test.shape)) / test.shape[1]
    curves: dict[str, list[Candidate]] = {}
    for result in results:
        curves.setdefault(result.family, []).append(result)
    # The bound reaches as far as the curve that it is drawn with.
    longest = max(curves, key=lambda family: _span(curves[family]))
    for family in sorted(curves, key=lambda family: family != longest):
        RateDistortionDisplay(
            [result.rate / test.shape[1] for result in curves[family]],
            [result.distortion / test.shape[1] for result in curves[family]],
            variance=variance,
            name=family,
        ).plot(ax=axes, plot_bound=family == longest)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lower().removeprefix("."), dpi=150)


def _span(curve: list[Candidate]) -> float:
    bits = [result.rate for result in curve]
    return max(bits) - min(bits)
