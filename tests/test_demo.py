import contextlib
import io
import math
import os
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
from skvq.io import CodeReader, codec_info, load

pytest.importorskip("constriction")
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


def decode(folder, scheme):
    """Decode a picture block by block, with own code."""
    codec, codes = (folder / name for name in scheme.file_names)
    details = codec_info(codec)["details"]
    (height, width), shape = details["block"], details["picture"]
    with CodeReader(codes) as reader:
        assert reader.codec_id == codec_info(codec)["id"]
        decoded = iter(load(codec).inverse_transform(reader[:]))
    picture = np.empty(shape)
    for top in range(0, shape[0], height):
        for left in range(0, shape[1], width):
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
def folder(outcome, directory):
    return directory / "skvq-demo"


@pytest.fixture
def one_scheme(monkeypatch):
    """Leave one quick scheme in the demo."""
    schemes = [demo._scheme("VQ 16", (2, 2), VectorQuantizer(16, random_state=0))]
    monkeypatch.setattr(demo, "_demo_schemes", lambda: schemes)
    return schemes


@pytest.mark.long
def test_the_demo_succeeds_and_tells_its_progress(outcome):
    assert outcome.status == 0, outcome.err
    assert "Written to 'skvq-demo'" in outcome.out
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


def test_codes_have_their_true_size_on_disk(outcome, folder):
    for scheme in demo._demo_schemes():
        _, name = scheme.file_names
        size = (folder / name).stat().st_size
        assert re.search(rf"^{re.escape(name)} +{size:,} bytes$", outcome.out, re.M)
        with CodeReader(folder / name) as reader:
            assert reader.n_samples == N_ROWS * N_COLUMNS // math.prod(scheme.block)
            bits = reader.bits_per_row * reader.n_samples
            header = 48 + 8 * len(reader.sizes)
        if scheme.coded:
            assert 0.98 < bits / (N_ROWS * N_COLUMNS) < 1.01
        else:
            assert bits == N_ROWS * N_COLUMNS
            assert size <= bits / 8 + header + 16


def test_the_files_alone_give_the_picture_that_the_table_judges(outcome, folder):
    rows = table(outcome.out)[1:]
    for scheme, row in zip(demo._demo_schemes(), rows, strict=False):
        picture = decode(folder, scheme)
        error = np.mean((picture.astype(float) - original()) ** 2)
        assert row[2] == f"{10 * np.log10(255**2 / error):.2f}"
        assert 15 < float(row[2]) < 60


def test_all_is_in_one_folder_and_listed_with_the_picture_last(
    outcome, directory, folder
):
    assert [path.name for path in directory.iterdir()] == ["skvq-demo"]
    listed = re.findall(r"^(\S+) +[\d,]+ bytes$", outcome.out, re.M)
    schemes = demo._demo_schemes()
    names = [name for scheme in schemes for name in scheme.file_names]
    assert listed == [*names, "CREDIT.txt", "picture.png"]
    assert {path.name for path in folder.iterdir()} == {*listed, ".gitignore"}
    assert len(set(listed)) == len(listed)
    assert outcome.out.endswith(f"\n\nPicture: {Path('skvq-demo', 'picture.png')}\n")
    assert (folder / ".gitignore").read_text() == "*\n"


def test_the_photograph_has_its_credit(outcome, folder):
    with Image.open(folder / "picture.png") as image:
        within = image.text["Copyright"]
    for text in (outcome.out, (folder / "CREDIT.txt").read_text(), within):
        for part in ("china.jpg", "danielbuechele", "CC BY 2.0", "cut and quantized"):
            assert part in text


def test_the_figure_shows_original_and_reconstructions(outcome, folder):
    with Image.open(folder / "picture.png") as image:
        figure = np.asarray(image.convert("RGB"))
    assert 1500 < figure.shape[1] < 1700
    assert (folder / "picture.png").stat().st_size < 900_000
    rows, columns = demo._detail((N_ROWS, N_COLUMNS, 3))
    pictures = [original()]
    pictures += [decode(folder, scheme) for scheme in demo._demo_schemes()]
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
        # Versions of matplotlib place a panel to within a pixel, or between two.
        moved = [np.roll(panel, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        assert max((one == expected[i]).mean() for one in moved) > 0.6


def test_a_second_run_replaces_its_own_files_only(tmp_path, one_scheme):
    (tmp_path / "picture.png").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    arguments = ["demo", "--crop", "20x20", "--output", tmp_path]
    assert run(*arguments).status == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before["notes.txt"] == b"mine"
    assert before["picture.png"].startswith(b"\x89PNG")
    # Git sees a folder that was there as it did before.
    assert set(before) == {
        *("notes.txt", "picture.png", "CREDIT.txt"),
        *("vq-16-2x2.codec", "vq-16-2x2.codes"),
    }
    assert run(*arguments).status == 0
    assert {path.name for path in tmp_path.iterdir()} == set(before)
    codes = "vq-16-2x2.codes"
    assert (tmp_path / codes).read_bytes() == before[codes]


def test_codes_that_read_back_differently_are_an_error(
    tmp_path, one_scheme, monkeypatch
):
    read = demo._read_back

    def other(*args):
        found = read(*args)
        return demo._Stored(found.picture ^ 1, found.bits_per_pixel)

    monkeypatch.setattr(demo, "_read_back", other)
    outcome = run("demo", "--crop", "20x20", "--output", tmp_path)
    assert outcome.status == 1 and outcome.out == ""
    assert outcome.err.splitlines()[-1] == (
        "python -m skvq demo: error: vq-16-2x2.codes reads back to another picture"
    )


def test_a_failed_write_leaves_the_old_file(tmp_path, one_scheme, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    old = tmp_path / "vq-16-2x2.codec"
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
    if kind == "missing":
        output = tmp_path / "none" / "output"
    if kind == "file":
        output.write_text("")
    if kind == "read-only":
        output.mkdir(mode=0o500)
        if os.access(output, os.W_OK):
            pytest.skip("this user may write everywhere")
    monkeypatch.setattr(demo, "_run", fail)
    line = one_line(run("demo", "--output", output), status=2)
    assert f"cannot write to the directory '{output}': " in line


@pytest.mark.parametrize("name", ["matplotlib", "PIL"])
def test_a_missing_extra_is_one_line_before_any_work(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(demo, "_photograph", fail)
    line = one_line(run("demo", "--output", tmp_path), status=2)
    assert line.endswith("pip install 'skvq[demo]'")


def test_what_is_unexpected_names_no_option_that_is_not_there(tmp_path, monkeypatch):
    def photograph(crop):
        raise KeyError("x")

    monkeypatch.setattr(demo, "_photograph", photograph)
    line = one_line(run("demo", "--output", tmp_path), status=1)
    assert line.endswith("demo: error: KeyError: 'x' (unexpected)")


def test_schemes_have_files_of_their_own():
    schemes = demo._demo_schemes()
    names = [name for scheme in schemes for name in scheme.file_names]
    assert len(set(names)) == 2 * len(schemes)


def test_version_and_help():
    assert run("--version") == (0, f"skvq {skvq.__version__}\n", "")
    outcome = run("demo", "--help")
    assert outcome.status == 0 and "--output DIR" in outcome.out
