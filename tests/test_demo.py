import contextlib
import io
import math
import os
import pickle
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

import skvq
from skvq import VectorQuantizer, __main__
from skvq._cli import demo
from skvq.codes import EntropyCoder, unpack

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

Outcome = namedtuple("Outcome", "status out err")
# Small, but with more blocks than any scheme has codewords.
N_ROWS, N_COLUMNS = 200, 240
HEADER = "scheme bits/pixel PSNR, dB fit, s encode, s codebooks, kB"


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = __main__.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    return Outcome(status, out.getvalue(), err.getvalue())


def one_line(outcome, status):
    """Return the only line of output, an error."""
    assert outcome.status == status
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n")
    assert outcome.err.startswith("python -m skvq")
    return outcome.err.rstrip("\n")


def table(out):
    """Return the cells of the markdown table in the output, without its rule."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert re.fullmatch(r"\| -+ (\| -+: )+\|", lines[1])
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in [lines[0], *lines[2:]]
    ]


def original():
    whole = load_sample_image("china.jpg")
    top, left = (np.array(whole.shape[:2]) - (N_ROWS, N_COLUMNS)) // 2
    return whole[top : top + N_ROWS, left : left + N_COLUMNS]


def decode(directory, stored, name):
    """Decode a file block by block, with own code; return the picture."""
    height, width = stored["codecs"][name]["block"]
    codec = stored["codecs"][name]["codec"]
    n_rows, n_columns, _ = stored["shape"]
    content = (directory / name).read_bytes()
    if stored["codecs"][name]["coded"]:
        codes = EntropyCoder.from_counts(codec[-1].code_counts_).decode(content)
    else:
        codes = unpack(
            np.frombuffer(content, dtype=np.uint8),
            codec[-1].codebook_sizes_,
            row_aligned=False,
            n_samples=n_rows * n_columns // (height * width),
        )
    decoded = iter(codec.inverse_transform(codes))
    picture = np.empty(stored["shape"])
    for top in range(0, n_rows, height):
        for left in range(0, n_columns, width):
            block = next(decoded).reshape(height, width, 3)
            picture[top : top + height, left : left + width] = block
    assert next(decoded, None) is None
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def outcome(directory):
    """As users run it: a process, without a display, that writes where it is.

    What a process has pickled from its __main__, no other could read.
    """
    root = Path(skvq.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "skvq", "demo", "--crop", f"{N_ROWS}x{N_COLUMNS}"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(root), "MPLBACKEND": "tkagg"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def stored(outcome, directory):
    return pickle.loads((directory / "skvq-demo-codecs.pickle").read_bytes())


@pytest.fixture
def one_scheme(monkeypatch):
    """Leave one quick scheme in the demo."""
    schemes = [demo._scheme("VQ 16", (2, 2), VectorQuantizer(16, random_state=0))]
    monkeypatch.setattr(demo, "_demo_schemes", lambda: schemes)
    return schemes


@pytest.mark.long
def test_the_demo_succeeds_and_tells_its_progress(outcome):
    assert outcome.status == 0, outcome.err
    assert "Written to '.'" in outcome.out
    labels = [scheme.label for scheme in demo._demo_schemes()]
    lines = outcome.err.splitlines()
    assert len(lines) == len(labels)
    for i, (line, label) in enumerate(zip(lines, labels, strict=True), start=1):
        assert re.fullmatch(
            rf"\[{i}/{len(labels)}\] {re.escape(label)}: \d+\.\d s", line
        )


def test_the_table_compares_schemes_at_equal_bits_per_pixel(outcome):
    header, *rows = table(outcome.out)
    assert " ".join(header) == HEADER
    schemes = demo._demo_schemes()
    references = rows[len(schemes) :]
    assert [row[0] for row in rows[: len(schemes)]] == [s.label for s in schemes]
    for row, scheme in zip(rows, schemes, strict=False):
        # Blocks of coded rows have a header each, and there are few rows here.
        assert row[1] == "1.000" or (scheme.coded and 0.98 < float(row[1]) < 1.01)
        assert all(float(cell) >= 0 for cell in row[1:])
    assert [row[0] for row in references] == list(demo._REFERENCES)
    for row in references:
        assert 0.8 < float(row[1]) <= 1
        assert 15 < float(row[2]) < 60
        assert row[3:] == ["", "", ""]


def test_the_table_says_what_the_codebooks_take(outcome):
    by_label = {row[0]: row[-1] for row in table(outcome.out)}
    # V * (numbers per block) * 4 bytes
    assert by_label["VQ 16, 2x2 blocks"] == f"{16 * 12 * 4 / 1000:.1f}"
    assert by_label["PQ 8x256, 8x8 blocks"] == f"{256 * 192 * 4 / 1000:.1f}"


def test_codes_have_their_true_size_on_disk(outcome, directory, stored):
    for name, entry in stored["codecs"].items():
        size = (directory / name).stat().st_size
        assert re.search(rf"^{re.escape(name)} +{size:,} bytes$", outcome.out, re.M)
        if entry["coded"]:
            assert 0.98 < 8 * size / (N_ROWS * N_COLUMNS) < 1.01
            continue
        n_blocks = N_ROWS * N_COLUMNS // math.prod(entry["block"])
        n_bits = sum(math.log2(size) for size in entry["codec"][-1].codebook_sizes_)
        assert n_bits == math.prod(entry["block"])  # one bit per pixel
        assert size == math.ceil(n_blocks * n_bits / 8) == N_ROWS * N_COLUMNS / 8


def test_the_files_alone_give_the_picture_that_the_table_judges(
    outcome, directory, stored
):
    rows = table(outcome.out)[1:]
    for name, row in zip(stored["codecs"], rows, strict=False):
        picture = decode(directory, stored, name)
        error = np.mean((picture.astype(float) - original()) ** 2)
        assert row[2] == f"{10 * np.log10(255**2 / error):.2f}"
        assert 15 < float(row[2]) < 60


def test_files_are_listed_and_nothing_else_is_left(outcome, directory, stored):
    listed = re.findall(r"^(skvq-demo\S*) +[\d,]+ bytes$", outcome.out, re.M)
    assert sorted(listed) == sorted(path.name for path in directory.iterdir())
    assert listed[:-2] == list(stored["codecs"])
    assert listed[-2:] == ["skvq-demo-codecs.pickle", "skvq-demo.png"]
    assert len(set(listed)) == len(listed) == len(demo._demo_schemes()) + 2


def test_the_figure_shows_original_and_reconstructions(outcome, directory, stored):
    with Image.open(directory / "skvq-demo.png") as image:
        figure = np.asarray(image.convert("RGB"))
    assert 1500 < figure.shape[1] < 1700
    assert (directory / "skvq-demo.png").stat().st_size < 900_000
    rows, columns = demo._detail((N_ROWS, N_COLUMNS, 3))
    pictures = [original(), *(decode(directory, stored, n) for n in stored["codecs"])]
    # Every pixel of the detail is 2 x 2 pixels of the figure.
    height, width = 2 * (rows.stop - rows.start), 2 * (columns.stop - columns.start)
    expected = [p[rows, columns].repeat(2, axis=0).repeat(2, axis=1) for p in pictures]
    for i in range(len(pictures)):
        row, column = divmod(i, demo._COLUMNS)
        top = (row + 1) * demo._TITLE + row * height
        left = demo._GAP + column * (width + demo._GAP)
        panel = figure[top : top + height, left : left + width].astype(float)
        gaps = [np.abs(panel - picture).mean() for picture in expected]
        assert np.argmin(gaps) == i
        # Versions of matplotlib place a panel to within a pixel.
        moved = [np.roll(panel, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        assert max((one == expected[i]).mean() for one in moved) > 0.8


def test_blocks_and_back_is_the_identity():
    picture = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    samples = demo._to_blocks(picture, (3, 5))
    assert samples.shape == (8, 45) and samples.dtype == np.float32
    np.testing.assert_array_equal(samples[1], picture[:3, 5:10].ravel())
    back = demo._to_picture(samples, (3, 5), picture.shape)
    np.testing.assert_array_equal(back, picture)


def test_pixels_are_rounded_and_clipped():
    samples = np.array([[-3.0, 300.0, 1.6]])
    picture = demo._to_picture(samples, (1, 1), (1, 1, 3))
    assert picture.dtype == np.uint8 and picture.ravel().tolist() == [0, 255, 2]


def test_psnr():
    black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert demo._psnr(black, grey) == 0.0
    assert demo._psnr(grey, grey - np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
    assert demo._psnr(grey, grey) == math.inf


def test_a_second_run_replaces_its_own_files_only(tmp_path, one_scheme):
    (tmp_path / "skvq-demo.png").write_text("old")
    (tmp_path / "skvq-demo-notes.txt").write_text("mine")
    arguments = ["demo", "--crop", "20x20", "--output", tmp_path]
    assert run(*arguments).status == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.pop("skvq-demo-notes.txt") == b"mine"
    assert before["skvq-demo.png"].startswith(b"\x89PNG")
    assert run(*arguments).status == 0
    assert {p.name for p in tmp_path.iterdir()} == {*before, "skvq-demo-notes.txt"}
    codes = "skvq-demo-vq-16-2x2.codes"
    assert (tmp_path / codes).read_bytes() == before[codes]


def test_codes_that_read_back_differently_are_an_error(
    tmp_path, one_scheme, monkeypatch
):
    def flipped(*args, **kwargs):
        return unpack(*args, **kwargs) ^ 1

    monkeypatch.setattr(demo, "unpack", flipped)
    outcome = run("demo", "--crop", "20x20", "--output", tmp_path)
    assert outcome.status == 1 and outcome.out == ""
    assert outcome.err.splitlines()[-1] == (
        "python -m skvq demo: error: skvq-demo-vq-16-2x2.codes reads back to another "
        "picture"
    )


def test_a_failed_write_leaves_the_old_file(tmp_path, one_scheme, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    old = tmp_path / "skvq-demo-vq-16-2x2.codes"
    old.write_text("old")
    monkeypatch.setattr(os, "replace", full)
    outcome = run("demo", "--crop", "20x20", "--output", tmp_path)
    assert outcome.status == 1
    assert "No space left on device" in outcome.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert old.read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paint"], "invalid choice: 'paint'"),
        (["demo", "--colour"], "unrecognized arguments: --colour"),
        (["demo", "--output"], "--output: expected one argument"),
        (["demo", "--crop", "400"], "both multiples of 40, got '400'"),
        (["demo", "--crop", "0x40"], "both multiples of 40, got '0x40'"),
        (["demo", "--crop", "-40x40"], "--crop"),
        (["demo", "--crop", "40x60"], "both multiples of 40, got '40x60'"),
        (["demo", "--crop", "40x40.0"], "both multiples of 40, got '40x40.0'"),
        (["demo", "--crop", "440x640"], "440x640 is more than the photograph has, 427"),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in one_line(run(*arguments), status=2)
    assert not list(tmp_path.iterdir())


def fail(*args):
    raise AssertionError("work was done")


@pytest.mark.parametrize("kind", ["missing", "file", "read-only"])
def test_an_unwritable_directory_is_one_line_before_any_work(
    kind, tmp_path, monkeypatch
):
    output = tmp_path / "output"
    if kind == "file":
        output.write_text("")
    if kind == "read-only":
        output.mkdir(mode=0o500)
        if os.access(output, os.W_OK):
            pytest.skip("this user may write everywhere")
    monkeypatch.setattr(demo, "_photograph", fail)
    line = one_line(run("demo", "--output", output), status=2)
    assert f"cannot write to the directory '{output}': " in line


@pytest.mark.parametrize("name", ["matplotlib", "PIL"])
def test_a_missing_extra_is_one_line_before_any_work(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(demo, "_photograph", fail)
    line = one_line(run("demo", "--output", tmp_path), status=2)
    assert line.endswith("pip install 'skvq[demo]'")


def test_schemes_have_files_of_their_own():
    schemes = demo._demo_schemes()
    assert len({scheme.file_name for scheme in schemes}) == len(schemes)


def test_version_and_help():
    assert run("--version") == (0, f"skvq {skvq.__version__}\n", "")
    outcome = run("demo", "--help")
    assert outcome.status == 0 and "--output DIR" in outcome.out
