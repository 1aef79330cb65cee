"""Distortion against bits: every family of skvq beside faiss's, on the same rows.

Claims.  What each family of schemes reaches for its bits, on rows that it has not seen,
as a share of their variance; the rate-distortion function of a Gaussian source with the
covariance of these rows is the line below which nothing is for Gaussian rows.

What is found is kept in a JSON file (``--store``), so that a run goes on where another
one has ended; ``--draw`` makes the pictures of it.
"""

import _common  # isort: split

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import skvq
from skvq.metrics import entropy_bits

faiss = _common.peer("faiss")

SETS = ["sift5k", "dsift", "patches", "dsift100k", "patches100k"]
BITS = [32, 64, 128, 256, 512]
SEED = 0
# Of skvq's curves: those that are told apart by people who see colours otherwise (Okabe
# and Ito 2008); faiss's are grey.
_COLOURS = "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #000000 #56B4E9 #603000".split()


class Method(NamedTuple):
    """A family, and what it makes of some rows.

    Attributes
    ----------
    library : str
        Who computes.
    family : str
        What it is called.
    measure : callable
        ``measure(train, test, bits)`` returns the bits a row takes and the
        reconstructions, or None if the family has nothing of these bits.
    most_bits : int
        It is not asked for more: tables would take too long to learn.
    most_rows : int
        It is not asked to learn from more.
    """

    library: str
    family: str
    measure: Callable[[np.ndarray, np.ndarray, int], tuple[float, np.ndarray] | None]
    most_bits: int = 512
    most_rows: int = 1_000_000


# -- faiss -----------------------------------------------------------------------------


def of_index(make: Callable[[int, int], Any]) -> Callable:
    """Return what measures an index that `make` returns for a width and some bits."""

    def measure(train, test, bits):
        index = make(train.shape[1], bits)
        if index is None:
            return None
        index.train(train)
        codes = index.sa_encode(test)
        return 8.0 * codes.shape[1], index.sa_decode(codes)

    return measure


def clustered(quantizer):
    """Let k-means see all rows: by default it takes 256 for each codeword."""
    quantizer.cp.max_points_per_centroid = 10**9
    return quantizer


def _pq(d, bits):
    n = bits // 8
    if d % n:
        return None
    index = faiss.IndexPQ(d, n, 8)
    clustered(index.pq)
    return index


