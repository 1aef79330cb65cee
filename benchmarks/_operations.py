"""The operations that `against.py` times, and the process that runs one side of them.

A side is another Python with its own skvq: it reads lines of JSON, runs, and answers
with a line each.  Operations use public names alone, so that older revisions have them;
what one does not have is skipped.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N_THREADS = 1
# What a side may not know, or spell otherwise.
LACKS = (ImportError, AttributeError, TypeError)


def rows(n, d, quick):
    """Return the same normal rows on both sides."""
    n = min(n, 600) if quick else n
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def flat(quick, d, n_codewords, n=20_000):
    from skvq import nearest

    X = rows(n, d, quick)
    table = nearest.Table(X[:n_codewords])
    return lambda: nearest.nearest(X, table, return_distances=False)


def product(quick, n_tables, n=20_000):
    from skvq import nearest

    X = rows(n, 128, quick)
    slices = X[:256].reshape(len(X[:256]), n_tables, -1).swapaxes(0, 1)
    tables = nearest.Tables([part.copy() for part in slices])
    return lambda: nearest.nearest_product(X, tables, dtype=np.uint8)


def beams(quick, beam_size, n):
    from skvq import nearest

    X = rows(n, 64, quick)
    tables = nearest.Tables([X[:256] / (stage + 1) for stage in range(8)])
    return lambda: nearest.nearest_best(
        X, tables, beam_size, return_distances=False, dtype=np.uint8
    )


def additive(quick):
    from skvq import nearest

    X = rows(1_000, 64, quick)
    tables = nearest.Tables([X[:256] / (stage + 1) for stage in range(8)])
    start = nearest.nearest_best(X, tables, 1, return_distances=False)[0][:, 0]
    return lambda: nearest.improve_sums(X, tables, start, n_rounds=2)


def fit(quick, name, *sizes, n, d, **settings):
    import skvq

    X = rows(n, d, quick)
    sizes = [min(size, 16) for size in sizes] if quick else sizes
    quantizer = getattr(skvq, name)(*sizes, random_state=0, **settings)
    return lambda: quantizer.fit(X)


def fitted_product(quick):
    import skvq

    X = rows(4_000, 128, quick)
    return skvq.ProductQuantizer(8, 16 if quick else 256, random_state=0).fit(X)


def encode(quick, n, times=1):
    pq, X = fitted_product(quick), rows(n, 128, quick)

    def call():
        for _ in range(times):
            pq.transform(X)

    return call


def decode(quick):
    pq = fitted_product(quick)
    codes = pq.transform(rows(100_000, 128, quick))
    return lambda: pq.inverse_transform(codes)


def levels(quick, name):
    import skvq

    X = rows(20_000, 16, quick)
    quantizer = getattr(skvq, name)().fit(X)
    return lambda: quantizer.transform(X)


def scan(quick):
    import skvq

    pq, X = fitted_product(quick), rows(100_000, 128, quick)
    search = skvq.QuantizedNeighbors(pq, 10).fit_codes(pq.transform(X))
    queries = X[:50]
    return lambda: search.kneighbors(queries)


def some_codes(quick):
    """Return uneven codes of eight columns."""
    codes = np.abs(rows(100_000, 8, quick) * 60)
    return np.minimum(codes, 255).astype(np.uint8), (256,) * 8


def pack(quick):
    from skvq import codes

    given, sizes = some_codes(quick)
    sizes = (255,) * len(sizes)
    given = np.minimum(given, 254)
    return lambda: codes.unpack(codes.pack(given, sizes), sizes)


def entropy(quick):
    from skvq.codes import EntropyCoder

    given, sizes = some_codes(quick)
    coder = EntropyCoder(sizes).fit(given)
    return lambda: coder.decode(coder.encode(given), len(given))


def save(quick):
    import skvq

    pq, folder = fitted_product(quick), tempfile.TemporaryDirectory()
    path = Path(folder.name, "codec")

    def call(folder=folder):
        skvq.save(pq, path)
        skvq.load(path)

    return call


def save_codes(quick):
    from skvq import io

    given, sizes = some_codes(quick)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, "codes")

    def call(folder=folder):
        io.save_codes(path, given, sizes)
        io.load_codes(path)

    return call


def start(quick):
    return lambda: subprocess.run([sys.executable, "-c", "import skvq"], check=True)


OPERATIONS = {
    "nearest, d = 8, V = 256": lambda quick: flat(quick, 8, 256, n=100_000),
    "nearest, d = 32, V = 256": lambda quick: flat(quick, 32, 256, n=50_000),
    "nearest, d = 128, V = 1024": lambda quick: flat(quick, 128, 1024),
    "product codes, 8 slices of 16": lambda quick: product(quick, 8),
    "product codes, 32 slices of 4": lambda quick: product(quick, 32),
    "residual codes, beam 1": lambda quick: beams(quick, 1, 10_000),
    "residual codes, beam 5": lambda quick: beams(quick, 5, 3_000),
    "additive codes, 2 rounds": additive,
    "fit, one table": lambda quick: fit(
        quick, "VectorQuantizer", 256, max_iter=5, n=20_000, d=32
    ),
    "fit, product": lambda quick: fit(quick, "ProductQuantizer", 8, 64, n=5_000, d=64),
    "fit, residual": lambda quick: fit(
        quick, "ResidualQuantizer", 3, 16, n=2_000, d=16
    ),
    "transform, one row, 100 times": lambda quick: encode(quick, 1, times=100),
    "transform, 100,000 rows": lambda quick: encode(quick, 100_000),
    "inverse_transform, 100,000 rows": decode,
    "transform, uniform levels": lambda quick: levels(quick, "UniformQuantizer"),
    "transform, trellis": lambda quick: levels(quick, "TrellisQuantizer"),
    "10 nearest of 100,000 codes": scan,
    "pack and unpack": pack,
    "entropy coding, there and back": entropy,
    "save and load": save,
    "save_codes and load_codes": save_codes,
    "import skvq": start,
}


def timed(call, n_calls):
    began = time.perf_counter()
    for _ in range(n_calls):
        call()
    return time.perf_counter() - began


def serve(requests, answer):
    """Prepare and time operations, one request a line, until there are no more."""
    call = None
    for line in requests:
        request = json.loads(line)
        if "operation" in request:
            try:
                call = OPERATIONS[request["operation"]](request["quick"])
                call()
            except LACKS as error:
                call = None
                answer({"lacks": f"{type(error).__name__}: {error}"})
            else:
                answer({"lacks": None})
        else:
            answer({"seconds": min(timed(call, request["calls"]) for _ in range(3))})


def main():
    # What an operation prints must not be taken for an answer.
    out, sys.stdout = sys.stdout, sys.stderr

    def answer(content):
        print(json.dumps(content), file=out, flush=True)

    import skvq
    from skvq.nearest import native

    answer({"skvq": str(Path(skvq.__file__).parent), "engine": native.status().level})
    serve(sys.stdin, answer)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(N_THREADS))
    main()
