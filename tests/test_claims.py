"""Pages show the figures of `benchmarks/figures.json`, and claim nothing else."""

import importlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import skvq

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "benchmarks" / "_figures.py"
# Words of pages that sound like a claim of speed, memory or error, and are none.
NO_CLAIMS = Path(__file__).parent / "data" / "no_claims.txt"
# What was measured before `figures.json`, each with the digest of its record.
OLD_FIGURES = NO_CLAIMS.with_name("old_figures.txt")


def load_module():
    spec = importlib.util.spec_from_file_location("_figures", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load_module()

# -- what is a claim -------------------------------------------------------------------

NUMBER = (
    r"(?:\d+(?:[.,]\d+)*|\.\d+|two|three|four|five|six|seven|eight|nine|ten|eleven"
    r"|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|(?:a )?dozen|(?:a )?hundred|(?:a )?thousand)"
)
MORE = (
    r"(?:less|fewer|more|lower|higher|smaller|larger|below|above|better|worse|off|faster"
    r"|slower|quicker|shorter|longer|cheaper|dearer)"
)
PART = (
    r"(?:half|halves|(?:a|one|two) thirds?|(?:a|one|three) quarters?"
    r"|(?:a|an|one|two|three|four|five|seven|nine) "
    r"(?:fifth|sixth|seventh|eighth|ninth|tenth|hundredth)s?)"
)
PRICE = r"(?:time|speed|memory|error|distortion|size|space|cost|price|load)"
SECONDS = r"\d ?(?:ns|us|µs|ms|s|seconds?|minutes?|hours?)\b"
# With a number, which has to be a figure with a key ("§" below).
COUNTED = re.compile(
    rf"\b{NUMBER}(?: (?:to|or|and) §)?[ -](?:times|fold)\b"
    rf"|§ (?:to|or|and) {NUMBER}[ -](?:times|fold)\b"
    r"|\b\d{1,3}(?:\.\d+)?[x\u00d7](?![\w(])"
    rf"|\b\d{{1,3}}(?:\.\d+)? [x\u00d7](?= (?:as|the|{MORE}|{PRICE})\b)"
    rf"|(?:\d|\.\d)[\d.]* ?(?:%|percent\b)(?: (?:to|or|and) §)? (?:of the )?{MORE}\b"
    rf"|\bfactors? of (?:about |some |up to |more than )?{NUMBER}\b"
    rf"|\b{NUMBER} (?:to|or|and) §"
    rf"|{SECONDS}[^;§]*\b(?:where|while|whereas|against|beside|not|than|instead|place)\b"
    rf"[^;§]*{SECONDS}",
    re.I,
)
# Without: a figure has to stand in the same clause.
WORDED = re.compile(
    r"\btwice\b|\bfaster\b|\bslower\b|\bas fast\b|\bspeed-?ups?\b"
    r"|\bquicker\b|\bas quick(?:ly)?\b|\b(?:fast|quick|slow|cheap)est\b"
    rf"|\b(?:doubl|trebl|tripl|halv)(?:es?|ed|ing) (?:the |its |their )?{PRICE}\b"
    r"|\b(?:orders?) of magnitude\b"
    rf"|\b{PART} (?:of )?(?:the|its|their|as) (?:{PRICE}|much|long|fast)\b"
    rf"|\b{PART} (?:again|{MORE})\b"
    rf"|\b(?:many|several|some|hundreds? of|thousands? of) times (?:as|the|{MORE})\b",
    re.I,
)
CLAUSE = re.compile(r",\s|[()]|\s(?:and|but|while|where|whereas)\s(?!§)")
SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\s*\|\s*")


def prose(text):
    """Text without tables that are filled, in one line for each paragraph.

    A figure with a key becomes "§", with what belongs to it, such as a sign of percent.
    """
    if figures is not None:
        text = figures.TABLE.sub("\n\n", text)
        text = figures.INLINE.sub("§", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\. |:::|```))", text)
    return [" ".join(re.sub(r"[*`]", "", one).split()) for one in paragraphs]


def clause_of(sentence, match):
    """Return the part of a sentence that a match stands in."""
    borders = [one.span() for one in CLAUSE.finditer(sentence)]
    start = max((stop for _, stop in borders if stop <= match.start()), default=0)
    stop = min((begin for begin, _ in borders if begin >= match.end()), default=None)
    return sentence[start:stop]


def claims(text, no_claims=()):
    """Sentences that claim something without a figure, and the phrases in use."""
    found, used = [], set()
    for paragraph in prose(text):
        for sentence in SENTENCE.split(paragraph):
            matches = [
                *COUNTED.finditer(sentence),
                *(
                    match
                    for match in WORDED.finditer(sentence)
                    if "§" not in clause_of(sentence, match)
                ),
            ]
            bare = []
            for match in matches:
                covering = {
                    phrase
                    for phrase in no_claims
                    for place in re.finditer(re.escape(phrase), sentence)
                    if place.start() <= match.start() and match.end() <= place.end()
                }
                used |= covering
                bare += [match[0]] * (not covering)
            if bare:
                found.append(f"{bare} in {sentence!r}")
    return found, used


def reviewed():
    lines = NO_CLAIMS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# Read, but not filled: they have no figures of their own.
OTHER_PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "THIRD_PARTY.md",
    "docs/api.rst",
    "examples/GALLERY_HEADER.rst",
)