def _opq(d, bits):
    index = _pq(d, bits)
    rotation = faiss.OPQMatrix(d, bits // 8)
    rotation.max_train_points = 10**9
    return index and faiss.IndexPreTransform(rotation, index)


def _rq(d, bits):
    index = faiss.IndexResidualQuantizer(
        d, bits // 8, 8, faiss.METRIC_L2, faiss.AdditiveQuantizer.ST_decompress
    )
    clustered(index.rq)
    return index


def _lsq(d, bits):
    return faiss.IndexLocalSearchQuantizer(
        d, bits // 8, 8, faiss.METRIC_L2, faiss.AdditiveQuantizer.ST_decompress
    )


def _turned(d, index):
    rotation = faiss.RandomRotationMatrix(d, d)
    rotation.init(SEED)
    return faiss.IndexPreTransform(rotation, index)


def _eden(d, bits):
    each = bits // d
    if bits % d or not 1 <= each <= 8:
        return None
    return _turned(d, faiss.IndexEDEN(d, faiss.METRIC_L2, each))


def _rabitq(d, bits):
    # With more bits `sa_decode` is no better, in faiss 1.15.1.
    return _turned(d, faiss.IndexRaBitQ(d)) if bits == d else None


def _scalar(d, bits):
    kinds = {4: "QT_4bit", 6: "QT_6bit", 8: "QT_8bit"}
    each = kinds.get(bits // d)
    if bits % d or each is None:
        return None
    return faiss.IndexScalarQuantizer(d, getattr(faiss.ScalarQuantizer, each))


THEIRS = [
    Method("faiss", "PQ", of_index(_pq)),
    Method("faiss", "OPQ", of_index(_opq), most_bits=256),
    Method("faiss", "RQ", of_index(_rq), most_bits=128),
    Method("faiss", "LSQ", of_index(_lsq), most_bits=64, most_rows=20_000),
    Method("faiss", "EDEN", of_index(_eden)),
    Method("faiss", "RaBitQ", of_index(_rabitq)),
    Method("faiss", "scalar", of_index(_scalar)),
]


# -- skvq ------------------------------------------------------------------------------


def of_estimator(make: Callable[[int, int], Any], coded: bool = False) -> Callable:
    """Return what measures an estimator that `make` returns for a width and bits.

    Coded ones take the bits of their test rows in an entropy-coded file, but for what
    its blocks take, .1 of a row.
    """

    def measure(train, test, bits):
        estimator = make(train.shape[1], bits)
        if estimator is None:
            return None
        estimator.fit(train)
        taken = estimator.bits_per_sample_
        if coded:
            taken = entropy_bits(estimator, test)
        return taken, estimator.quantize(test)

    return measure


def _product(d, bits):
    return (
        skvq.ProductQuantizer(bits // 8, random_state=SEED) if bits <= 8 * d else None
    )


def _rotated_product(d, bits):
    part = _product(d, bits)
    return part and skvq.RotatedQuantizer(part, random_state=SEED)


def _residual(d, bits):
    return skvq.ResidualQuantizer(
        bits // 8, 256, beam_size=5, fit_beam_size=5, random_state=SEED
    )


def along_axes(quantizer):
    """Put principal axes in front."""
    return skvq.RotatedQuantizer(quantizer, rotation="pca")


def _priced(train, test, bits):
    """Measure scalars whose search weighs bits, at the slope of the bound there."""
    rates, levels, _ = water_levels(train)
    price = 2 * np.log(2) * float(np.interp(bits, rates, levels))
    scalars = skvq.ProductQuantizer(
        train.shape[1], 64, rate_weight=price, random_state=SEED
    )
    measure = of_estimator(lambda d, bits: along_axes(scalars), coded=True)
    return measure(train, test, bits)


def _normal(n_bits):
    """Return Lloyd-Max levels for a normal density, the same for all features."""
    return skvq.UniformQuantizer(
        2**n_bits,
        levels="lloyd-max",
        feature_distribution="gaussian",
        share_levels=True,
    )


def _scaled(scale, one_bit_only=False):
    def make(d, bits):
        each = bits // d
        if bits % d or not 1 <= each <= 8 or (one_bit_only and each > 1):
            return None
        part = skvq.BinaryQuantizer(scale=1) if one_bit_only else _normal(each)
        return skvq.RotatedQuantizer(
            skvq.ScaledQuantizer(part, scaling=scale),
            rotation="random",
            random_state=SEED,
        )

    return make


OURS = [
    Method("skvq", "product", of_estimator(_product)),
    Method("skvq", "rotated product", of_estimator(_rotated_product)),
    Method("skvq", "residual, beam 5", of_estimator(_residual), most_bits=128),
    Method(
        "skvq",
        "additive",
        of_estimator(
            lambda d, bits: skvq.AdditiveQuantizer(bits // 8, random_state=SEED)
        ),
        most_bits=64,
        most_rows=20_000,
    ),
    Method(
        "skvq",
        "allocated Lloyd-Max",
        of_estimator(
            lambda d, bits: along_axes(
                skvq.UniformQuantizer(levels="lloyd-max", total_bits=bits)
            )
        ),
    ),
    Method(
        "skvq",
        "trellis, 8 states",
        of_estimator(
            lambda d, bits: along_axes(skvq.TrellisQuantizer(total_bits=bits))
        ),
    ),
    Method(
        "skvq",
        "one step, coded",
        of_estimator(
            lambda d, bits: along_axes(skvq.UniformQuantizer(target_bits=bits)),
            coded=True,
        ),
    ),
    Method("skvq", "entropy-constrained, coded", _priced, most_bits=256),
    Method("skvq", "TurboQuant", of_estimator(_scaled("norm"))),
    Method("skvq", "EDEN", of_estimator(_scaled("least_squares"))),
    Method("skvq", "RaBitQ", of_estimator(_scaled("unbiased", one_bit_only=True))),
]


# -- the run ---------------------------------------------------------------------------


def bound(train: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the distortion-rate function of a Gaussian with the covariance of rows."""
    rates, _, errors = water_levels(train)
    return np.interp(bits, rates, errors)


def water_levels(train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rates, water levels and errors of a Gaussian with the covariance of rows.

    By reverse water-filling (Cover and Thomas 2006, theorem 10.3.3).
    """
    variances = np.linalg.eigvalsh(np.cov(train.T.astype(np.float64)))
    variances = np.maximum(variances, 1e-12 * variances.max())
    levels = np.geomspace(variances.max(), variances.min() / 2**20, 4000)
    over = levels[:, None]
    rates = 0.5 * np.log2(np.maximum(variances / over, 1)).sum(1)
    return rates, levels, np.minimum(variances, over).sum(1)


def measured(data, methods, bits, found: dict[str, Any], keep: Callable[[], None]):
    """Add to what was found what there is not yet; print each."""
    power = float(np.square(data.test - data.train.mean(axis=0)).sum(axis=1).mean())
    rates = np.geomspace(bits[0] / 2, 4 * data.train.shape[1], 100)
    of_set = found.setdefault(data.name, {"points": {}})
    of_set["power"] = power
    of_set["bound"] = [rates.tolist(), bound(data.train, rates).tolist()]
    for method in methods:
        for budget in bits:
            name = f"{method.library} {method.family} {budget}"
            if name in of_set["points"] or budget > method.most_bits:
                continue
            if len(data.train) > method.most_rows:
                continue
            began = time.process_time()
            made = method.measure(data.train, data.test, budget)
            if made is None:
                continue
            taken, decoded = made
            error = float(np.square(data.test - decoded).sum(axis=1).mean())
            of_set["points"][name] = {
                "library": method.library,
                "family": method.family,
                "bits": float(taken),
                "distortion": error,
            }
            keep()
            seconds = time.process_time() - began
            print(
                f"{data.name} | {method.library} | {method.family} | {taken:.2f} | "
                f"{error:.6g} | {error / power:.4f} | {seconds:.1f}",
                flush=True,
            )


def draw(found: dict[str, Any], folder: Path) -> None:
    """Draw distortion against bits, a panel for each set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6 * -(-len(found) // 2)), layout="constrained")
    panels = figure.subplots(-(-len(found) // 2), 2, squeeze=False).ravel()
    families = [(m.library, m.family) for m in OURS + THEIRS]
    for axes, (name, of_set) in zip(panels, found.items(), strict=False):
        rates, errors = map(np.array, of_set["bound"])
        axes.plot(rates, errors / of_set["power"], color="0.4", lw=1, label="bound")
        for i, (library, family) in enumerate(families):
            points = sorted(
                (point["bits"], point["distortion"] / of_set["power"])
                for point in of_set["points"].values()
                if (point["library"], point["family"]) == (library, family)
            )
            if points:
                ours = library == "skvq"
                axes.plot(
                    *zip(*points, strict=True),
                    color=_COLOURS[i % len(_COLOURS)] if ours else "0.55",
                    ls="-" if ours else "--",
                    marker="osD^vP*Xh<"[i % 10],
                    ms=5,
                    lw=1.2,
                    label=f"{library} {family}",
                )
        axes.set(xscale="log", yscale="log", title=name)
        axes.set_xlabel("bits a row")
        axes.set_ylabel("distortion, of the variance")
        axes.set_xticks(BITS, [str(bits) for bits in BITS])
        axes.set_xticks([], minor=True)
        axes.set_xlim(BITS[0] / 1.6, BITS[-1] * 1.4)
        axes.set_ylim(bottom=errors.min() / of_set["power"] / 4)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    panels[-1].legend(handles, labels, ncols=2, loc="center", fontsize=9)
    figure.savefig(folder / "curves.png", dpi=90)


def main(argv=None):
    """Measure, and draw."""
    parser = _common.parser(__doc__.splitlines()[0], repeats=1)
    parser.add_argument("--store", type=Path, help="JSON file to go on from")
    parser.add_argument("--draw", type=Path, help="folder for the pictures")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--only", choices=["skvq", "faiss"], help="one library")
    arguments = parser.parse_args(argv)
    found = {}
    if arguments.store is not None and arguments.store.exists():
        found = json.loads(arguments.store.read_text())

    def keep():
        if arguments.store is not None:
            arguments.store.write_text(json.dumps(found, indent=1))

    methods = [m for m in THEIRS + OURS if arguments.only in (None, m.library)]
    bits = BITS[1:2] if arguments.quick else BITS
    if arguments.quick:
        some = "RaBitQ", "scalar", "rotated product", "one step, coded"
        methods = [m for m in methods if m.family in some]
    print(_common.data_line())
    print("set | library | family | bits a row | distortion | of the variance | CPU s")
    for data in _common.data_sets(arguments.sets, quick=arguments.quick):
        measured(data, methods, bits, found, keep)
    if arguments.draw is not None:
        draw(found, arguments.draw)


if __name__ == "__main__":
    main()
