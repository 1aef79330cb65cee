"""scikit-learn's callbacks: what they are told of fits, and that they can stop them."""

import contextlib
import io
import pickle
import threading
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table import BY_NAME, LEARNERS, LEARNING, each, mixture, tables_of

import skvq
from skvq import (
    AdditiveQuantizer,
    KroneckerQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    QuantizedNeighbors,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    TrellisQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)

callback = pytest.importorskip("sklearn.callback")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = mixture(120)

# Each learner, and what has iterations or tasks beside those of its scheme.
each_learner = each(
    [
        *LEARNERS,
        *(
            BY_NAME[name]
            for name in (
                "vq-splitting",
                "vq-n-init",
                "vq-minibatch",
                "vq-ema",
                "vq-balance",
                "pq-balance",
                "rq-balance",
                "rq-defaults",
                "aq-independent",
                "aq-shared",
            )
        ),
    ]
)


class Recorder:
    """Records the tasks of the estimator that it is set on, and tries what it gets."""

    def __init__(self, stops=lambda context: False):
        self.stops, self.events, self.given = stops, [], 0

    def setup(self, estimator, context):
        self.events.append(("setup", context))

    def on_fit_task_begin(self, estimator, context, *, X=None, metadata=None):
        self.events.append(("begin", context))
        assert context.estimator_name == type(estimator).__name__

    def on_fit_task_end(
        self, estimator, context, *, X=None, fitted_estimator=None, metadata=None
    ):
        self.events.append(("end", context))
        if fitted_estimator is not None:
            self.given += 1
            codes = fitted_estimator.transform(X)
            assert codes.shape[0] == len(X)
            assert not hasattr(fitted_estimator, "_callback_fit_ctx")
        return self.stops(context)

    def teardown(self, estimator, context):
        self.events.append(("teardown", context))

    def named(self, name, event="end"):
        return [one for kind, one in self.events if kind == event and named(one, name)]


class Propagated(Recorder):
    """The same of all estimators within that which it is set on."""

    max_propagation_depth = None


def named(context, name):
    return context.task_name == name


def tree(context):
    """Return (estimator, task, most) and the same of the tasks below."""
    below = [tree(one) for one in context._children_map.values()]
    own = context.estimator_name, context.task_name, context.max_subtasks
    return (*own, below) if below else own


def fitted_under(recorder, estimator, X=X, **given):
    estimator.set_callbacks(recorder).fit(X, **given)
    (root,) = [one for kind, one in recorder.events if kind == "setup"]
    return estimator, root


def it(name, n=1):
    return [(name, "iteration", 0)] * n


# -- what is told ----------------------------------------------------------------------


@each_learner
def test_callbacks_are_told_of_all_tasks_and_change_nothing(row):
    X = mixture(70, row.n_features)
    plain, recorder = row.make().fit(X), Propagated()
    told, root = fitted_under(recorder, row.make(), X)
    kinds = [kind for kind, _ in recorder.events]
    assert (kinds[0], kinds[-1]) == ("setup", "teardown")
    for event in "begin", "end":
        seen = [id(one) for kind, one in recorder.events if kind == event]
        # Each task of the tree once, and no other.
        assert sorted(seen) == sorted(map(id, root))
    assert recorder.given > 0
    for one, other in zip(tables_of(plain), tables_of(told), strict=True):
        assert_array_equal(one, other)
    assert_array_equal(plain.transform(X), told.transform(X))
    assert vars(told).keys() - vars(plain).keys() == {"_skl_callbacks"}


def vq(**parameters):
    return VectorQuantizer(
        4, **{"max_iter": 2, "tol": 0, "random_state": 0, **parameters}
    )


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (vq(learning="fixed"), [("start", 0)]),
        (vq(), [("start", 2, 2)]),
        (vq(n_init=3), [("start", 2, 2)] * 3),
        (vq(learning="minibatch"), [("start", 2, 2)]),
        (vq(balance=True), [("start", 11, 11)]),
        (
            KroneckerQuantizer(
                factor_sizes=(2, 3), n_codewords=4, max_iter=2, tol=0, random_state=0
            ),
            [("start", 2, 2)],
        ),
    ],
    ids=repr,
)
def test_a_fit_has_starts_and_these_have_iterations(estimator, expected):
    name = type(estimator).__name__
    _, root = fitted_under(Recorder(), estimator)
    wanted = [
        (name, task, most, it(name, *n)) if n else (name, task, most)
        for task, most, *n in expected
    ]
    assert tree(root) == (name, "fit", len(wanted), wanted)


