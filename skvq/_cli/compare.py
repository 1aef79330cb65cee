"""``compare``: schemes at equal bits, on samples that they have not seen."""

import argparse
import math
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from skvq._cli import schemes, sources
from skvq._cli.cache import Cache, default_folder
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
    undisturbed,
)
from skvq._gaussian import n_coded, principal_variances
from skvq._pipelines import find_codec
from skvq.codes import packed_bits
from skvq.display import RateDistortionDisplay
from skvq.io import atomic_write
from skvq.metrics import bits_per_sample, distortion, entropy_bits, sqnr

# The largest table that is learned here: more codewords take minutes.
_MAX_CODEWORDS = 2**12
# Fits on so many rows and on twice as many tell how long all will take.  Fewer rows
# than the second number take seconds anyway.
_FEW_ROWS, _LEAST_ROWS = 256, 512
# Rows that principal axes are looked for in, before their number is chosen.
_AXES_ROWS = 10_000
# A scale of tokens is worth its bits while codewords are this many at least.
_SCALE_CODEWORDS = 4


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
        "summed over features), signal-to-noise ratio and times. Interrupted, it shows "
        "what is finished; a further run with the same rows goes on from there.",
        epilog=f"families, sized to each budget: {', '.join(families())}, and with "
        "--map-shape multiscale\n\n" + schemes.usage(),
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
        "--map-shape",
        type=_map_shape,
        metavar="H,W",
        help="rows are maps of H x W places, all channels of a place together; L "
        "alone: sequences of L places; adds multiscale to the families",
    )
    compare.add_argument(
        "--cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep results for the next run, and take those of the last; default: "
        + _kept_in(default_folder()),
    )
    compare.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="picture of distortion over bits, .png, .svg or .pdf",
    )
    sources.add_options(compare)
    compare.set_defaults(run=_compare)


def _kept_in(folder: Path | None) -> str:
    """Return where results are kept, for the help, in which % begins a placeholder."""
    if folder is None:
        return "they are not kept, since there is no home"
    return f"in {folder}".replace("%", "%%")


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


def _map_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8}){0,2}", text):
        raise argparse.ArgumentTypeError(
            f"expected H,W for maps, or L for sequences, got '{text}'"
        )
    return tuple(int(side) for side in text.split(","))


# -- families: a scheme for each budget --------------------------------------------


class Unsuitable(Exception):
    """Why a family has no scheme for a budget."""


@dataclass(frozen=True)
class Facts:
    """What a family is sized by, beside the budget.

    Parameters
    ----------
    n_features : int
        Numbers in a row.
    n_rows : int
        Rows to fit on.
    map_shape : tuple of int, optional
        The shape of the map that a row is.
    variances : callable, optional
        Returns the variances along the principal axes of the rows behind some steps.
    settings : str, default=""
        Parameters that the user gives.
    """

    n_features: int
    n_rows: int
    map_shape: tuple[int, ...] | None = None
    variances: Callable[[list[str]], np.ndarray] | None = None
    settings: str = ""


# Returns the specification of a family for a budget.
Sizing = Callable[[int, Facts], str]


def _vq(bits: int, facts: Facts) -> str:
    if bits > 63 or 2**bits > _MAX_CODEWORDS:
        raise Unsuitable(f"one table may have at most {_MAX_CODEWORDS} codewords here")
    _check_rows(2**bits, facts.n_rows)
    return f"vq:{2**bits}"


