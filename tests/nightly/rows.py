"""Rows of a mapped file, up to 10^8: a fit, and codes in a file, in bounded memory.

The file has rows of eight bytes, so that 10^8 take 800 MB.  A fit over all of them,
codes of all of them in pieces, and codes of scattered pieces beside those of a plain
search.
"""

import threading
import time
from pathlib import Path

import numpy as np
from oracles import assert_nearest

from skvq import ProductQuantizer, VectorQuantizer
from skvq.io import CodeReader, CodeWriter

MOST_ROWS = 10**8
FEWEST_ROWS = 2 * 10**6
# Rows that a second of the part's time is enough for, on two busy cores.
ROWS_A_SECOND = 400_000
N_FEATURES = 8
# Memory beside the mapped file, whatever its size.
MOST_BYTES = 256 * 2**20
PIECE = 2**20


class Anonymous(threading.Thread):
    """Looks again and again at the process's memory, without mapped pages."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            self.most = max(self.most, self.now())

    @staticmethod
    def now():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
        return 0


def written(path, n_rows, rng):
    """Write rows around sixteen places, and return them mapped."""
    places = rng.integers(30, 200, (16, N_FEATURES), np.uint8)
    X = np.lib.format.open_memmap(path, "w+", np.uint8, (n_rows, N_FEATURES))
    for start in range(0, n_rows, PIECE):
        part = X[start : start + PIECE]
        part[:] = places[rng.integers(16, size=len(part))]
        part += rng.integers(0, 30, part.shape, np.uint8)
    del X, part
    return np.load(path, mmap_mode="r")


def run(job):
    if not Path("/proc/self/status").exists():
        job.absent("memory is measured as Linux tells it")
        return
    n_rows = int(np.clip(ROWS_A_SECOND * job.seconds, FEWEST_ROWS, MOST_ROWS))
    path = job.folder / "X.npy"
    try:
        on_rows(job, path, n_rows)
    finally:
        path.unlink(missing_ok=True)
        (job.folder / "codes").unlink(missing_ok=True)


def on_rows(job, path, n_rows):
    rng = job.rng(0)
    X = written(path, n_rows, rng)
    part = VectorQuantizer(16, init="random", max_iter=2)
    for quantizer in (
        VectorQuantizer(16, init="random", max_iter=2, random_state=job.seed % 2**32),
        ProductQuantizer(2, quantizer=part, random_state=job.seed % 2**32),
    ):
        name = type(quantizer).__name__
        start, before = time.monotonic(), Anonymous.now()
        watch = Anonymous()
        watch.start()
        try:
            quantizer.fit(X)
            with CodeWriter(job.folder / "codes", quantizer.codebook_sizes_) as writer:
                for first in range(0, n_rows, PIECE):
                    writer.write(quantizer.transform(X[first : first + PIECE]))
        finally:
            watch.over.set()
            watch.join()
        used = (watch.most - before) / 2**20
        job.note(
            f"{name}: {n_rows} rows in {time.monotonic() - start:.0f} s, "
            f"{used:.0f} MiB beside the file"
        )
        job.ran(f"{n_rows} mapped rows, {n_rows * N_FEATURES / 1e6:.0f} MB")
        if watch.most - before > MOST_BYTES:
            job.failed(f"{name} takes {used:.0f} MiB beside the file")
        with job.expecting(f"{name} on {n_rows} mapped rows"):
            compare(quantizer, X, job.folder / "codes", rng)
        if job.left() < 0:
            return


def compare(quantizer, X, codes_path, rng):
    """Codes in the file are those of rows in memory, and the nearest."""
    starts = rng.integers(0, len(X) - 2000, 20)
    errors = []
    with CodeReader(codes_path) as reader:
        assert len(reader) == len(X)
        for start in [0, len(X) - 2000, *starts.tolist()]:
            rows = np.array(X[start : start + 2000])
            found = reader[start : start + 2000]
            np.testing.assert_array_equal(found, quantizer.transform(rows))
            at = 0
            for column, table in zip(found.T, quantizer.codebooks_, strict=True):
                some = rows[:, at : at + table.shape[1]]
                at += table.shape[1]
                assert_nearest(column, some, table, dtype=np.float32)
            decoded = quantizer.inverse_transform(found)
            errors.append(np.square(rows - decoded.astype(float)).sum(axis=1).mean())
    # Of so many scattered rows, the mean is that of all but for a few percent.
    np.testing.assert_allclose(np.mean(errors), quantizer.distortion_, rtol=0.1)
    means = np.mean([table.mean() for table in quantizer.codebooks_])
    assert 30 <= means <= 230, "the tables are not where the rows are"