def test_parts_are_tasks_below_the_whole():
    pq = ProductQuantizer(2, quantizer=vq())
    _, root = fitted_under(Propagated(), pq)
    part = "VectorQuantizer"
    one = (part, "fit", 1, [(part, "start", 2, it(part, 2))])
    assert tree(root) == ("ProductQuantizer", "fit", 2, [one] * 2)
    assert not root.sequential_subtasks
    assert [one.task_id for one in root._children_map.values()] == [0, 1]
    # To one that is not handed on, parts are tasks of the whole.
    recorder = Recorder()
    fitted_under(recorder, pq)
    assert [one.task_name for kind, one in recorder.events if kind == "end"] == [
        "part",
        "part",
        "fit",
    ]


def test_stages_and_what_is_done_for_all_of_them():
    rq = ResidualQuantizer(2, quantizer=vq(), n_refine=2, random_state=0)
    recorder = Recorder()
    _, root = fitted_under(recorder, rq, mixture(320))
    names = [context.task_name for context in root._children_map.values()]
    assert names[0] == "trial"
    assert names.count("fit") == 2  # those of the stages
    assert names[3] == "trial of refinement"
    assert "stage" in {context.task_name for _, context in recorder.events}


def test_stages_so_far_are_a_fitted_quantizer():
    class Keeps(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "stage":
                self.events.append(fitted_estimator)

    keeps = Keeps()
    ResidualQuantizer(3, quantizer=vq(), random_state=0).set_callbacks(keeps).fit(X)
    kept = [one for one in keeps.events if isinstance(one, ResidualQuantizer)]
    assert [one.codebook_sizes_ for one in kept] == [(4,), (4, 4), (4, 4, 4)]
    for one in kept:
        # Of stages that are fitted anew, they are copies.
        assert one.distortion_ == pytest.approx(-one.score(X), rel=1e-5)


def test_of_a_schedule_without_starts_iterations_are_tasks_of_the_fit():
    for estimator in (
        TrellisQuantizer(1, max_iter=2),
        UniformQuantizer(target_bits=9.0),
        skvq.MultiScaleQuantizer((3, 2), n_codewords=4, max_iter=2, random_state=0),
    ):
        _, root = fitted_under(Recorder(), estimator)
        names = {context.task_name for context in root._children_map.values()}
        assert names == {"iteration"}


def test_callbacks_of_a_part_know_the_whole_tree():
    recorder = Recorder()
    pq = ProductQuantizer(2, quantizer=vq().set_callbacks(recorder)).fit(X)
    ends = recorder.named("fit")
    assert [one.parent.estimator_name for one in ends] == ["ProductQuantizer"] * 2
    assert clone(pq).quantizer._skl_callbacks == [recorder]


def test_hooks_get_the_samples_as_they_are_given():
    class Asks(Recorder):
        def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None):
            self.events.append((X, y, metadata))

    w, asks = np.linspace(1, 2, len(X)), Asks()
    vq().set_callbacks(asks).fit(X, None, w)
    told = [one for one in asks.events if len(one) == 3]
    assert len(told) == 4
    for got, y, metadata in told:
        assert got is X
        assert y is None
        assert metadata["sample_weight"] is w


def test_fitted_estimators_take_the_dataframe_that_was_given():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcdef"))
    for estimator in vq(), QuantizedFeatures(vq()), QuantizedNeighbors(vq()):
        recorder = Recorder()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted_under(recorder, estimator, frame)
        assert recorder.given > 0


def test_fits_in_several_threads_leave_each_other_alone():
    quantizer = vq().fit(X)
    expected = quantizer.transform(X)
    errors = []

    def fit():
        try:
            for _ in range(5):
                assert_array_equal(quantizer.fit(X).transform(X), expected)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not [name for name in vars(quantizer) if "callback" in name]


def test_hooks_of_parts_get_their_columns_and_weights():
    class Asks(Propagated):
        def on_fit_task_end(self, estimator, context, *, X=None, metadata=None):
            if isinstance(estimator, VectorQuantizer):
                self.events.append((X, metadata["sample_weight"]))

    w, asks = np.linspace(1, 2, len(X)), Asks()
    ProductQuantizer(2, quantizer=vq()).set_callbacks(asks).fit(X, None, w)
    parts = [one for one in asks.events if isinstance(one[0], np.ndarray)]
    assert len(parts) == 8
    for got, weights in parts:
        # Of parts in threads the order is open.
        assert any(np.array_equal(got, own) for own in (X[:, :3], X[:, 3:]))
        assert_array_equal(weights, w)


