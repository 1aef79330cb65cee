"""Interrupts, threads and failures: all or nothing, and nothing left behind."""

import contextlib
import dis
import gc
import importlib
import inspect
import logging
import math
import multiprocessing
import pickle
import pkgutil
import random
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from table import DEFAULTS, TABLE, each
from threadpoolctl import ThreadpoolController, threadpool_limits

import skvq
from skvq import ProductQuantizer, VectorQuantizer, _validation, nearest
from skvq.learning.rows import Rows, run
from skvq.learning.start import few_distinct
from skvq.nearest import threads

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 6)).astype(np.float32)

every_default = pytest.mark.parametrize(
    "estimator", DEFAULTS, ids=lambda estimator: type(estimator).__name__
)
every_stream = each([row for row in TABLE if row.streams])


LIBRARIES = ThreadpoolController().select(user_api="blas").lib_controllers


def blas_counts():
    return [library.num_threads for library in LIBRARIES]


# NumPy 1's errstate is a generator: one that an interrupt has left open complains when
# it is collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*_no_nep50_warning:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_for_others_to_collect():
    yield
    gc.collect()


@pytest.fixture
def blas_at_one():
    """All work is done on the calling thread, the same in every run."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def blas_at_two():
    with threadpool_limits(2, user_api="blas"):
        yield blas_counts()


def interrupted(call, at, *, files=None, every_opcode=False):
    """Call, and raise KeyboardInterrupt at one of the places where a signal may do so.

    These are the begin of a function, and where a call or a jump backward is over; of
    functions in some files, or the begin alone of all functions.  Returns the error, or
    None if there are fewer places.
    """
    passed = 0

    def pass_by():
        nonlocal passed
        passed += 1
        if passed > at:
            raise KeyboardInterrupt

    def enter(frame, event, _):
        if files is None:
            pass_by()
            return None
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        code, last = frame.f_code.co_code, ""

        def step(frame, event, _):
            nonlocal last
            if event == "opcode":
                if every_opcode or last.startswith(("CALL", "JUMP_BACKWARD")):
                    pass_by()
                last = dis.opname[code[frame.f_lasti]]
            return step

        pass_by()
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    except BaseException as error:
        return error
    finally:
        sys.settrace(before)
    return None


@contextlib.contextmanager
def signals(handler):
    """Let the alarm raise; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are handled by the main thread")
    rest = signal.setitimer(signal.ITIMER_REAL, 0)  # of whoever looks for hangs
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *rest)


needs_alarm = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal"
)


ENGINE = threads.__file__, contextlib.__file__


class TestBlas:
    @pytest.mark.parametrize("n_jobs", [0, 1, 2])
    def test_an_interrupt_anywhere_in_the_engine(self, n_jobs, blas_at_two):
        table = X[:5]

        def call():
            if n_jobs:
                nearest.map_jobs(lambda job: nearest.nearest(X, table), n_jobs)
            else:
                nearest.nearest(X, table)

        def at(place):
            # From Python 3.12 on, opcodes are seen of code that was traced before; 3.13
            # forgets that after an interrupt.
            assert interrupted(call, math.inf, files=ENGINE) is None
            return interrupted(call, place, files=ENGINE)

        call()
        kept, errors = [], 0
        while (error := at(errors)) is not None:
            assert type(error) is KeyboardInterrupt
            kept.append(error)  # with the frames of its traceback
            errors += 1
            # All that is left is what one call more sets right.
            nearest.nearest(X, table)
            assert blas_counts() == blas_at_two
        assert errors > 10

    # Some strike in the test tools' own callbacks, which Python passes over.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @needs_alarm
    def test_interrupts_at_random_moments(self, blas_at_two):
        quantizer = VectorQuantizer(8, random_state=0).fit(X)
        flags = np.geterr()
        moments = random.Random(0)
        began = time.perf_counter()
        for _ in range(20):
            quantizer.transform(X)
        usual = (time.perf_counter() - began) / 20
        kept = []
        with signals(signal.default_int_handler):
            while len(kept) < 600:
                try:
                    moment = max(1e-6, moments.uniform(0, usual))
                    signal.setitimer(signal.ITIMER_REAL, moment)
                    quantizer.transform(X)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt as error:
                    kept.append(error)
        quantizer.transform(X)
        assert blas_counts() == blas_at_two
        if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
            assert np.geterr() == flags  # older ones do not keep them in a context

    def test_what_was_not_restored_is_restored_by_the_next_call(self, blas_at_two):
        guard = threads.single_threaded_blas
        # As an interrupt among the libraries leaves it.
        guard._counts = blas_at_two
        for library in guard._found().lib_controllers[:1]:
            library.set_num_threads(1)
        with guard() as n_threads:
            assert n_threads == max(blas_at_two)
            assert set(blas_counts()) == {1}
        assert blas_counts() == blas_at_two

    def test_a_block_that_is_given_up_ends(self, blas_at_two):
        def block():
            with nearest.single_threaded_blas():
                yield

        blocks = [block(), block()]
        for one in blocks:
            next(one)
        assert set(blas_counts()) == {1}
        del one
        blocks.pop()
        assert set(blas_counts()) == {1}
        blocks.pop()
        assert blas_counts() == blas_at_two


