"""Measure codebooks whose search weighs bits: error at the rate of an entropy coder.

Claims: of one Gaussian scalar, a table of 64 codewords is within 2% of the best scalar
quantizers with an entropy coder at 1, 2 and 3 bits.  Of real rows, entropy-constrained
products of slices of principal axes, or residual codes, are at least on one set better
than one step for all principal axes, whose codes are coded as well.

Rates are ideal: the mean of -log2 p over the codes of held-out rows, with the counts of
training codes, each raised by .02.  Errors are of the same rows.
"""

import _common  # isort: split

import time
import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from skvq import ProductQuantizer, ResidualQuantizer, VectorQuantizer
from skvq.metrics import entropy_bits

# Distortion of the best scalar quantizer with an entropy coder, of a Gaussian.
GAUSSIAN = {1: 0.34834, 2: 0.088941, 3: 0.022239}
GAUSSIAN_LIMIT = 1.02
# Distortion of PCA and one step, coded, at 64 and 128 bits.
STEPS = {"patches": (1130, 250), "sift5k": (23_000, 11_100), "dsift": (30_100, 15_250)}

# Errors per bit: two for each set and scheme, of which the first is for about 64 bits.
SLICES = {
    "patches": [(30.0, 5.5, "16x1x256 0x2x256"), (31.0, 5.5, "0x1x256")],
    "sift5k": [(285.0, 113.0, "0x1x64"), (285.0, 113.0, "0x2x64")],
    "dsift": [(350.0, 140.0, "0x1x64"), (350.0, 140.0, "0x2x64")],
}
STAGES = {
    "sift5k": [(12, 64, 330.0)],
    "dsift": [(12, 256, 380.0)],
}
BEAM = 4


def gaussian(quick):
    """Find the prices of bits at which a scalar takes 1, 2 and 3 bits."""
    n_rows, n_steps = (5_000, 4) if quick else (200_000, 16)
    X = np.random.default_rng(0).normal(size=(n_rows, 1))
    table = _common.Table(
        f"A Gaussian scalar, 64 codewords, {n_rows:,} rows",
        [
            "bits",
            "rate_weight",
            "entropy",
            "distortion",
            "target",
            "ratio at its entropy",
            "verdict",
        ],
    )
    for bits, target in GAUSSIAN.items():
        low, high = 1e-3, 2.0
        for _ in range(n_steps):
            price = (low * high) ** 0.5
            vq = VectorQuantizer(
                64, rate_weight=price, max_iter=200, tol=1e-6, random_state=0
            ).fit(X)
            p = vq.code_counts_[0] / n_rows
            entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
            low, high = (price, high) if entropy > bits else (low, price)
        # The bisection ends near the rate; a bit is a factor of four.
        ratio = vq.distortion_ / target * 4.0 ** (entropy - bits)
        table.row(
            *(bits, f"{price:.5f}", f"{entropy:.4f}", f"{vq.distortion_:.6f}", target),
            *(f"{ratio:.4f}", _common.verdict(ratio <= GAUSSIAN_LIMIT)),
        )


def widths_and_sizes(layout, n_features):
    """Read "16x1x256 0x2x256": numbers of slices, their widths and codewords."""
    widths, sizes = [], []
    for part in layout.split():
        count, width, size = map(int, part.split("x"))
        count = count or (n_features - sum(widths)) // width
        widths += [width] * count
        sizes += [size] * count
    return widths, sizes


def turned(data):
    """Return a set along its principal axes."""
    pca = PCA(svd_solver="full").fit(data.train.astype(np.float64))
    return _common.DataSet(
        data.name,
        *(pca.transform(rows).astype(np.float32) for rows in (data.train, data.test)),
    )


def quantizers(name, n_features, *, quick):
    """Yield words, whether samples are turned, and quantizers."""
    part = VectorQuantizer(tol=1e-4, max_iter=50)
    for *prices, layout in SLICES.get(name, [(1.0, 0.2, "0x1x16")]):
        widths, sizes = widths_and_sizes(layout, n_features)
        for price in prices:
            options = {"quantizer": part, "rate_weight": price, "random_state": 0}
            yield (
                f"slices of principal axes, {layout}",
                True,
                ProductQuantizer(n_codewords=sizes, widths=widths, **options),
            )
    for n_stages, size, price in STAGES.get(name, []):
        # The second has no price of bits, and about as many of them.
        for weight, stages in ((price, n_stages), (0.0, 8 if size == 256 else 11)):
            rq = ResidualQuantizer(
                stages,
                size,
                quantizer=VectorQuantizer(init="progressive", tol=5e-4),
                rate_weight=weight,
                beam_size=BEAM,
                random_state=0,
            )
            yield f"residual, {stages} x {size}, beam {BEAM}", False, rq
    if quick:
        yield "residual, 2 x 16", False, ResidualQuantizer(2, 16, rate_weight=1.0)


def real_sets(arguments):
    """Print errors of real rows beside those of one step; record those of slices."""
    quick, names, off = arguments.quick, [], []
    table = _common.Table(
        "Real rows: ideal bits and distortion of held-out rows",
        [
            *("data", "quantizer", "rate_weight", "bits", "distortion"),
            *("PCA and one step at these bits", "ratio", "fit, CPU s"),
        ],
    )
    best = np.inf
    for data in _common.data_sets(tuple(STEPS), quick=quick):
        of_steps = None if quick else STEPS.get(data.name)
        axes = turned(data)
        for words, along, quantizer in quantizers(
            data.name, data.train.shape[1], quick=quick
        ):
            seen = axes if along else data
            start = time.process_time()
            quantizer.fit(seen.train)
            seconds = time.process_time() - start
            bits = entropy_bits(quantizer, seen.test)
            error = -quantizer.score(seen.test)
            ratio, peer = np.nan, np.nan
            if of_steps is not None:
                at_64, at_128 = of_steps
                peer = at_64 * (at_128 / at_64) ** ((bits - 64) / 64)
                ratio = error / peer
                best = min(best, ratio if 60 < bits < 135 else np.inf)
                if along:
                    names.append(data.name)
                    off.append(100 * (1 - ratio))
            table.row(
                *(data.name, words, quantizer.rate_weight, f"{bits:.2f}"),
                *(f"{error:.1f}", f"{peer:.0f}", f"{ratio:.3f}", f"{seconds:.1f}"),
            )
    if off:
        for end, figure in (("least", f"{min(off):.0f}"), ("most", f"{max(off):.0f}%")):
            _common.record(
                arguments,
                f"rate.product.{end}",
                figure,
                "percent of error less than one step at the same ideal bits, slices of "
                f"principal axes, rows held out; {end}",
                data=", ".join(dict.fromkeys(names)),
            )
    print(f"\nBest ratio {best:.3f}, target < 1: {_common.verdict(best < 1)}")


def main():
    arguments = _common.settle(
        _common.parser(__doc__.splitlines()[0], repeats=1, records=True).parse_args()
    )
    _common.print_header("Codebooks whose search weighs bits", arguments)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    gaussian(arguments.quick)
    real_sets(arguments)


if __name__ == "__main__":
    main()