def test_a_fitted_estimator_is_what_fewer_iterations_give():
    class Keeps(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "iteration":
                self.events.append(fitted_estimator)

    for learning in "lloyd", "ema":
        keeps = Keeps()
        vq(max_iter=4, learning=learning).set_callbacks(keeps).fit(X)
        kept = [one for one in keeps.events if isinstance(one, VectorQuantizer)]
        assert len(kept) == 4
        for n, one in enumerate(kept, start=1):
            alone = vq(max_iter=n, learning=learning).fit(X)
            assert one.n_iter_ == n
            assert_array_equal(one.codebooks_[0], alone.codebooks_[0])
            assert_array_equal(one.code_counts_[0], alone.code_counts_[0])
            assert one.distortion_ == alone.distortion_


def test_a_second_fit_hands_out_nothing_of_the_first():
    quantizer = vq(rate_weight=0.5).fit(X)
    seen = []

    class Keeps(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            seen.append(fitted_estimator)

    quantizer.set_params(rate_weight=0.0).set_callbacks(Keeps()).fit(X)
    assert len(seen) == 4
    assert not any("objective_" in vars(one) for one in seen)


# -- stopping --------------------------------------------------------------------------


def stopping_after(n, name="iteration"):
    return lambda context: context.task_name == name and context.task_id == n - 1


@each_learner
def test_a_fit_that_is_stopped_at_once_is_fitted(row):
    X = mixture(70, row.n_features)
    recorder = Propagated(stops=lambda context: True)
    stopped, root = fitted_under(recorder, row.make(), X)
    for context in root:
        iterations = [
            one
            for one in context._children_map.values()
            if one.task_name in ("iteration", "start")
        ]
        # Prices are learned in iterations of their own, of which there is one at least.
        assert len(iterations) <= (2 if "balance" in row.name else 1)
    assert len(stopped.transform(X)) == len(X)


@pytest.mark.parametrize("learning", LEARNING)
def test_stopping_is_as_fewer_iterations(learning):
    recorder = Recorder(stopping_after(2))
    stopped = vq(max_iter=9, learning=learning).set_callbacks(recorder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stopped.fit(X)
    assert stopped.n_iter_ == 2
    alone = vq(max_iter=2, learning=learning).fit(X)
    assert_array_equal(stopped.codebooks_[0], alone.codebooks_[0])


def test_a_start_can_be_the_last():
    recorder = Recorder(stopping_after(2, "start"))
    fitted_under(recorder, vq(n_init=5))
    assert len(recorder.named("start")) == 2


def test_a_part_cannot_be_left_out():
    recorder = Propagated(stops=lambda context: context.task_name == "fit")
    pq, _ = fitted_under(recorder, ProductQuantizer(3, quantizer=vq()))
    assert len(pq.quantizers_) == 3


# -- in pipelines and searches ---------------------------------------------------------


def test_a_progress_bar_over_a_grid_over_a_pipeline_over_a_product():
    pytest.importorskip("rich")
    before = set(threading.enumerate())
    pipeline = make_pipeline(StandardScaler(), ProductQuantizer(2, quantizer=vq()))
    grid = GridSearchCV(
        pipeline, {"productquantizer__quantizer__n_codewords": [2, 4]}, cv=2
    )

    class Ends(Propagated):
        def on_fit_task_end(self, estimator, context):
            self.events.append(("end", context))

    told = Ends()
    grid.set_callbacks(callback.ProgressBar(max_propagation_depth=None), told)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        grid.fit(X)
    lines = shown.getvalue().splitlines()
    for text in (
        "GridSearchCV - fit",
        "Pipeline - fit",
        "ProductQuantizer - fit",
        "VectorQuantizer - fit",
        "VectorQuantizer - start",
    ):
        assert any(text in line for line in lines), text
    # Two parts of 4 fits, and of the last one; all of them done.
    starts = [line for line in lines if "VectorQuantizer - start" in line]
    assert len(starts) == 10
    assert all("100%" in line for line in starts)
    # A bar that is done looks alike whether it moved or jumped: it moved twice.
    iterations = told.named("iteration")
    assert len(iterations) == 20
    path = "GridSearchCV Pipeline ProductQuantizer VectorQuantizer".split()
    for one in iterations:
        above = [one.estimator_name]
        while (one := one.parent) is not None:
            above.insert(0, one.estimator_name)
        assert list(dict.fromkeys(above)) == path
    # Threads that accept connections from workers end on their own.
    left = [one for one in set(threading.enumerate()) - before if not one.daemon]
    assert not left


@pytest.mark.parametrize("make", [QuantizedFeatures, QuantizedNeighbors])
def test_transformers_that_hold_a_quantizer_hand_callbacks_on(make):
    recorder = Propagated()
    _, root = fitted_under(recorder, make(vq()))
    part = "VectorQuantizer"
    one = (part, "fit", 1, [(part, "start", 2, it(part, 2))])
    assert tree(root) == (make.__name__, "fit", 1, [one])
    # What is frozen has nothing to tell.
    recorder = Propagated()
    _, root = fitted_under(recorder, make(FrozenEstimator(vq().fit(X))))
    assert tree(root) == (make.__name__, "fit", 1)
    assert len(recorder.named("fit")) == 1


@pytest.mark.long
def test_parts_in_other_processes_tell_of_themselves():
    pytest.importorskip("rich")
    pq = ProductQuantizer(2, quantizer=vq(), n_jobs=2)
    pq.set_callbacks(callback.ProgressBar(max_propagation_depth=None))
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        pq.fit(X)
    starts = [one for one in shown.getvalue().splitlines() if "- start" in one]
    assert len(starts) == 2
    assert all("100%" in line for line in starts)
    alone = ProductQuantizer(2, quantizer=vq()).fit(X)
    assert_array_equal(pq.transform(X), alone.transform(X))
    for part in pq.quantizers_:
        assert not [name for name in vars(part) if "callback" in name]


def test_of_dask_collections_hooks_get_the_collection():
    da = pytest.importorskip("dask.array")
    recorder, lazy = Recorder(), da.from_array(X, chunks=(50, -1))
    pq, root = fitted_under(Propagated(), ProductQuantizer(2, quantizer=vq()), lazy)
    assert_array_equal(
        pq.transform(X), ProductQuantizer(2, quantizer=vq()).fit(X).transform(X)
    )
    _, root = fitted_under(recorder, vq(), lazy)
    assert tree(root) == tree(fitted_under(Recorder(), vq())[1])
    assert recorder.given == 4


# -- what stays ------------------------------------------------------------------------


def test_parts_keep_nothing_and_pickles_are_as_of_scikit_learn(tmp_path):
    recorder = Propagated()
    pq, _ = fitted_under(recorder, ProductQuantizer(2, quantizer=vq()))
    for part in pq.quantizers_:
        assert not [name for name in vars(part) if "callback" in name]
    # As scikit-learn's do, pickles hold what has been set: workers need it.
    recorder.events.clear()
    recorder.stops = None
    assert pickle.loads(pickle.dumps(pq))._skl_callbacks[0].given == recorder.given
    pq.set_callbacks()
    assert not [name for name in vars(pq) if "callback" in name]
    # Files of codecs hold no such thing.
    skvq.save(pq.set_callbacks(Propagated()), tmp_path / "with.skvq")
    skvq.save(pq.set_callbacks(), tmp_path / "without.skvq")
    both = [(tmp_path / f"{name}.skvq").read_bytes() for name in ("with", "without")]
    assert both[0] == both[1]


def test_a_fit_that_fails_tears_callbacks_down():
    class Fails(Propagated):
        def on_fit_task_end(self, estimator, context):
            if context.task_name == "iteration":
                raise RuntimeError("enough")

    fails = Fails()
    pq = ProductQuantizer(2, quantizer=vq(), n_codewords=None)
    before = pq.fit(X).codebooks_
    with pytest.raises(RuntimeError, match="enough"):
        pq.set_callbacks(fails).fit(X)
    assert fails.events[-1][0] == "teardown"
    assert {name for name in vars(pq) if "callback" in name} == {"_skl_callbacks"}
    for one, other in zip(before, pq.codebooks_, strict=True):
        assert one is other


@pytest.mark.parametrize(
    "estimator",
    [
        AdditiveQuantizer(2, 4, max_iter=1, random_state=0),
        AdditiveQuantizer(2, 4, assignment="independent", max_iter=1, random_state=0),
        RotatedQuantizer(
            ProductQuantizer(2, quantizer=vq()), rotation="learned", max_iter=2
        ),
        ScaledQuantizer(ProductQuantizer(2, quantizer=vq())),
    ],
    ids=lambda one: type(one).__name__,
)
def test_no_task_is_left_open(estimator):
    recorder = Recorder()
    fitted_under(recorder, estimator, mixture(320))
    kinds = [kind for kind, _ in recorder.events]
    assert kinds.count("begin") == kinds.count("end") > 1