class TestPool:
    """No thread works on a caller's memory when the call is over."""

    @needs_alarm
    @pytest.mark.parametrize("n_interrupts", [1, 3])
    def test_interrupts(self, n_interrupts, two_threads):
        inside, left, began = [], n_interrupts, threading.Event()
        here = threading.current_thread()

        def make_worker():
            def worker(start, stop):
                if threading.current_thread() is here:
                    began.wait(5)
                    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.02)
                    time.sleep(1)
                else:
                    inside.append(start)
                    began.set()
                    time.sleep(0.2)
                    inside.pop()

            return worker

        def handler(*_):
            nonlocal left
            if left == 1:
                signal.setitimer(signal.ITIMER_REAL, 0)
            left -= 1
            raise KeyboardInterrupt

        with signals(handler), pytest.raises(KeyboardInterrupt):
            threads.map_tiles(make_worker, 2, 1, 1.0)
        assert left == 0
        assert not inside

    def test_who_comes_late_does_nothing(self, two_threads, monkeypatch):
        late = []
        monkeypatch.setattr(
            threads._pool, "start", lambda job, copies: late.extend([job] * copies)
        )
        seen = []

        def fail():
            seen.append(threading.current_thread())
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            threads.map_tiles(fail, 4, 1, 1.0)
        assert late
        for job in late:
            job()
        assert len(seen) == 1


def state_of(estimator):
    """Return the fitted attributes."""
    return {
        name: value
        for name, value in vars(estimator).items()
        if name.endswith("_") and not name.startswith("__")
    }


def is_state(estimator, state):
    """Whether the fitted attributes are these very objects."""
    now = state_of(estimator)
    return now.keys() == state.keys() and all(now[name] is state[name] for name in now)


def output_of(estimator):
    """Return what it makes of X; of a graph, all of it."""
    found = estimator.transform(X)
    return found.toarray() if scipy.sparse.issparse(found) else found