def texts():
    """What a reader sees: pages, examples and public docstrings, by a name."""
    found = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in [*figures.pages(ROOT), *map(ROOT.joinpath, OTHER_PAGES)]
    }
    for path in sorted((ROOT / "examples").rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        found[path.relative_to(ROOT).as_posix()] = "\n".join(
            line.removeprefix("#").strip() for line in lines
        )
    return found | dict(docstrings())


def docstrings():
    names = re.findall(
        r"^   (skvq[\w.]*)$", (ROOT / "docs" / "api.rst").read_text("utf-8"), re.M
    )
    for name in dict.fromkeys(["skvq", *names]):
        owner, _, item = name.rpartition(".")
        try:
            public = importlib.import_module(name)
        except ModuleNotFoundError:
            try:
                public = getattr(importlib.import_module(owner), item)
            except ModuleNotFoundError as error:
                # Of torch, for which this is no test.
                assert error.name.partition(".")[0] != "skvq"
                continue
        yield name, inspect.getdoc(public) or ""
        if inspect.isclass(public):
            for method, function in inspect.getmembers(public, inspect.isroutine):
                module = getattr(function, "__module__", None) or ""
                if not method.startswith("_") and module.startswith("skvq"):
                    yield f"{name}.{method}", inspect.getdoc(function) or ""


# -- figures ---------------------------------------------------------------------------


def test_pages_show_the_figures_of_the_file():
    stored = figures.load()
    for path in figures.pages(ROOT):
        text = path.read_text(encoding="utf-8")
        page = path.relative_to(ROOT).as_posix()
        # Else: python benchmarks/tables.py --pages
        assert figures.filled(text, stored, page) == text, page


def old_figures():
    """Return the digests of what was measured before the file, by name."""
    lines = OLD_FIGURES.read_text(encoding="utf-8").splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def digest(record):
    return figures.sealed(record)["seal"]


def check_origin(name, record, old):
    """Raise unless a script has written a record, or it is an old one as it was."""
    if name in old:
        assert record["measured"] == "before this file", name
        assert digest(record) == old[name], f"{name} was changed by hand"
        return
    assert "measured" not in record, f"{name} is no old figure"
    assert set(record["machine"]) == {"processor", "instructions", "cores", "threads"}
    assert {"skvq", "python", "numpy"} <= set(record["versions"]), name
    assert all([*record["machine"].values(), *record["versions"].values()]), name
    # Not "-dirty": from files that can be looked up.
    assert re.fullmatch(r"[0-9a-f]{7,40}", record["commit"] or ""), name
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", record["date"] or ""), name
    assert record["data"], name
    assert record["seal"] == digest(record), f"{name} was changed by hand"


def check_race(name, record, old):
    """Raise unless a record of `tables.py` is whole."""
    check_origin(name, record, old)
    instructions, group = name.split(".")
    assert instructions in figures.SETS.values()
    assert name in old or record["versions"]["faiss-cpu"]
    for case_name, case in record["cases"].items():
        assert figures.words(group, case_name, case)
        if name not in old:
            for side in case.get("sides", {}).values():
                low, high = side["quartiles"] or (1, 0)
                assert low <= side["median"] <= high, (name, case_name)


def check_said(key, one, old):
    """Raise unless a single figure was recorded by its script, or is an old one."""
    check_origin(key, one, old)
    assert one["figure"] and one["what"], key
    if one["script"] is not None:
        script = ROOT / one["script"]
        assert script.is_file(), key
    if key not in old:
        assert script.stem == key.partition(".")[0]
        assert "_common.record(" in script.read_text(encoding="utf-8"), key


def check_records(stored, old):
    """Raise unless all records say where they come from, and old ones are as old."""
    for name, record in stored["races"].items():
        check_race(name, record, old)
    for key, one in stored["said"].items():
        check_said(key, one, old)
    gone = set(old) - {*stored["races"], *stored["said"]}
    assert gone == set(), "These have been measured anew."


def test_every_record_says_where_it_comes_from():
    """Measure, by `tables.py` or a script's --record; nothing is written by hand."""
    check_records(figures.load(), old_figures())


def tenfold(stored):
    """Plant a group that is ten times as good, as if it were from before the file."""
    record = stored["races"]["avx512.product"]
    for case in record["cases"].values():
        case["sides"]["faiss"]["median"] *= 10
        for side in case["sides"].values():
            side["quartiles"] = None
    record |= {"commit": None, "measured": "before this file"}


def tenfold_with_quartiles(stored):
    for case in stored["races"]["avx512.product"]["cases"].values():
        faiss = case["sides"]["faiss"]
        faiss["median"] *= 10
        faiss["quartiles"] = [10 * value for value in faiss["quartiles"]]


def without_quartiles(stored):
    record = stored["races"]["avx512.flat"]
    record["cases"]["8x256"]["sides"]["skvq"]["quartiles"] = None
    stored["races"]["avx512.flat"] = figures.sealed(record)


def other_old_figure(stored):
    stored["said"]["kronecker.64x64"]["figure"] = "66"


def other_old_table(stored):
    stored["races"]["avx2.scan"]["cases"]["8x8"]["sides"]["faiss"]["median"] *= 10


def other_recorded_figure(stored):
    stored["said"]["rules.balance"]["figure"] = "1.1"


def new_old_figure(stored):
    stored["said"]["kronecker.8x8"] = stored["said"]["kronecker.64x64"]


def of_a_dirty_tree(stored):
    one = stored["said"]["rules.balance"]
    stored["said"]["rules.balance"] = figures.sealed(one | {"commit": "1234567-dirty"})


def of_another_script(stored):
    one = stored["said"]["rules.balance"]
    script = "benchmarks/memory.py"
    stored["said"]["rules.balance"] = figures.sealed(one | {"script": script})


def without_a_version(stored):
    one = stored["said"]["rules.balance"]
    versions = one["versions"] | {"numpy": None}
    stored["said"]["rules.balance"] = figures.sealed(one | {"versions": versions})


def measured_anew(stored):
    del stored["said"]["kronecker.64x64"]


@pytest.mark.parametrize(
    "plant",
    [
        tenfold,
        tenfold_with_quartiles,
        without_quartiles,
        other_old_figure,
        other_old_table,
        other_recorded_figure,
        new_old_figure,
        of_a_dirty_tree,
        of_another_script,
        without_a_version,
        measured_anew,
    ],
)
def test_a_figure_that_no_script_has_written_is_found(plant):
    stored = figures.load()
    plant(stored)
    with pytest.raises(AssertionError):
        check_records(stored, old_figures())


TRIAL = """
import _common

arguments = _common.parser("A trial.", repeats=1, records=True).parse_args()
_common.record(arguments, "trial.one", "2", "what it is", data="numbers")
"""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not there.")
def test_a_script_records_its_figures(tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("_common.py", "_figures.py", "figures.json"):
        shutil.copy(SOURCE.with_name(name), folder)
    (folder / "trial.py").write_text(TRIAL)

    def run(*command):
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0
        return figures.load(folder / "figures.json")["said"].get("trial.one")

    run("git", "init", "--quiet")
    run("git", "add", ".")
    author = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    run("git", *author, "commit", "--quiet", "-m", "x")
    trial = sys.executable, "benchmarks/trial.py"
    assert run(*trial) is None
    one = run(*trial, "--record")
    check_origin("trial.one", one, old_figures())
    assert one["figure"] == "2"
    assert one["script"] == "benchmarks/trial.py"
    (folder / "trial.py").write_text(TRIAL.replace('"2"', '"3"'))
    one = run(*trial, "--record")
    assert one["figure"] == "3"
    assert one["commit"].endswith("-dirty")
    with pytest.raises(AssertionError):
        check_origin("trial.one", one, old_figures())


def test_versions_that_nobody_recorded_are_left_out():
    record = figures.load()["races"]["avx2.flat"]
    assert "faiss-cpu 1.15.1, float32" in figures.origin(record)
    versions = record["versions"] | {"faiss-cpu": None}
    assert "AVX2, float32" in figures.origin(record | {"versions": versions})


def test_every_single_figure_is_shown():
    shown = set()
    for path in figures.pages(ROOT):
        text = path.read_text(encoding="utf-8")
        shown |= {key for _, key, *_ in figures.INLINE.findall(text)}
    assert set(figures.load()["said"]) - shown == set()


STORED = {
    "races": {
        "avx512.flat": {
            "cases": {
                "8x256": {
                    "void": False,
                    "of_peak": 0.62,
                    "sides": {"skvq": {"median": 1e-7}, "faiss": {"median": 1.7e-7}},
                },
                "16x256": {
                    "void": False,
                    "sides": {"skvq": {"median": 1e-7}, "faiss": {"median": 12.4e-7}},
                },
                "32x256": {
                    "void": True,
                    "sides": {"skvq": {"median": 1e-7}, "faiss": {"median": 99e-7}},
                },
            }
        }
    },
    "said": {"kronecker.speed": {"figure": "6.6"}},
}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("kronecker.speed", "6.6"),
        ("avx512.flat.8x256.faiss", "1.7"),
        ("avx512.flat.8x256.of_peak", "62%"),
        ("avx512.flat.least.faiss", "1.7"),
        ("avx512.flat.most.faiss", "12"),  # not what is void
    ],
)
def test_a_key_gives_its_figure(key, text):
    assert figures.figure(STORED, key) == text
    old = f"It is <!--f:{key}-->9.9<!--/f--> times as fast."
    new = figures.filled(old, STORED, "a page without tables")
    assert new == old.replace("9.9", text)
    assert claims(new) == ([], set())


