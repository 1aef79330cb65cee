"""Settings and fixtures of the whole suite."""

import os
import re
import signal
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from skvq.nearest import native

pytest.register_assert_rewrite("oracles", "table", "arrays.libraries")

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile(
    "default",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "explore", settings.get_profile("default"), derandomize=False, max_examples=500
)
# For many runs with seeds of their own.
settings.register_profile(
    "fresh", settings.get_profile("default"), derandomize=False, max_examples=100
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Far more than any test takes: what runs longer hangs.
HANGS_AFTER = int(os.environ.get("SKVQ_TEST_TIMEOUT", "120"))

# Packagers test an installed skvq by this folder and pyproject.toml alone.  What says
# ROOT reads pages and scripts of the tree beside it, some when it is imported.
TREE = Path(__file__).parent.parent
OF_TREE = re.compile(r"^ROOT = Path\(__file__\)\.parent\.parent$", re.M)
IN_TREE = (TREE / ".ci" / "release").exists()
collect_ignore = [
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if not IN_TREE and OF_TREE.search(path.read_text(encoding="utf-8"))
]


def pytest_report_header():
    """Tell what is left out."""
    left_out = ", ".join(sorted(collect_ignore))
    return f"not the source tree: without {left_out}" if left_out else None


@pytest.fixture(scope="session")
def tree():
    """Return the folder of the source tree, for a test that reads one of its pages."""
    if not IN_TREE:
        pytest.skip("needs the source tree")
    return TREE


def pytest_sessionstart(session):
    """Say at once if the compiled engine is not that of its sources, and not in a test.

    SKVQ_NATIVE=numpy tests without it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            native.library()
    except (RuntimeWarning, ImportError, ValueError) as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(autouse=True, scope="session")
def _no_cache_of_the_user(tmp_path_factory):
    """Let no test read or write what `skvq compare` keeps for the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_addoption(parser):
    """Let a run that looks for what versions of packages change take fewer cases."""
    parser.addoption(
        "--few-cases",
        action="store_true",
        help="of each test two cases, or one row of each class; all cases of those "
        "that are marked",
    )
    parser.addoption(
        "--seeds",
        type=int,
        metavar="N",
        help="run the tests that take `seed`, and no others, at so many seeds",
    )
    parser.addoption(
        "--first-seed",
        type=int,
        default=0,
        metavar="K",
        help="the first of them; of 0, tests are those of a run without --seeds",
    )


@pytest.fixture
def seed():
    """What a test of random numbers adds to the seeds that it draws from."""
    return 0


def _takes_seed(metafunc):
    """Whether a test takes the fixture, and has no parameter of this name."""
    own = [
        name
        for mark in metafunc.definition.iter_markers("parametrize")
        for name in (
            mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        )
    ]
    return "seed" in metafunc.fixturenames and "seed" not in map(str.strip, own)


def pytest_generate_tests(metafunc):
    """Give tests that take `seed` as many as are asked for, far from each other."""
    number = metafunc.config.getoption("--seeds")
    if number is not None and _takes_seed(metafunc):
        first = metafunc.config.getoption("--first-seed")
        seeds = [1000 * k for k in range(first, first + number)]
        metafunc.parametrize("seed", seeds, ids=[f"seed={one}" for one in seeds])


def pytest_collection_modifyitems(config, items):
    """Put the tests of a row of the table together, so that one worker fits it once."""
    places = {}

    def row_of(item):
        row = getattr(item, "callspec", None) and item.callspec.params.get("row")
        return row and row.name

    def place(item):
        # What has no row keeps its place in its file.
        return places.setdefault((item.path, row_of(item) or item.nodeid), len(places))

    if config.getoption("--few-cases"):
        from table import ONE_OF_EACH

        one_of_each = {row.name for row in ONE_OF_EACH}
        cases = {}
        for item in items:
            cases.setdefault(getattr(item, "function", item), []).append(item)
        kept = set()
        for some in cases.values():
            every = some[0].get_closest_marker("every_case")
            of_rows = [item for item in some if row_of(item) in one_of_each]
            kept.update(some if every else of_rows or [some[0], some[-1]])
        config.hook.pytest_deselected(items=[one for one in items if one not in kept])
        items[:] = [item for item in items if item in kept]
    if config.getoption("--seeds") is not None:
        kept = [one for one in items if "seed=" in one.name]
        config.hook.pytest_deselected(items=[one for one in items if one not in kept])
        items[:] = kept
    items.sort(key=place)


@pytest.fixture(autouse=True)
def no_hang():
    """Fail a test that does not end; other tests still get their turn."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(signum, frame):
        raise TimeoutError(f"The test did not end within {HANGS_AFTER} s.")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS_AFTER)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def two_threads(monkeypatch):
    """Let the engine use two threads, for small jobs as well."""
    monkeypatch.setattr("skvq.nearest.threads.MIN_WORK_PER_CALL", 0)
    with threadpool_limits(2, user_api="blas"):
        yield
