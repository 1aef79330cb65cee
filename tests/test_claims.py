"""Pages show the figures of `benchmarks/figures.json`, and claim nothing else."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import skvq

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "benchmarks" / "_figures.py"
# Words of pages that sound like a claim of speed, memory or error, and are none.
NO_CLAIMS = Path(__file__).parent / "data" / "no_claims.txt"


def load_module():
    spec = importlib.util.spec_from_file_location("_figures", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load_module()

# -- what is a claim -------------------------------------------------------------------

NUMBER = (
    r"(?:\d+(?:[.,]\d+)*|\.\d+|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty"
    r"|forty|fifty|(?:a )?hundred|(?:a )?thousand)"
)
MORE = (
    r"(?:less|more|lower|higher|smaller|larger|below|above|better|worse|off|faster"
    r"|slower|shorter|longer|cheaper)"
)
# With a number, which has to be a figure with a key ("§" below).
COUNTED = re.compile(
    rf"\b{NUMBER}(?: (?:to|or|and) §)?[ -](?:times|fold)\b"
    rf"|§ (?:to|or|and) {NUMBER}[ -](?:times|fold)\b"
    rf"|(?:\d|\.\d)[\d.]* ?%(?: (?:to|or|and) §)? (?:of the )?{MORE}\b"
    rf"|\b{NUMBER} (?:to|or|and) §",
    re.I,
)
# Without: a figure has to stand in the same sentence.
WORDED = re.compile(
    r"\btwice\b|\bfaster\b|\bslower\b|\bas fast\b|\bspeed-?ups?\b"
    r"|\b(?:orders?) of magnitude\b"
    r"|\b(?:half|a third|a quarter|a tenth) (?:the|of the|as) "
    r"(?:time|memory|error|size|cost|much|long|fast)\b"
    rf"|\b(?:half|a third|a quarter|a tenth) (?:again|{MORE})\b"
    rf"|\b(?:many|several|some|hundreds? of|thousands? of) times (?:as|the|{MORE})\b",
    re.I,
)
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


def claims(text, no_claims=()):
    """Sentences that claim something without a figure, and the phrases in use."""
    found, used = [], set()
    for paragraph in prose(text):
        for sentence in SENTENCE.split(paragraph):
            matches = list(COUNTED.finditer(sentence))
            if "§" not in sentence:
                matches += WORDED.finditer(sentence)
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


def texts():
    """What a reader sees: pages, examples and public docstrings, by a name."""
    found = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in [*figures.pages(ROOT), ROOT / "docs" / "api.rst"]
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


def test_every_record_says_where_it_comes_from():
    stored = figures.load()
    for name, record in stored["races"].items():
        instructions, group = name.split(".")
        assert instructions in figures.SETS.values()
        assert {"machine", "versions", "commit", "date", "data", "cases"} <= set(record)
        assert {"processor", "instructions", "cores", "threads"} == set(
            record["machine"]
        )
        assert {"skvq", "python", "numpy", "faiss-cpu"} <= set(record["versions"])
        for case_name, case in record["cases"].items():
            assert figures.words(group, case_name, case)
            for side in case.get("sides", {}).values():
                if side["quartiles"] is None:
                    # Taken over from a page that did not have them.
                    assert "measured" in record
                else:
                    low, high = side["quartiles"]
                    assert low <= side["median"] <= high


def test_every_single_figure_is_measured_by_a_script_and_shown():
    shown = set()
    for path in figures.pages(ROOT):
        text = path.read_text(encoding="utf-8")
        shown |= {key for _, key, *_ in figures.INLINE.findall(text)}
    said = figures.load()["said"]
    assert set(said) - shown == set()
    for key, one in said.items():
        assert {"figure", "what", "script", "measured"} == set(one), key
        assert (ROOT / one["script"]).is_file(), key


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

    What is no claim of speed, memory or error has its line in `data/no_claims.txt`.
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