def _tables(name: str) -> Sizing:
    """Tables of 256 codewords; the last ones smaller, if bits are left."""

    def size(bits: int, facts: Facts) -> str:
        n_tables = max(2, -(-bits // 8))
        if name in ("pq", "opq"):  # a table has at least one feature
            n_tables = min(n_tables, facts.n_features)
        if bits < n_tables or n_tables < 2:
            raise Unsuitable("it needs two tables of two codewords")
        widths = [bits // n_tables + (j < bits % n_tables) for j in range(n_tables)]
        if 2 ** widths[0] > _MAX_CODEWORDS:
            raise Unsuitable(f"tables may have at most {_MAX_CODEWORDS} codewords here")
        _check_rows(2 ** widths[0], facts.n_rows)
        if len(set(widths)) == 1:
            return f"{name}:{n_tables}x{2 ** widths[0]}"
        return f"{name}:{','.join(str(2**width) for width in widths)}"

    return size


def _kronecker(bits: int, facts: Facts) -> str:
    # Its search is over all pairs.
    if bits % 2 or bits > 16:
        raise Unsuitable("it has two factors of at most 256 codewords here")
    _check_rows(2 ** (bits // 2), facts.n_rows)
    return f"kronecker:{2 ** (bits // 2)}"


def _levels(name: str) -> Sizing:
    """As many levels for each feature as fit into the budget."""

    def size(bits: int, facts: Facts) -> str:
        n_levels = _whole_root(bits, facts.n_features)
        if n_levels < 2:
            raise Unsuitable(
                f"it takes at least {facts.n_features} bits, one for each feature"
            )
        return f"{name}:{n_levels}"

    return size


def _allocated(name: str) -> Sizing:
    """Bits that are spread over the features."""

    def size(bits: int, facts: Facts) -> str:
        return f"{name},total_bits={bits}"

    return size


def _step(bits: int, facts: Facts) -> str:
    return f"step:{bits}"


def _spherical(bits: int, facts: Facts) -> str:
    if facts.n_features < 2:
        raise Unsuitable("a direction needs two features")
    n_levels = _whole_root(bits - 8, facts.n_features - 1) if bits > 8 else 1
    if n_levels < 2:
        raise Unsuitable(
            f"it takes at least {facts.n_features + 7} bits: 8, and one for each angle"
        )
    return f"spherical:{n_levels}"


def _binary(bits: int, facts: Facts) -> str:
    if bits != facts.n_features:
        raise Unsuitable(f"it takes {facts.n_features} bits, one for each feature")
    return "binary"


def _multiscale(bits: int, facts: Facts) -> str:
    """As many scales, from the coarsest on, as leave enough codewords for each."""
    given = schemes.build(",".join(filter(None, ["multiscale", facts.settings])), None)
    map_shape = facts.map_shape if given.map_shape is None else given.map_shape
    if map_shape is None:
        raise Unsuitable("no file says of what shape maps are: --map-shape H,W does")
    sides = map_shape[:-1]
    found = []
    if given.map_shape is None:
        found.append(f"map_shape={_without_spaces(map_shape)}")
    if given.scales == "auto":
        scales = _scales(sides)
        numbers = np.cumsum([math.prod(scale) for scale in scales])
        n_most = bits / math.log2(_SCALE_CODEWORDS)
        n_scales = max(1, int(np.searchsorted(numbers, n_most, side="right")))
        chosen = [
            scale[0] if len(set(scale)) == 1 else scale for scale in scales[:n_scales]
        ]
        n_tokens = int(numbers[n_scales - 1])
        found.append(f"scales={_without_spaces(tuple(chosen))}")
    else:
        n_tokens = sum(
            math.prod(scale) if isinstance(scale, tuple | list) else scale ** len(sides)
            for scale in given.scales
        )
    n_codewords = min(_whole_root(bits, n_tokens), _MAX_CODEWORDS)
    if n_codewords < 2:
        raise Unsuitable(f"it takes at least {n_tokens} bits, one for each token")
    _check_rows(n_codewords, facts.n_rows * n_tokens)
    return ",".join([f"multiscale:{n_codewords}", *found])


def _scales(sides: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return token grids that double up to the sides of a map."""
    n = (max(sides) - 1).bit_length()
    return [tuple(-(-side // 2**k) for side in sides) for k in range(n, -1, -1)]


def _without_spaces(value: tuple[Any, ...]) -> str:
    return repr(value).replace(" ", "")


def _whole_root(bits: int, n: int) -> int:
    """Return the largest L with n log2 L <= bits, at most 2**16."""
    if bits >= 16 * n:
        return 2**16
    # Rounding must not turn a whole root into the number below.
    return math.floor(2 ** (bits / n) * (1 + 1e-12))


def _check_rows(n_codewords: int, n_rows: int) -> None:
    if n_codewords > n_rows:
        raise Unsuitable(f"{n_codewords} codewords are more than {n_rows} rows")


_FAMILIES: dict[str, Sizing] = {
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
    "multiscale": _multiscale,
}
# Parameters that suit data of any scale, unless the user gives some.
_SETTINGS = {
    # Few equal cells between the extremes may be worse than the mean alone.
    "uniform": "levels=lloyd-max",
    "fsq": "squash=cdf",
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
    cached: bool = False

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
    names: list[str], budgets: list[int], facts: Facts
) -> tuple[list[Candidate], list[Skipped]]:
    """Size families to budgets; schemes with sizes stay as they are."""
    found, skipped = [], []
    for name in dict.fromkeys(names):
        if not _is_family(name):
            found.append(Candidate(name, name, None))
            continue
        for bits in budgets:
            try:
                scheme = _sized(name, bits, facts)
            except Unsuitable as reason:
                skipped.append(Skipped(name, bits, str(reason)))
                continue
            found.append(Candidate(name, scheme, bits))
    return found, skipped


def _is_family(name: str) -> bool:
    *_, last = schemes.split_steps(name)
    return last.partition(",")[0] in _FAMILIES


def _sized(name: str, bits: int, facts: Facts) -> str:
    *before, last = schemes.split_steps(name)
    family, comma, settings = last.partition(",")
    for i, step in enumerate(before):
        # Principal axes without a number: as many as the budget has bits for.
        if re.match("pca(,|$)", step) and "n_components" not in step:
            n = _n_components(family, bits, before[:i], facts)
            before[i] = step if n is None else f"pca:{n}{step[3:]}"
    facts = replace(
        facts, n_features=_n_left([*before, last], facts), settings=settings
    )
    sized = _FAMILIES[family](bits, facts)
    settings = settings if comma else _SETTINGS.get(family, "")
    return "+".join([*before, ",".join(filter(None, [sized, settings]))])


def _n_components(
    family: str, bits: int, before: list[str], facts: Facts
) -> int | None:
    """Return how many principal axes a family has use for; None: for all there are."""
    n_most = min(facts.n_features, facts.n_rows)
    if family == "binary":
        if bits > n_most:
            raise Unsuitable(f"there are only {n_most} components")
        return bits
    if facts.variances is None or family == "multiscale":
        return None
    variances = facts.variances(before)[:n_most]
    if family == "fsq":
        n = _n_alike(bits, variances)
    elif family == "spherical":
        n = 1 + _n_alike(bits - 8, variances[1:])
    else:
        # What is below the level of the error at these bits would be left out anyway.
        n = n_coded(variances, bits)
    if family in ("pq", "opq"):  # a table has at least one feature
        n = max(n, 2, -(-bits // 8))
    if family == "kronecker":  # whose factors should be alike
        n = -(-n // 4) * 4
    return n if n < n_most else None


def _n_alike(bits: int, variances: np.ndarray) -> int:
    """Return the best number of axes to have the same number of levels each."""
    sums = np.append(0.0, np.cumsum(variances))
    best, least = 1, math.inf
    for n in range(1, len(variances) + 1):
        n_levels = _whole_root(bits, n) if bits > 0 else 1
        if n_levels < 2:
            break
        # About what Lloyd-Max levels leave of a Gaussian feature.
        error = 2 / n_levels**2 * sums[n] + sums[-1] - sums[n]
        if error < least:
            best, least = n, error
    return best


def _n_left(steps: list[str], facts: Facts) -> int:
    """Return the number of features that the steps before a scheme leave.

    Where a share of the variance decides, only fitting tells: as many as there are.
    """
    n_features = facts.n_features
    for _, step in getattr(schemes.build("+".join(steps), None), "steps", [])[:-1]:
        if "n_components" not in step.get_params():
            continue
        n_features = min(n_features, facts.n_rows)
        if isinstance(step.n_components, int):
            n_features = min(n_features, step.n_components)
    return n_features


def _facts(train: np.ndarray, map_shape: tuple[int, ...] | None) -> Facts:
    n_rows, n_features = train.shape
    if map_shape is not None:
        places = math.prod(map_shape[:2])
        whole = map_shape if len(map_shape) == 3 else (*map_shape, n_features // places)
        if math.prod(whole) != n_features:
            raise CommandError(
                f"--map-shape: maps of {' x '.join(map(str, map_shape))} do not have "
                f"the {n_features} features of a row"
            )
        map_shape = whole
    found: dict[str, np.ndarray] = {}

    def variances(steps: list[str]) -> np.ndarray:
        key = "+".join(steps)
        if key not in found:
            rows = train[:: -(-n_rows // _AXES_ROWS)]
            if steps:
                for _, step in schemes.build(f"{key}+vq", None).steps[:-1]:
                    rows = step.fit_transform(rows)
            found[key] = principal_variances(rows)
        return found[key]

    return Facts(n_features, n_rows, map_shape, variances)


# -- the command -------------------------------------------------------------------


def _compare(arguments: argparse.Namespace) -> None:
    if arguments.plot is not None:
        check_output(arguments.plot, arguments.data)
        _check_plot(arguments.plot)
    names = arguments.schemes or families()
    if arguments.map_shape is not None and not arguments.schemes:
        names.append("multiscale")
    _check_names(names, arguments.bits)
    # What takes minutes tells of itself wherever it is told to.
    progress = Progress(arguments.progress is not False)
    train, test = _split(arguments, Progress(arguments.progress))
    facts = _facts(train, arguments.map_shape)
    found, skipped = _candidates(names, arguments.bits, facts)
    folder = default_folder() if arguments.cache else None
    cache = Cache(folder, (train, test), arguments.seed)
    for candidate in found:
        _recall(candidate, cache.read(candidate.scheme))
    run = _Run(arguments, train, test, skipped)
    try:
        _run_all(run, found, cache, progress)
        if arguments.plot is not None and run.results:
            _plot(arguments.plot, run.results, test)
            run.drawn = True
    except BaseException:  # signals, a full disk, what nobody has thought of
        with undisturbed():
            done = {*map(id, run.results), *map(id, run.failed)}
            run.unfinished = [one.scheme for one in found if id(one) not in done]
            _report(run)
        raise
    _report(run)
    if not run.results:
        raise CommandError("no scheme could be fitted", status=2)


@dataclass
class _Run:
    """What a run has found so far."""

    arguments: argparse.Namespace
    train: np.ndarray
    test: np.ndarray
    skipped: list[Skipped]
    results: list[Candidate] = field(default_factory=list)
    failed: list[Candidate] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    drawn: bool = False

    def add(self, candidate: Candidate, reason: str | None) -> None:
        if reason is None:
            self.results.append(candidate)
            self.results.sort(key=lambda one: (one.budget or one.rate, one.distortion))
            return
        self.failed.append(candidate)
        self.skipped.append(Skipped(candidate.family, candidate.budget, reason))


def _run_all(
    run: _Run, found: list[Candidate], cache: Cache, progress: Progress
) -> None:
    """Fit and judge what is not known of an earlier run; tell of each."""
    seed = run.arguments.seed
    numbered = [(f"[{i}/{len(found)}]", one) for i, one in enumerate(found, 1)]
    for number, candidate in numbered:
        if candidate.cached:
            run.add(candidate, None)
            progress.line(f"{number} {candidate.scheme} {_in_short(candidate)}, known")
    waiting = [(number, one) for number, one in numbered if not one.cached]
    if waiting and progress.shown:
        _estimate([one for _, one in waiting], run, progress)
    for number, candidate in waiting:
        with progress.step(f"{number} {candidate.scheme}") as told:
            reason = _run_one(candidate, run.train, run.test, seed)
            told.append(_in_short(candidate) if reason is None else reason)
        if reason is None:
            cache.write(candidate.scheme, _measured(candidate))
        run.add(candidate, reason)


def _in_short(result: Candidate) -> str:
    return f"{result.bits:.6g} bits, distortion {result.distortion:.6g}"


def _estimate(waiting: list[Candidate], run: _Run, progress: Progress) -> None:
    """Tell how long schemes will take, from what they take on a few rows."""
    n_few = _n_few(len(run.train))
    if n_few is None:
        return
    families: dict[str, list[Candidate]] = {}
    for candidate in waiting:
        families.setdefault(candidate.family, []).append(candidate)
    seconds: dict[str, float] = {}
    with progress.step(f"measuring on {2 * n_few:,} rows how long it will take"):
        for family, several in families.items():
            # The others of a family take longer in proportion.
            found = _predicted(several[0], run, n_few)
            if found is not None:
                work = [_work(candidate) for candidate in several]
                seconds[family] = found * sum(work) / work[0]
    if seconds:
        parts = ", ".join(f"{name} {_seconds(one)}" for name, one in seconds.items())
        progress.line(f"about {_seconds(sum(seconds.values()))} in all: {parts}")


def _n_few(n_rows: int) -> int | None:
    """Return the smaller number of rows to be measured; None if there are too few.

    They are a small part of the whole, and enough for tables of 256 codewords where
    that can be.
    """
    if n_rows < _LEAST_ROWS:
        return None
    if n_rows < 16 * _FEW_ROWS:
        return min(n_rows // 32, _FEW_ROWS // 4)
    return max(_FEW_ROWS, min(n_rows // 64, 8 * _FEW_ROWS))


def _work(candidate: Candidate) -> float:
    """Return what the time of a scheme of a family is about proportional to."""
    if candidate.budget is None:
        return 1.0
    last = schemes.split_steps(candidate.family)[-1].partition(",")[0]
    # These search all the codewords that their bits tell apart.
    return 2.0**candidate.budget if last in ("vq", "kronecker") else candidate.budget


def _predicted(candidate: Candidate, run: _Run, n_few: int) -> float | None:
    """Return the seconds that a candidate will take; None if it cannot be fitted."""
    times = []
    for n in (n_few, 2 * n_few):
        tried, few = replace(candidate), run.train[:: -(-len(run.train) // n)]
        if _run_one(tried, few, few, run.arguments.seed) is not None:
            return None
        times.append((tried.fit_seconds, tried.encode_seconds))
    (fit, _), (fit_twice, encode) = times
    # By the power of the number of rows that these two tell, at most the first: what
    # is done once, or stops growing, is in the times of all numbers alike.
    power = math.log2(fit_twice / fit) if fit_twice > fit > 0 else 0.0
    more = len(run.train) / (2 * n_few)
    return fit_twice * more ** min(power, 1.0) + encode * len(run.test) / (2 * n_few)


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.0f} s" if value >= 1 else "<1 s"
    return f"{value / 60:.0f} min"


def _measured(candidate: Candidate) -> dict[str, Any]:
    """Return what was measured of a candidate, for the cache."""
    return {
        one.name: getattr(candidate, one.name)
        for one in fields(Candidate)
        if one.name not in ("family", "scheme", "budget", "cached")
    }


def _recall(candidate: Candidate, stored: Any) -> None:
    """Take over what an earlier run has measured, if it is all there."""
    expected = _measured(candidate)
    if not isinstance(stored, dict) or stored.keys() != expected.keys():
        return
    for name, value in stored.items():
        number = not isinstance(value, bool) and isinstance(value, int | float)
        words = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not (words if name == "warnings" else number):
            return
    for name, value in stored.items():
        setattr(candidate, name, value)
    candidate.cached = True


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


def _run_one(
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
    quantizer = find_codec(estimator, at_end=True).quantizer
    candidate.bits = bits_per_sample(estimator)
    candidate.packed_bits = packed_bits(quantizer.codebook_sizes_)
    if all(counts is not None for counts in quantizer.code_counts_):
        candidate.coded_bits = entropy_bits(estimator, test)
    candidate.distortion = distortion(test, decoded)
    candidate.sqnr = sqnr(test, decoded)
    candidate.fit_seconds = fitted - began
    candidate.encode_seconds = encoded - fitted


# -- what the user sees ------------------------------------------------------------


def _report(run: _Run) -> None:
    arguments, results = run.arguments, run.results
    if arguments.json:
        say_json(
            {
                "data": str(arguments.data),
                "seed": arguments.seed,
                "train_rows": len(run.train),
                "test_rows": len(run.test),
                "features": run.train.shape[1],
                "results": [asdict(result) for result in results],
                "skipped": [asdict(skip) for skip in run.skipped],
                "unfinished": run.unfinished,
            }
        )
        return
    lines = _table(results) if results else []
    lines += [
        "",
        f"Fitted on {len(run.train):,} rows of {run.train.shape[1]} features, judged "
        f"on {len(run.test):,} others.",
        "bits: of each row, packed. coded: in the mean, in a file of encode --entropy. "
        "distortion:",
        "mean squared error of a row, summed over features. encode: for those rows.",
    ]
    n_known = sum(result.cached for result in results)
    if n_known:
        lines.append(
            f"{n_known} of {len(results)} are of an earlier run, their times too; "
            "--no-cache fits all anew."
        )
    for result in results:
        lines += [f"{result.scheme}: {message}" for message in result.warnings]
    lines += _describe_skipped(run.skipped)
    if run.unfinished:
        lines += ["", f"Not finished: {', '.join(run.unfinished)}"]
    elif run.drawn:
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


def _plot(path: Path, results: list[Candidate], test: np.ndarray) -> None:
    """Draw a curve for each family, and the bound of a Gaussian source."""
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    # Figure has no global state and no window.
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    # Told apart without a sense for red and green.
    axes.set_prop_cycle(color=color_sequences["petroff10"])
    variances = principal_variances(test)
    curves: dict[str, list[Candidate]] = {}
    for result in results:
        curves.setdefault(result.family, []).append(result)
    for family, curve in curves.items():
        RateDistortionDisplay(
            [result.rate / test.shape[1] for result in curve],
            [result.distortion / test.shape[1] for result in curve],
            variances=variances,
            name=family,
        ).plot(ax=axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lower().removeprefix("."), dpi=150)