@pytest.mark.parametrize(
    "key",
    [
        "kronecker.memory",
        "avx2.flat.8x256.faiss",
        "avx512.flat.9x256.faiss",
        "avx512.flat.8x256.nanopq",
        "avx512.flat.32x256.faiss",  # void
    ],
)
def test_a_key_without_a_figure_is_an_error(key):
    with pytest.raises(ValueError, match="no figure"):
        figures.filled(f"It is <!--f:{key}-->2<!--/f-->.", STORED, "a page")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Now:\n<!--f:kronecker.speed-->6.6<!--/f--> times", "no line may begin"),
        ("- <!--f:kronecker.speed-->6.6<!--/f--> times", "no line may begin"),
        ("It is <!--f:kronecker.speed-->6.6 times as fast.", "has no '<!--/f-->'"),
        ("<!-- figures: old -->\n\nrows\n\n<!-- end of old -->", "has tables for"),
    ],
)
def test_a_page_with_a_broken_comment_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        figures.filled(text, STORED, "a page")


def test_a_page_without_its_table_is_an_error():
    with pytest.raises(ValueError, match=r"README.md has tables for \[\]"):
        figures.filled("A page.", STORED, "README.md")


# -- claims ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim",
    [
        "It is 3 times as fast as faiss.",
        "It is two to\nten times as fast.",
        "It takes ten times the memory.",
        "| search | 2.5 times |",
        "It takes 40 % less time.",
        "Errors are 3% higher than those.",
        "Its rotations take up to 42% off the error.",
        "It is twice as fast.",
        "Encoding is faster than in faiss.",
        "A pass takes half the time.",
        "It is no slower.",
        "Searching is as fast as adding.",
        "It is many times faster.",
        "It takes a third less.",
        "That is an order of magnitude.",
        "It is 3x as quick.",
        "It takes 3x less time.",
        "It is a gain of 2.5x.",
        "It is 3 x faster.",
        "It is 3\u00d7 the speed.",
        "It is quicker.",
        "It doubles the speed.",
        "That halves the time.",
        "It is 40% quicker.",
        "It takes 40 percent less memory.",
        "It is better by a factor of ten.",
        "It is sixteen times as fast.",
        "It was tried, and a dozen times faster.",
        "It takes two thirds of the memory.",
        "It is the fastest library.",
        "It takes 3 ms where faiss takes 9 ms.",
        # One in another clause neither.
        "It is <!--f:x-->2<!--/f--> times as fast, and fitting is faster as well.",
        "Fitting is faster, and it is <!--f:x-->2<!--/f--> times as fast.",
        # A figure beside it is not the one that is claimed.
        "It is <!--f:x-->2<!--/f--> to 9 times as fast.",
        "It is 2 to <!--f:x-->9<!--/f--> times as fast.",
        "It has <!--f:x-->2<!--/f--> times the error in 3 times the time.",
        # One in another sentence neither.
        "It is <!--f:x-->2<!--/f--> times as fast. Fitting is faster as well.",
    ],
)
def test_a_claim_without_a_figure_is_found(claim):
    assert claims(claim)[0]


