"""Give fitted codecs to faiss and take trained ones from it, on real descriptors.

Claims: codes that both sides find in the same tables are equal, except in rows whose
two best codewords are equally near but for rounding, and the same codes are decoded to
the same rows.  Additive codes are searched for otherwise on each side: there, the
errors of both are shown.
"""

import _common  # isort: split

import argparse
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvq import (
    AdditiveQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.interop import from_faiss, to_faiss

faiss = _common.peer("faiss")

# Errors of codes that are as good as each other differ by no larger a share.
ROUNDING = 1e-4
# faiss asks for 39.
_ROWS_PER_CODEWORD = 40


def unpacked(packed, sizes):
    """Return the codes that faiss has packed, the lowest bits first."""
    widths = [int(np.log2(size)) for size in sizes]
    ends = np.cumsum(widths)
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, : ends[-1]]
    return np.column_stack(
        [
            part.astype(np.int64) @ (1 << np.arange(part.shape[1]))
            for part in np.split(bits, ends[:-1], axis=1)
        ]
    )


def exchanged(index, X, sizes):
    """Return the codes and the reconstructions of an index."""
    if isinstance(index, faiss.IndexFlat):
        codes = index.search(X, 1)[1]
        return codes, index.reconstruct_n(0, index.ntotal)[codes[:, 0]]
    packed = index.sa_encode(X)
    return unpacked(packed, sizes), index.sa_decode(packed)


def errors(X, decoded):
    return np.square(X.astype(np.float64) - decoded).sum(axis=1)


def report(table, name, way, estimator, index, X, *, same_search=True):
    """Print how far two sides with the same tables agree."""
    ours = estimator.transform(X)
    theirs, decoded = exchanged(index, X, estimator.codebook_sizes_)
    own = estimator.inverse_transform(ours)
    # The same codes, decoded on both sides.
    gap = np.abs(estimator.inverse_transform(theirs) - decoded).max()
    scale = np.abs(decoded).max()
    ours_error, their_error = errors(X, own), errors(X, decoded)
    ratio = np.abs(ours_error - their_error) / np.maximum(ours_error, their_error)
    other_rows = (ours != theirs).any(axis=1)
    worst = float(ratio[other_rows].max(initial=0.0))
    table.row(
        *(name, way, _common.equal_share(ours, theirs), int(other_rows.sum())),
        *(f"{worst:.1e}" if same_search else "", f"{gap / scale:.1e}"),
        *(f"{ours_error.mean():.1f}", f"{their_error.mean():.1f}"),
        _common.verdict(gap <= 1e-6 * scale, not same_search or worst <= ROUNDING),
    )


def main():
    parser = _common.parser(__doc__.splitlines()[0], repeats=1)
    parser.add_argument("--set", default="dsift", metavar="NAME")
    arguments = _common.settle(parser.parse_args())
    _common.print_header("Exchange with faiss", arguments)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    (data,) = _common.data_sets([arguments.set], quick=arguments.quick)[:1]
    print(f"\n{data.name}: {len(data.test)} test rows.")
    table = _common.Table(
        "codes and reconstructions of the same tables on both sides",
        [
            *("scheme", "way", "equal codes", "rows with others"),
            *("largest difference of their errors", "same codes decoded, difference"),
            *("our error", "faiss's error", "verdict"),
        ],
    )
    there_and_back(table, data, arguments)


def there_and_back(table, data, arguments: argparse.Namespace):
    size = 8 if arguments.quick else 256
    # Enough for tables; how good they are is not asked here.
    train, test = data.train[: _ROWS_PER_CODEWORD * size], data.test
    d = train.shape[1]
    bits = size.bit_length() - 1
    fitted = {
        "flat": VectorQuantizer(size, random_state=0),
        "product 8": ProductQuantizer(8, size, random_state=0),
        "residual 8, beam 1": ResidualQuantizer(8, size, random_state=0),
        "scalar 8 bits": UniformQuantizer(256),
        "scalar 6 bits": UniformQuantizer(64, clip_range="quantile"),
        "scalar 4 bits": UniformQuantizer(16),
    }
    for name, estimator in fitted.items():
        estimator.fit(train)
        report(table, name, "to faiss", estimator, to_faiss(estimator), test)
    rq = fitted["residual 8, beam 1"].set_params(beam_size=5)
    report(table, "residual 8, beam 5", "to faiss", rq, to_faiss(rq), test)
    aq = AdditiveQuantizer.from_codebooks(rq.codebooks_)
    loose = {"same_search": False}
    report(table, "additive 8", "to faiss", aq, to_faiss(aq), test, **loose)
    flat = faiss.IndexFlatL2(d)
    flat.add(train[:size])
    trained = {
        "flat": flat,
        "product 8": faiss.IndexPQ(d, 8, bits),
        "residual 8, beam 5": faiss.IndexResidualQuantizer(d, 8, bits),
        "additive 8": faiss.IndexLocalSearchQuantizer(d, 8, bits),
    }
    trained["additive 8"].lsq.train_iters = 2
    for kind in ("8bit", "6bit", "4bit", "8bit_uniform", "4bit_uniform"):
        qtype = getattr(faiss.ScalarQuantizer, f"QT_{kind}")
        trained[f"scalar {kind}"] = faiss.IndexScalarQuantizer(d, qtype)
    for name, index in trained.items():
        if not index.is_trained:
            index.train(train)
        options = loose if name == "additive 8" else {}
        report(table, name, "from faiss", from_faiss(index), index, test, **options)


if __name__ == "__main__":
    main()
