"""Damaged and hostile files: each is read as what it was, or refused.

A worker process reads one changed file after another, with little memory.  If it dies
or stands still, the case that it was at is the failure.  Inputs that have once failed
are in `tests/data/corpus`, which the suite reads as well (`tests/test_files.py`).
"""

import contextlib
import copy
import json
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors.numpy
from table import ONE_OF_EACH

import skvq
from nightly.harness import ROOT
from skvq._codec import container
from skvq.codes import EntropyCoder
from skvq.io import CodeReader, FormatError, codec_info, load, load_codes, save_codes

CORPUS = ROOT / "tests" / "data" / "corpus"
# A file of a few kilobytes may not cost more; codes that take no bits may take 2^30.
MOST_BYTES = 2**30 + 2**28
STANDS_STILL = 30
EXTREMES = [0, 1, 2, 7, 8, 9, 63, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16]
EXTREMES += [2**22, 2**22 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1]
EXTREMES += [2**63, 2**64 - 1]
WRONG = [None, True, -1, 0, 1, 0.5, 1e308, 2**63, 10**400, "", "x", [], [[]], {}, "nan"]
CODES_HEADER = 48


# -- files that are right --------------------------------------------------------------


@cache
def codecs():
    """Return the bytes of small codecs of every class."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in ONE_OF_EACH:
            quantizer = row.make()
            small = {"n_codewords": 4, "max_iter": 1}
            names = small.keys() & quantizer.get_params().keys()
            quantizer.set_params(**{name: small[name] for name in names})
            found.append(saved(quantizer.fit(row.data(60))))
    return found


def saved(quantizer):
    """Return the bytes of a codec file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codec")
        skvq.save(quantizer, path, details={"note": "fuzz"})
        return path.read_bytes()


