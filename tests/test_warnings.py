"""One ConvergenceWarning for a fit, at the user's line, which names what it is of."""

import contextvars
import inspect
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table import TABLE, each, mixture

from skvq import (
    AdditiveQuantizer,
    BinaryQuantizer,
    FiniteScalarQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    ResidualQuantizer,
    SphericalQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq._validation import collected


def warned(function):
    """Return the ConvergenceWarnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        function()
    return [one for one in caught if one.category is ConvergenceWarning]


def the_one(function):
    """Return the message of the only warning, which points at the call."""
    (caught,) = warned(function)
    assert caught.filename == __file__
    lines, begin = inspect.getsourcelines(function)
    assert begin <= caught.lineno < begin + len(lines)
    return str(caught.message)


FEW = mixture(3)[[2, 0, 1, 0, 2, 2]]
# Constant, of two values, and of many; never zero.
UNEVEN = mixture(60)
UNEVEN[:, 0] = 3.5
UNEVEN[:, 4] = np.where(UNEVEN[:, 4] > 0, 1, 2)


def many_codewords(row):
    """Parameters that give every table of the row seven codewords or more."""
    found = {}
    for name, value in row.make().get_params().items():
        if name.split("__")[-1] == "n_codewords" and value is not None:
            found[name] = 7 if isinstance(value, int) else [7] * len(value)
        if name.split("__")[-1] == "init" and not isinstance(value, str):
            if isinstance(value, np.ndarray):
                found[name] = np.resize(value, (7, value.shape[1]))
        if name.split("__")[-1] == "balance" and isinstance(value, list):
            found[name] = np.resize(value, 7)
    return found


@each([row for row in TABLE if row.zeros])
def test_one_warning_of_few_samples(row):
    if row.n_features == FEW.shape[1]:
        X = FEW
    else:
        X = row.data(3)[[2, 0, 1, 0, 2, 2]]
    estimator = row.make().set_params(**many_codewords(row))
    learned = [
        name
        for name, value in estimator.get_params().items()
        if name.split("__")[-1] == "learning" and value == "fixed"
    ]
    caught = warned(lambda: estimator.fit(X))
    assert len(caught) <= 1
    if row.few or ("array" in row.name and not learned):
        assert "distinct samples are fewer than" in str(caught[0].message)
    for one in caught:
        assert one.filename == __file__


@pytest.mark.long
@each([row for row in TABLE if row.zeros and row.n_features == UNEVEN.shape[1]])
def test_one_warning_of_uneven_features(row):
    for one in (caught := warned(lambda: row.make().fit(UNEVEN))):
        assert one.filename == __file__
    assert len(caught) <= 1


PROMISED = {
    "init array": (
        VectorQuantizer(4, init=np.arange(4.0)[:, None]),
        [[0.0], [1.0], [1.0], [0.0]],
        "2 distinct samples are fewer than n_codewords=4",
    ),
    "init array, online": (
        VectorQuantizer(4, learning="ema", init=np.arange(4.0)[:, None]),
        [[0.0], [1.0], [1.0], [0.0]],
        "2 distinct samples are fewer than n_codewords=4",
    ),
    "init array, directions": (
        VectorQuantizer(3, metric="cosine", init=[[1.0, 0], [0, 1], [1, 1]]),
        [[1.0, 2], [2, 4], [3, 6], [1, 0]],
        "2 distinct samples are fewer than n_codewords=3",
    ),
    "kronecker init": (
        KroneckerQuantizer((2, 2), 3, init=[np.eye(3)[:, :2] + 1, np.ones((3, 2))]),
        np.arange(8.0).reshape(2, 4),
        "2 distinct samples are fewer than n_codewords=3",
    ),
    "shared slices": (
        ProductQuantizer(2, 4, share_codebook=True),
        [[0.0, 1], [1, 0], [0, 2], [2, 1]],
        "In the one table: 3 distinct samples are fewer than n_codewords=4",
    ),
    "shared stages": (
        ResidualQuantizer(2, 8, share_codebook=True),
        [[0.0, 1], [1, 0], [0, 2], [2, 1]],
        "4 distinct samples are fewer than n_codewords=8",
    ),
    "one scale": (
        MultiScaleQuantizer((2, 1), [2], n_codewords=8),
        [[0.0, 1], [1, 0], [0, 2], [2, 1]],
        "3 distinct samples are fewer than n_codewords=8",
    ),
    "scales": (
        MultiScaleQuantizer((2, 1), n_codewords=8),
        [[0.0, 1], [1, 0], [0, 2], [2, 1]],
        "3 distinct tokens are fewer than n_codewords=8",
    ),
    "additive, independent": (
        AdditiveQuantizer(2, 8, assignment="independent"),
        [[0.0, 1], [1, 0], [0, 2], [2, 1]],
        "4 distinct samples are fewer than n_codewords=8",
    ),
    "quantiles": (
        UniformQuantizer(4, clip_range="quantile", quantile_range=(25, 75)),
        [[0.0, 0], [0, 1], [0, 2], [0, 3], [9, 4]],
        "In 1 of 2 features (0): the range that is cut is one point",
    ),
    "constant feature": (
        UniformQuantizer(4),
        [[1.0, 5, 0], [2, 5, 0], [3, 5, 0]],
        "In 2 of 3 features (1, 2): the range that is cut is one point",
    ),
    "constant feature, density": (
        UniformQuantizer(4, levels="lloyd-max", feature_distribution="laplacian"),
        [[1.0, 5, 0], [2, 5, 0], [3, 5, 0]],
        "In 2 of 3 features (1, 2): the range that is cut is one point",
    ),
    "learned levels": (
        UniformQuantizer([3, 2, 4], levels="lloyd-max"),
        [[1.0, 5, 0], [2, 4, 0], [3, 5, 1]],
        "In 1 of 3 features (2): 2 distinct samples are fewer than n_levels=4",
    ),
    "merged levels": (
        FiniteScalarQuantizer(4, squash="cdf"),
        [[0.0, k] for k in range(9)] + [[1.0, 9.0]],
        "In 1 of 2 features (0): 2 levels have samples, fewer than n_levels=4",
    ),
    "constant feature, spread": (
        FiniteScalarQuantizer(4, squash="none"),
        [[1.0, 5, 0], [2, 5, 0], [3, 5, 0]],
        "In 2 of 3 features (1, 2): the range that is cut is one point",
    ),
    "zero feature": (
        BinaryQuantizer(),
        [[1.0, 0], [2, 0]],
        "In 1 of 2 features (1): all samples are zero",
    ),
    "lengths": (
        SphericalQuantizer(4, radius="learned", n_radius_levels=3),
        [[3.0, 4], [4, 3], [6, 8]],
        "2 distinct lengths of samples are fewer than n_radius_levels=3",
    ),
    "equal lengths": (
        BinaryQuantizer(spherical=True, radius="uniform"),
        [[3.0, 4], [4, 3], [-5, 0]],
        "all lengths of samples are equal",
    ),
    "narrow": (
        ProductQuantizer(3, quantizer=BinaryQuantizer()),
        [[3.0, 4], [4, 3], [-5, 0]],
        "n_subspaces=3 is more than n_features=2",
    ),
}


@pytest.mark.parametrize("name", PROMISED)
def test_promised(name):
    estimator, X, expected = PROMISED[name]
    assert expected in the_one(lambda: estimator.fit(np.asarray(X)))


@pytest.mark.parametrize(
    ("estimator", "X"),
    [
        (VectorQuantizer(4, learning="fixed", init=np.arange(8.0).reshape(4, 2)), FEW),
        (VectorQuantizer(4, learning="fixed", init="normal"), FEW),
        (UniformQuantizer(8), FEW),
        (UniformQuantizer(1), np.ones((3, 2))),
        (UniformQuantizer(4, clip_range=(0, 1)), np.ones((3, 2))),
        (FiniteScalarQuantizer(4), np.ones((3, 2))),
        (BinaryQuantizer(scale=1), np.zeros((3, 2))),
        (SphericalQuantizer(radius="float32"), np.ones((3, 2))),
    ],
    ids=repr,
)
def test_nothing_to_warn_of(estimator, X):
    """What is given or fixed needs no samples."""
    X = X[:, :2] if not isinstance(estimator, UniformQuantizer) else X
    assert not warned(lambda: estimator.fit(X))


# -- of the parts ----------------------------------------------------------------------


def thin(*columns):
    """80 rows, of which some columns have three values."""
    X = mixture(80)
    X[:, columns] = np.rint(X[:, columns]).clip(-1, 1)
    return X


@pytest.mark.parametrize(
    ("n_jobs", "backend"), [(None, "loky"), (2, "threading"), (2, "loky")]
)
def test_subspaces_are_named(n_jobs, backend):
    product = ProductQuantizer(6, [4, 4, 4, 4, 5, 4], n_jobs=n_jobs, random_state=0)
    with parallel_config(backend):
        message = the_one(lambda: product.fit(thin(1, 3, 4)))
    assert message == (
        "In 2 of 6 subspaces (1, 3): 3 distinct samples are fewer than n_codewords=4: "
        "the codebook repeats them. In 1 of 6 subspaces (4): 3 distinct samples are "
        "fewer than n_codewords=5: the codebook repeats them."
    )


def test_many_subspaces_are_not_all_named():
    X = np.random.default_rng(0).integers(0, 2, (20, 30)).astype(float)
    X[:, 0] = np.arange(20)
    message = the_one(lambda: ProductQuantizer(30, 4, random_state=0).fit(X))
    assert "In 29 of 30 subspaces (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...): 2 " in message


def test_stages_are_named():
    X = np.array([[0.0], [1.0], [10.0], [11.0]]).repeat(5, axis=0)
    residual = ResidualQuantizer(4, [2, 2, 2, 2], random_state=0)
    message = the_one(lambda: residual.fit(X))
    assert message.startswith("In 2 of 4 stages (2, 3): 1 distinct samples are fewer ")
    residual.set_params(n_refine=1)
    assert the_one(lambda: residual.fit(X)).startswith("In 2 of 4 stages (2, 3): 1 ")


def test_parts_of_parts_are_named():
    product = ProductQuantizer(
        3, quantizer=ProductQuantizer(2, quantizer=UniformQuantizer(4)), n_jobs=2
    )
    X = mixture(20)
    X[:, [1, 4]] = 2
    with parallel_config("threading"):
        message = the_one(lambda: product.fit(X))
    assert message.startswith(
        "In 2 of 3 subspaces (0, 2), all 2 subspaces, the one feature: the range that "
    )


def test_streams_name_their_parts():
    product = ProductQuantizer(
        9, 2, quantizer=VectorQuantizer(learning="ema"), random_state=0
    )
    assert "is more than n_features=6" in the_one(lambda: product.partial_fit(FEW))
    assert "is more than n_features=6" in the_one(lambda: product.partial_fit(FEW))


# -- where it points, and to whom ------------------------------------------------------


def test_it_points_at_the_users_line_however_deep():
    vq = VectorQuantizer(8, random_state=0)
    nested = ResidualQuantizer(2, quantizer=ProductQuantizer(2, quantizer=vq))
    for fit in (
        lambda: vq.fit(FEW),
        lambda: vq.fit_transform(FEW),
        lambda: nested.fit(FEW),
        lambda: nested.set_output(transform="default").fit_transform(FEW),
        lambda: QuantizedFeatures(nested).fit(FEW),
        lambda: make_pipeline(StandardScaler(), nested).fit(FEW),
    ):
        the_one(fit)


def test_threads_warn_each_for_itself():
    """Fits at the same time, of which every second one has something to warn of."""
    before = warnings.showwarning, list(warnings.filters)
    start = threading.Barrier(8)
    given = []

    def fit(i):
        start.wait()
        X = thin(2, 5) if i % 2 else mixture(80)
        ProductQuantizer(6, 4, random_state=0).fit(X)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.showwarning = lambda message, *_: given.append(str(message))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fit, range(8)))
    assert len(given) == 4
    assert all(text.startswith("In 2 of 6 subspaces (2, 5): 3 ") for text in given)
    assert (warnings.showwarning, list(warnings.filters)) == before


def test_as_an_error_it_leaves_the_estimator_as_it_was():
    vq = VectorQuantizer(4, random_state=0).fit(mixture(50))
    table = vq.codebooks_[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning, match="3 distinct samples"):
            vq.fit(FEW)
    assert vq.codebooks_[0] is table


def test_a_failed_fit_does_not_warn():
    product = ProductQuantizer(9, [2] * 5)
    with pytest.raises(ValueError, match="n_codewords has 5 entries"):
        product.fit(mixture(50))
    # What it had collected is gone.
    assert not warned(lambda: ProductQuantizer(2, 2, random_state=0).fit(mixture(50)))


def test_filters_by_module_see_the_users():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.filterwarnings("ignore", module=__name__.rpartition(".")[2])
        warnings.filterwarnings("ignore", module=sys.modules[__name__].__name__)
        ProductQuantizer(2, 8, random_state=0).fit(FEW)


def test_a_block_that_is_left_behind_ends_in_any_context():
    # As one does that a signal has kept from being entered.
    left = collected()
    contextvars.copy_context().run(left.__enter__)
    assert left.__exit__(None, None, None) is False