def inside_of(monkeypatch, estimator, name, seen):
    """Do something in the middle of a method, whichever object it is called on."""
    real = getattr(type(estimator), name)

    def method(self, *args, **kwargs):
        result = real(self, *args, **kwargs)
        seen()
        return result

    monkeypatch.setattr(type(estimator), name, method)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestFits:
    @every_default
    def test_a_fitted_estimator_stays_usable_while_it_is_fitted(
        self, estimator, monkeypatch
    ):
        estimator = clone(estimator).fit(X)
        before, codes = state_of(estimator), output_of(estimator)
        seen = []

        def look():
            assert is_state(estimator, before)
            np.testing.assert_array_equal(output_of(estimator), codes)
            estimator.note = "not of the fit"
            seen.append(None)

        inner = getattr(estimator, "quantizer_", estimator)
        inside_of(monkeypatch, inner, "_fit", look)
        estimator.fit(X[:80])
        assert seen
        assert not is_state(estimator, before)
        assert estimator.note == "not of the fit"
        # Nothing else than fitted attributes comes from a fit.
        assert set(vars(estimator)) - set(state_of(estimator)) == {
            "note",
            *estimator.get_params(deep=False),
        }

    @every_stream
    def test_so_does_one_that_learns_from_a_stream(self, row, monkeypatch):
        data = row.data()
        estimator = row.make().partial_fit(data)
        before, codes = state_of(estimator), estimator.transform(data)
        seen = []

        def look():
            assert is_state(estimator, before)
            np.testing.assert_array_equal(estimator.transform(data), codes)
            seen.append(None)

        inside_of(monkeypatch, estimator, "_partial_fit", look)
        estimator.partial_fit(data[:80])
        assert seen
        assert not is_state(estimator, before)

    @every_default
    def test_an_interrupt_is_one_and_changes_nothing(
        self, estimator, monkeypatch, blas_at_one
    ):
        estimator = clone(estimator)
        if "random_state" in estimator.get_params():
            # Another start has another number of calls.
            estimator.set_params(random_state=0)
        estimator, other = estimator.fit(X[:30]), clone(estimator)
        before, n_calls = state_of(estimator), 0
        # Python tells of an interrupt in a finalizer, and passes over it.
        passed_over = []
        monkeypatch.setattr(
            sys, "unraisablehook", lambda told: passed_over.append(told.exc_type)
        )

        def count(*_):
            nonlocal n_calls
            n_calls += 1

        tracer = sys.gettrace()
        sys.settrace(count)
        try:
            other.fit(X[:30])
        finally:
            sys.settrace(tracer)
        # At the end of the calls, the new state may be there already.
        for at in np.linspace(1, 0.7 * n_calls, 6, dtype=int):
            passed_over.clear()
            error = interrupted(lambda: estimator.fit(X[:30]), at)
            if error is None:
                assert passed_over == [KeyboardInterrupt]
                before = state_of(estimator)
                continue
            assert type(error) is KeyboardInterrupt
            assert is_state(estimator, before)

    def test_the_swap_is_at_once(self):
        old, new = (VectorQuantizer(2, random_state=0).fit(X[:n]) for n in (40, 50))
        del new.n_iter_
        new._extra_ = None
        before, after = state_of(old), state_of(new)
        at = 0
        while True:
            error = interrupted(
                lambda: _validation.take_over(old, new),
                at,
                files=[_validation.__file__],
                every_opcode=True,
            )
            if error is None:
                break
            assert type(error) is KeyboardInterrupt
            at += 1
            assert is_state(old, before) or is_state(old, after)
        assert is_state(old, after)
        assert at > 20

    def test_threads_see_one_fit_or_the_other(self):
        """Codes of 300 codewords do not fit the dtype of four."""
        tables = rng.normal(size=(4, 6)), np.vstack([X + 9, X, X - 9])
        models = [
            VectorQuantizer(len(table), learning="fixed", init=table)
            for table in tables
        ]
        expected = [model.fit(X).transform(X) for model in models]
        assert expected[0].dtype != expected[1].dtype
        shared = clone(models[0]).fit(X)
        over = threading.Event()
        wrong = []

        def read():
            while not over.is_set():
                try:
                    found = shared.transform(X)
                    assert any(
                        found.dtype == codes.dtype and np.array_equal(found, codes)
                        for codes in expected
                    )
                except Exception as error:
                    wrong.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for turn in range(60):
            model = models[turn % 2]
            shared.set_params(n_codewords=model.n_codewords, init=model.init).fit(X)
        over.set()
        reader.join()
        assert not wrong

    @pytest.mark.parametrize("error", [RuntimeError, SystemError])
    def test_a_log_that_fails_is_not_the_failure_of_the_fit(self, error, capsys):
        class Failing(logging.Handler):
            def emit(self, record):
                raise error("the disk is full")

        logger, handler = logging.getLogger("skvq"), Failing()
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            quantizer = ProductQuantizer(2, 4, random_state=0).fit(X)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        assert quantizer.transform(X).shape == (len(X), 2)
        assert "the disk is full" in capsys.readouterr().err

    def test_parameters_are_the_users_own(self):
        state = np.random.RandomState(0)
        template = VectorQuantizer(4)
        estimator = ProductQuantizer(2, quantizer=template, random_state=state).fit(X)
        assert estimator.random_state is state
        assert estimator.quantizer is template
        assert not state_of(template)
        first = estimator.codebooks_[0]
        # Its numbers have been drawn: the next ones are others.
        assert not np.array_equal(first, estimator.fit(X).codebooks_[0])

    def test_an_interrupt_in_the_search_for_equal_rows_is_one(self):
        rows = np.vstack([X[:20]] * 3)
        at = 0

        def search():
            run(few_distinct(Rows(rows), 30))

        while (error := interrupted(search, at)) is not None:
            assert type(error) is KeyboardInterrupt
            at += 1
        assert at > 3


def test_equal_rows_are_found_as_by_numpy():
    for dtype in ("f2", "f4", "f8", "i1", "i8", "u1", "u4", "?"):
        rows = rng.integers(-3, 4, size=(300, 3)).astype(dtype)
        if rows.dtype.kind == "f":
            rows *= rng.choice([-1.5, 1.5], size=rows.shape).astype(dtype)
        _, first, group = np.unique(
            rows, axis=0, return_index=True, return_inverse=True
        )
        found = skvq.nearest.distinct.unique_rows(rows)
        np.testing.assert_array_equal(found[0], first)
        np.testing.assert_array_equal(found[1], group.ravel())


def _public_modules():
    found = pkgutil.walk_packages(skvq.__path__, "skvq.")
    # All but the modules of torch's, of which tests/arrays has its own.
    return ["skvq"] + [
        m.name for m in found if "._" not in m.name and "torch_modules" not in m.name
    ]


class TestPickles:
    @pytest.mark.parametrize("name", _public_modules())
    def test_public_functions_are_pickled_by_name(self, name):
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", vars(module)):
            found = getattr(module, public)
            if public[0] == "_":
                continue
            if inspect.isfunction(found) or inspect.isclass(found):
                assert pickle.loads(pickle.dumps(found)) is found, public
            elif callable(found) and hasattr(module, "__all__"):
                pickle.loads(pickle.dumps(found))

    @pytest.mark.long
    def test_a_process_calls_one(self):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found = pool.submit(nearest.nearest, X, X[:7], "manhattan").result()
        expected = nearest.nearest(X, X[:7], "manhattan")
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