@cache
def codes():
    """Return the bytes of files of codes, of both versions and all layouts."""
    rng = np.random.default_rng(0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codes")
        for sizes in ((3, 5), (256,), (2, 1, 300), (1,), (17,) * 9):
            rows = np.stack([rng.integers(n, size=13) for n in sizes], axis=1)
            for method in ("columns", "radix"):
                for row_aligned in (False, True):
                    save_codes(
                        path, rows, sizes, method=method, row_aligned=row_aligned
                    )
                    found.append(path.read_bytes())
            save_codes(path, rows, sizes, coder=EntropyCoder(sizes).fit(rows))
            found.append(path.read_bytes())
    return found


# -- changes ---------------------------------------------------------------------------


def scratched(content, rng, start=0):
    """Return content with a few bytes changed, cut, doubled or put elsewhere."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        n = len(changed)
        at = int(rng.integers(start, n)) if n > start else n
        kind = rng.integers(7)
        if kind == 0 and n > at:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and n > at:
            changed[at] = int(rng.integers(256))
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            changed += rng.bytes(int(rng.integers(1, 70)))
        elif kind == 4:
            size = int(rng.choice([1, 2, 4, 8]))
            number = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * size)
            changed[at : at + size] = number.to_bytes(size, "little")
        elif kind == 5:
            size = int(rng.integers(1, 33))
            changed[at:at] = changed[at : at + size]
        else:
            size = int(rng.integers(1, 33))
            del changed[at : at + size]
    return bytes(changed)


def with_right_checksums(content):
    """Return a file of codes whose checksums are those of what it holds now."""
    if len(content) < CODES_HEADER:
        return content
    changed = bytearray(content)
    version = struct.unpack_from("<H", changed, 8)[0]
    (n_columns,) = struct.unpack_from("<I", changed, 12)
    more, tables = 0, 0
    if version == 2:
        more = 16
        tables = int.from_bytes(changed[56:64], "little")
    end = CODES_HEADER + more + 8 * n_columns + tables
    end += -end % 64
    if end > len(changed):
        end = len(changed)
    if version == 1:
        struct.pack_into("<I", changed, 24, zlib.crc32(changed[end:]))
    struct.pack_into("<I", changed, 28, 0)
    struct.pack_into("<I", changed, 28, zlib.crc32(changed[:end]))
    return bytes(changed)


def places(value, path=()):
    """Yield the paths of all values in a tree of lists and dicts."""
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from places(inner, (*path, key))


def change_value(tree, rng):
    """Change a value somewhere in a tree, in place."""
    paths = [path for path in places(tree) if path]
    if not paths:
        return
    path = paths[rng.integers(len(paths))]
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    key = path[-1]
    kind = rng.integers(6)
    if kind == 0:
        inner.pop(key)
    elif kind == 1:
        inner[key] = copy.deepcopy(WRONG[rng.integers(len(WRONG))])
    elif kind == 2 and isinstance(inner[key], int):
        inner[key] = EXTREMES[rng.integers(len(EXTREMES))]
    elif kind == 3 and isinstance(inner[key], int | float):
        inner[key] += int(rng.choice([-1, 1]))
    elif kind == 4 and isinstance(inner, dict):
        inner[rng.choice(["x", "class", "n_codewords", "init"])] = inner.pop(key)
    else:
        other = paths[rng.integers(len(paths))]
        value = tree
        for one in other:
            if not isinstance(value, dict | list):
                break
            try:
                value = value[one]
            except (KeyError, IndexError):
                break
        inner[key] = copy.deepcopy(value)


def forged(content, rng):
    """Return a codec whose description or tensors are others, with right digests."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    described = json.loads(header.pop("__metadata__")["skvq"])
    arrays = safetensors.numpy.load(content)
    for _ in range(rng.integers(1, 4)):
        if arrays and rng.random() < 0.4:
            name = sorted(arrays)[rng.integers(len(arrays))]
            arrays[name] = changed_array(arrays[name], rng)
        else:
            change_value(described, rng)
    for name in ("digest", "data"):
        described.pop(name, None)
    try:
        return container.pack(described, arrays)
    except (ValueError, TypeError, OverflowError):
        return scratched(content, rng)  # no file can say this


def changed_array(array, rng):
    """Return an array of another shape, dtype or content."""
    kind = rng.integers(5)
    if kind == 0 and array.size:
        flat = array.reshape(-1).copy()
        flat.view(np.uint8)[rng.integers(flat.nbytes)] ^= 1 << int(rng.integers(8))
        return flat.reshape(array.shape)
    if kind == 1:
        return np.ascontiguousarray(array[: len(array) // 2]) if array.ndim else array
    if kind == 2:
        return array.reshape(-1)
    if kind == 3:
        dtype = rng.choice(["<f4", "<f8", "<i8", "|u1", "<i4"])
        with np.errstate(all="ignore"):
            return array.astype(dtype)
    return np.concatenate([array, array]) if array.ndim else array


def made(seed, case):
    """Return the file of a case, what it was, its kind, and whether it is forged.

    The checksums of a forged one have been computed again.
    """
    rng = np.random.default_rng([seed, case])
    if rng.random() < 0.5:
        original = codes()[rng.integers(len(codes()))]
        changed = scratched(original, rng, start=int(rng.choice([0, 8, 10])))
        is_forged = rng.random() < 0.7
        if is_forged:
            changed = with_right_checksums(changed)
        return changed, original, "codes", is_forged
    original = codecs()[rng.integers(len(codecs()))]
    is_forged = rng.random() < 0.7
    change = forged if is_forged else scratched
    return change(original, rng), original, "codec", is_forged


# -- reading ---------------------------------------------------------------------------


def look(path):
    """Read a file in every way; raise an AssertionError for what no reader may do.

    All readers refuse it with a FormatError, or all that read everything agree.  What a
    codec computes is not asked, but that it ends.

    Returns
    -------
    is_read : bool
        Whether it was read as anything.
    """
    as_codes = look_as_codes(path)
    return look_as_codec(path) or as_codes


def refused(read):
    """Return what a reader returns, or None if it refuses the file."""
    try:
        return read()
    except FormatError:
        return None


def look_as_codes(path):
    loaded = refused(lambda: load_codes(path))

    def pieces():
        with CodeReader(path) as reader:
            repr(reader)
            # A header alone may stand for 2^30 rows: that is what a piece is for.
            return list(islice(reader.chunks(8), 4)), reader.n_samples

    def mapped():
        with CodeReader(path) as reader:
            return None if reader.coder is not None else reader.memory_map()

    def picked():
        with CodeReader(path) as reader:
            return reader[: min(2, len(reader))]

    for read in (pieces, mapped, picked):
        found = refused(read)
        if loaded is not None:
            assert found is not None or read is mapped, f"{read.__name__} refuses it"
            if read is pieces:
                parts, n_samples = found
                assert n_samples == len(loaded)
                here = np.concatenate([*parts, loaded[:0]])
                np.testing.assert_array_equal(here, loaded[: len(here)])
            elif read is picked:
                np.testing.assert_array_equal(found, loaded[: len(found)])
    if loaded is not None and loaded.size < 2**20:
        # These bytes are the only ones that say so.
        with CodeReader(path) as reader:
            layout = {"method": reader.method, "row_aligned": reader.row_aligned}
            layout |= {"bitorder": reader.bitorder, "codec_id": reader.codec_id}
            is_coded = reader.coder is not None
            sizes = reader.sizes
        again = path.with_name("again")
        if not is_coded:
            save_codes(again, loaded, sizes, **layout)
            assert again.read_bytes() == path.read_bytes(), "other bytes say the same"
    return loaded is not None


def look_as_codec(path):
    info = refused(lambda: codec_info(path))
    codec = refused(lambda: load(path))
    mapped = refused(lambda: load(path, mmap=True))
    assert (codec is None) == (mapped is None), "read and mapped are not the same"
    refused(lambda: load(path, verify=False))
    if codec is None:
        return False
    assert info is not None, "it loads, and its description does not"
    repr(codec)
    width = info["n_features"]
    # Whatever its tables are: to use them may fail, but neither end the process nor
    # take its memory.
    with contextlib.suppress(Exception):
        if width < 1000:
            X = np.ones((3, width))
            codec.inverse_transform(codec.transform(X))
    return True


def read_changed(path, content, original, is_forged):
    """Read a changed file; without right checksums it is refused."""
    path.write_bytes(content)
    before = peak(reset=True)
    is_read = look(path)
    used = peak() - before
    assert used < MOST_BYTES + 40 * len(content), f"it takes {used / 2**20:.0f} MiB"
    if not is_forged:
        assert is_read == (content == original), "a change of it is not seen"


def peak(reset=False):
    """Return the most memory that the process has had, from now on if it is reset."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


# -- the worker ------------------------------------------------------------------------


def work(folder, seed, first, last):
    """Read the files of some cases; one line for each failure, and one at each case."""
    import resource  # not everywhere

    warnings.simplefilter("ignore")
    codes(), codecs()
    limit = 2**32 + 1024 * int(Path("/proc/self/statm").read_text().split()[0]) * 4
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    path, place = Path(folder, "changed"), Path(folder, "place")
    for case in range(first, last):
        place.write_text(str(case))
        content, original, kind, is_forged = made(seed, case)
        try:
            read_changed(path, content, original, is_forged)
        except Exception as error:
            told = f"{kind}: {type(error).__name__}: {' '.join(str(error).split())}"
            print(f"{case} {told[:300]}", flush=True)


def run(job):
    if not Path("/proc/self/status").exists():
        job.absent("memory is measured as Linux tells it")
        return
    n_stored = read_stored(job)
    first, n = job.case or 0, 0
    while job.left() > 0 and job.n_failures < 20:
        last = first + (1 if job.case is not None else 10**9)
        n += work_from(job, first, last)
        job.ran(f"{n} changed files, {n_stored} of the corpus")
        if job.case is not None:
            return
        first = job.case_reached + 1


def read_stored(job):
    """Read the inputs that have once failed."""
    paths = sorted(CORPUS.iterdir())
    for path in paths:
        with job.expecting(f"corpus, {path.name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            look(path)
    return len(paths)


def work_from(job, first, last):
    """Let a worker read files until time is up, it dies, or it stands still."""
    arguments = [sys.executable, "-m", "nightly.files", str(job.folder)]
    arguments += [str(job.seed), str(first), str(last)]
    place = job.folder / "place"
    place.write_text(str(first - 1))
    told = job.folder / "told.txt"
    with open(told, "w+") as out:
        process = subprocess.Popen(
            arguments, cwd=ROOT, stdout=out, stdin=subprocess.DEVNULL
        )
        seen, since = first - 1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            now = reached(place, seen)
            if now != seen:
                seen, since = now, time.monotonic()
            # A worker needs some time until its first file.
            patience = STANDS_STILL if seen >= first else 4 * STANDS_STILL
            stands = time.monotonic() - since > patience
            if stands or job.left() <= 0:
                process.kill()
                process.wait()
                if stands:
                    job.failed(f"case {seen}: reading does not end", case=seen)
                break
        else:
            seen = reached(place, seen)
            if seen < first:
                raise RuntimeError(
                    "the worker ended before its first file, see the log"
                )
            if process.returncode:
                status = process.returncode
                job.failed(f"case {seen}: the process ended, {status}", case=seen)
        out.seek(0)
        for line in out.read().splitlines():
            case, _, what = line.partition(" ")
            if case.isdigit() and job.n_failures < 20:
                keep(job, int(case))
                job.failed(f"case {case}: {what}", case=int(case))
    job.case_reached = reached(place, seen)
    return job.case_reached - first + 1


def reached(place, before):
    text = place.read_text()
    return int(text) if text.lstrip("-").isdigit() else before


def keep(job, case):
    """Leave the file of a case that failed, for the corpus."""
    content, _, kind, _ = made(job.seed, case)
    (job.folder / f"{kind}-{job.seed}-{case}").write_bytes(content)


if __name__ == "__main__":
    work(sys.argv[1], *map(int, sys.argv[2:]))