@pytest.mark.parametrize(
    "text",
    [
        "It is <!--f:x-->2<!--/f--> to <!--f:y-->9<!--/f--> times as fast.",
        "Errors are <!--f:x-->3%<!--/f--> higher than those.",
        "It serves several times.",
        "At 5% of the rows, the times of both are those of one.",
    ],
)
def test_what_has_its_figure_is_no_claim(text):
    assert claims(text) == ([], set())


def test_a_reviewed_phrase_excuses_itself_alone():
    text = "`fit` reads the rows\ntwice. It is twice as fast."
    phrases = ["reads the rows twice", "never said twice"]
    found, used = claims(text, phrases)
    assert len(found) == 1
    assert "as fast" in found[0]
    assert used == {"reads the rows twice"}


def test_nothing_is_claimed_without_a_figure():
    """Give it a key, see `benchmarks/README.md`, or say it without a number.

    What is none, or none of today, has its line in `data/no_claims.txt`.
    """
    phrases, used, found = reviewed(), set(), {}
    for name, text in texts().items():
        without, here = claims(text, phrases)
        used |= here
        if without:
            found[name] = without
    assert found == {}
    assert set(phrases) - used == set(), "These are not needed any more."
    assert len(phrases) == len(set(phrases))


def test_docstrings_have_no_figures():
    """Help is read where nobody renews them."""
    for name, text in docstrings():
        assert "<!--f:" not in text, name


def test_docstrings_are_looked_at():
    names = dict(docstrings())
    assert {"skvq", "skvq.VectorQuantizer", "skvq.VectorQuantizer.fit"} <= set(names)
    assert all(names[name] for name in ("skvq", *skvq.__all__) if name in names)
