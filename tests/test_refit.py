"""Refits that keep their names: warm starts, matched names, renamed codes."""

import pickle
from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

import skvq
from skvq import (
    AdditiveQuantizer,
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    ResidualQuantizer,
    RotatedQuantizer,
    ScaledQuantizer,
    UniformQuantizer,
    VectorQuantizer,
    codes,
    metrics,
)
from tests.table import mixture

RENAME = "rename_codes"
SHORT = VectorQuantizer(5, max_iter=3)

WARM = {
    "vq": VectorQuantizer(5, random_state=0),
    "vq-n-init": VectorQuantizer(5, n_init=3, random_state=0),
    "vq-cosine": VectorQuantizer(5, metric="cosine", random_state=0),
    "vq-cityblock": VectorQuantizer(5, metric="manhattan", random_state=0),
    "vq-rate": VectorQuantizer(5, rate_weight=1.0, random_state=0),
    "vq-balance": VectorQuantizer(5, balance=True, random_state=0),
    "rq-balance": ResidualQuantizer(2, 4, balance=True, random_state=0),
    "vq-minibatch": VectorQuantizer(5, learning="minibatch", random_state=0),
    "vq-ema": VectorQuantizer(5, learning="ema", random_state=0),
    "vq-sgd": VectorQuantizer(5, learning="sgd", random_state=0),
    "vq-fixed": VectorQuantizer(5, learning="fixed", random_state=0),
    "pq": ProductQuantizer(3, 4, random_state=0),
    "pq-shared": ProductQuantizer(3, 4, share_codebook=True, random_state=0),
    "pq-list": ProductQuantizer(
        quantizer=[VectorQuantizer(4, random_state=0), UniformQuantizer(3)]
    ),
    "rq": ResidualQuantizer(3, 5, random_state=0),
    "rq-greedy": ResidualQuantizer(3, 5, fit_beam_size=1, random_state=0),
    "rq-rate": ResidualQuantizer(2, rate_weight=1.0, quantizer=SHORT, random_state=0),
    "rq-shared": ResidualQuantizer(3, 5, share_codebook=True, random_state=0),
    "rq-refined": ResidualQuantizer(2, 5, n_refine=2, random_state=0),
    "rq-products": ResidualQuantizer(
        2, quantizer=ProductQuantizer(2, 3), random_state=0
    ),
    "kq": KroneckerQuantizer((2, 3), 4, random_state=0),
    "rotated": RotatedQuantizer(ProductQuantizer(3, 4), random_state=0),
    "rotated-learned": RotatedQuantizer(
        ProductQuantizer(3, 4), rotation="learned", random_state=0
    ),
    "scaled": ScaledQuantizer(VectorQuantizer(5), random_state=0),
}
every_warm = pytest.mark.parametrize("name", WARM)

NAMED = {
    **WARM,
    "aq": AdditiveQuantizer(2, 4, ridge=0.25, max_iter=2, random_state=0),
    "aq-independent": AdditiveQuantizer(2, 4, assignment="independent", random_state=0),
    "msq": MultiScaleQuantizer((3, 2), n_codewords=4, random_state=0),
}
every_named = pytest.mark.parametrize("name", NAMED)


def warm(name):
    return clone(WARM[name]).set_params(warm_start=True)


def same_codes(a, b, X):
    assert_array_equal(a.transform(X), b.transform(X), strict=True)
    for one, other in zip(a.codebooks_, b.codebooks_, strict=True):
        assert_array_equal(one, other, strict=True)


def random_names(quantizer, seed=0):
    """Return a random permutation for each column; one for those of one table."""
    rng, found = np.random.default_rng(seed), {}
    ordered = _ordered_columns(quantizer)
    names = []
    for j, table in enumerate(quantizer.codebooks_):
        if id(table) not in found:
            found[id(table)] = rng.permutation(len(table))
        names.append(None if j in ordered else found[id(table)])
    return names


def _ordered_columns(quantizer):
    if isinstance(quantizer, ScaledQuantizer):
        return {len(quantizer.codebook_sizes_) - 1}
    parts = getattr(quantizer, "quantizers_", [])
    if any(isinstance(part, UniformQuantizer) for part in parts):
        return set(range(1, len(quantizer.codebook_sizes_)))
    return set()


def renamed(found, names):
    return np.stack(
        [
            column if own is None else own[column]
            for own, column in zip(names, found.T, strict=True)
        ],
        axis=1,
    )


# -- warm starts -----------------------------------------------------------------------


@every_warm
def test_the_first_fit_is_that_without_a_warm_start(name):
    X = mixture()
    same_codes(warm(name).fit(X), clone(WARM[name]).fit(X), X)


@every_warm
def test_a_second_fit_goes_on_from_the_first(name):
    X, fresh = mixture(), mixture(360)[-40:]  # of the same clouds
    both = np.concatenate([X, fresh])
    quantizer = warm(name).fit(X)
    before = quantizer.transform(X)
    again = pickle.loads(pickle.dumps(quantizer))
    if "random_state" in again.get_params(deep=False):
        again.set_params(random_state=7)
    again.fit(both)
    # Nearly all codes mean what they meant; of a new start most have other names.
    named = [j for j in range(before.shape[1]) if j not in _ordered_columns(quantizer)]
    changed, _ = metrics.changed_codes(before[:, named], again.transform(X)[:, named])
    # Least squares on all tables may move what the stages have in common.
    assert changed.mean() < (0.3 if name == "rq-balance" else 0.2)
    assert "_before_" not in vars(again)
    for part in getattr(again, "quantizers_", []):
        assert "_before_" not in vars(part)
    # The next is the same whatever the source of random numbers was before.
    once_more = pickle.loads(pickle.dumps(quantizer)).set_params(**again.get_params())
    same_codes(again, once_more.fit(both), both)


@pytest.mark.parametrize("name", ["vq", "vq-cosine", "vq-rate", "pq"])
def test_what_has_converged_stays(name):
    X = mixture()
    quantizer = warm(name)
    for own in [quantizer, getattr(quantizer, "quantizer", None)]:
        if own is not None and "tol" in own.get_params(deep=False):
            own.set_params(tol=0.0, max_iter=100)
    if name == "pq":
        part = VectorQuantizer(tol=0.0, max_iter=100)
        quantizer.set_params(quantizer=part)
    found = quantizer.fit(X).transform(X)
    assert_array_equal(quantizer.fit(X).transform(X), found)


@pytest.mark.parametrize(
    "name", ["vq", "vq-cosine", "vq-cityblock", "vq-rate", "pq", "kq"]
)
def test_a_warm_fit_is_no_worse_than_where_it_starts(name):
    X, Y = mixture(), mixture(seed=9)
    quantizer = warm(name).fit(X)
    start = -quantizer.score(Y)
    if name == "vq-rate":
        counts = np.bincount(quantizer.transform(Y)[:, 0], minlength=5)
        start += counts @ quantizer.code_lengths_[0] / len(Y)
        assert quantizer.fit(Y).objective_ <= start * (1 + 1e-6)
        return
    assert quantizer.fit(Y).distortion_ <= start * (1 + 1e-6)


def test_lloyd_goes_on_as_if_it_had_been_given_the_table():
    X, Y = mixture(), mixture(seed=9)
    quantizer = VectorQuantizer(5, warm_start=True, random_state=0).fit(X)
    given = VectorQuantizer(5, init=quantizer.codebooks_[0]).fit(Y)
    same_codes(quantizer.fit(Y), given, Y)


def test_tables_that_were_given_are_gone_on_from():
    X = mixture()
    table = X[:5]
    quantizer = VectorQuantizer.from_codebooks([table], warm_start=True).fit(X)
    same_codes(quantizer, VectorQuantizer(5, init=table).fit(X), X)


def test_parts_go_on_with_the_settings_of_now():
    X = mixture()
    quantizer = warm("pq").fit(X)
    quantizer.set_params(quantizer=VectorQuantizer(max_iter=1), backend="numpy")
    quantizer.fit(mixture(seed=9))
    assert all(
        part.max_iter == 1 and part.n_iter_ == 1 for part in quantizer.quantizers_
    )
    assert not any(part.warm_start for part in quantizer.quantizers_)


def test_the_number_of_sums_is_not_chosen_again():
    X = mixture(600)
    quantizer = warm("rq").fit(X)
    chosen = quantizer.fit_beam_size_
    quantizer.fit_beam_size_ = 3
    assert quantizer.fit(X).fit_beam_size_ == 3 != chosen
    quantizer.set_params(fit_beam_size=2)
    assert quantizer.fit(X).fit_beam_size_ == 2


def test_a_rotation_stays():
    X = mixture()
    quantizer = warm("rotated").fit(X)
    components, mean = quantizer.components_, quantizer.mean_
    quantizer.fit(mixture(seed=9) + 1)
    assert_array_equal(quantizer.components_, components)
    assert_array_equal(quantizer.mean_, mean)
    with pytest.raises(ValueError, match=r"n_components=6.*now 4"):
        quantizer.set_params(n_components=4).fit(X)


def test_a_shared_table_keeps_its_zero_wherever_it_is():
    X = mixture()
    quantizer = warm("rq-shared").fit(X)
    assert not quantizer.codebooks_[0][0].any()
    names = [np.array([3, 0, 1, 2, 4])] * 3
    quantizer.rename_codes(names).fit(mixture(seed=9))
    assert not quantizer.codebooks_[0][3].any()
    assert quantizer.codebooks_[0][[0, 1, 2, 4]].any(axis=1).all()


def test_few_distinct_samples_leave_codewords_without_any():
    quantizer = warm("vq").fit(mixture())
    before = quantizer.codebooks_[0]
    few = np.repeat(mixture(3), 4, axis=0)
    with pytest.warns(match=r"3 distinct samples.*codewords are left without any"):
        quantizer.fit(few)
    assert quantizer.codebooks_[0].shape == before.shape


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("vq", {"n_codewords": 6}, "n_codewords=5, but it is now 6"),
        ("pq", {"n_codewords": 5}, "n_codewords=4, but it is now 5"),
        ("pq", {"n_subspaces": 2}, "n_subspaces=3, but it is now 2"),
        ("pq", {"share_codebook": True}, "share_codebook=False, but it is now True"),
        ("pq", {"widths": [1, 2, 3]}, "n_features=2, but it is now 1"),
        (
            "pq",
            {"quantizer": KroneckerQuantizer()},
            "class=VectorQuantizer, but it is now KroneckerQuantizer",
        ),
        ("rq", {"n_stages": 2}, "n_stages=3, but it is now 2"),
        ("rq-shared", {"n_codewords": 6}, "n_codewords=5, but it is now 6"),
        ("kq", {"n_codewords": 3}, r"n_codewords=\(4, 4\), but it is now \(3, 3\)"),
        ("kq", {"factor_sizes": (3, 2)}, r"factor_sizes=\(2, 3\), but it is now"),
    ],
)
def test_what_cannot_change_is_named_and_nothing_is_lost(name, changed, message):
    X = mixture()
    quantizer = warm(name).fit(X)
    before = pickle.loads(pickle.dumps(quantizer))
    with pytest.raises(ValueError, match=message):
        quantizer.set_params(**changed).fit(X)
    quantizer.set_params(**{key: getattr(before, key) for key in changed})
    same_codes(quantizer, before, X)
    cold = quantizer.set_params(warm_start=False, **changed).fit(X)
    assert "_before_" not in vars(cold)


def test_another_number_of_features_is_an_error():
    quantizer = warm("vq").fit(mixture())
    with pytest.raises(ValueError, match="n_features=6, but it is now 4"):
        quantizer.fit(mixture(n_features=4))
    assert quantizer.n_features_in_ == 6


def test_clones_start_anew():
    X = mixture()
    quantizer = warm("vq").fit(mixture(seed=9))
    same_codes(clone(quantizer).fit(X), clone(WARM["vq"]).fit(X), X)


# -- names -----------------------------------------------------------------------------


@every_named
def test_renamed_codes_stand_for_the_same(name, tmp_path):
    X = mixture(dtype=np.float64)
    quantizer = clone(NAMED[name]).fit(X)
    found, counts = quantizer.transform(X), quantizer.code_counts_
    decoded, score = quantizer.inverse_transform(found), quantizer.score(X)
    names = random_names(quantizer)
    other = pickle.loads(pickle.dumps(quantizer))
    assert other.rename_codes(names) is other
    new = renamed(found, names)
    assert_array_equal(other.inverse_transform(new), decoded, strict=True)
    if name == "rq-shared":  # whose codes have an order of their own
        new = other.transform(X)
        assert_allclose(other.inverse_transform(new), decoded)
    assert_array_equal(other.transform(X), new)
    assert_allclose(other.score(X), score)
    assert other.distortion_ == quantizer.distortion_
    for j, own in enumerate(names):
        order = slice(None) if own is None else np.argsort(own)
        assert_array_equal(other.code_counts_[j], counts[j][order])
        assert_array_equal(other.codebooks_[j], quantizer.codebooks_[j][order])
    skvq.save(other, tmp_path / "codec.skvq")
    for again in (
        skvq.load(tmp_path / "codec.skvq"),
        pickle.loads(pickle.dumps(other)),
    ):
        same_codes(again, other, X)
    # And back.
    back = [None if own is None else np.argsort(own) for own in names]
    same_codes(other.rename_codes(back), quantizer, X)


@pytest.mark.parametrize("name", ["vq-minibatch", "vq-ema", "vq-sgd"])
def test_a_stream_goes_on_under_its_new_names(name):
    X, names = mixture(), [np.array([4, 2, 0, 1, 3])]
    plain, other = (clone(WARM[name]).partial_fit(X) for _ in range(2))
    other.rename_codes(names)
    for seed in range(3):
        plain.partial_fit(mixture(seed=seed))
        other.partial_fit(mixture(seed=seed))
    assert_array_equal(other.codebooks_[0][names[0]], plain.codebooks_[0])
    assert_array_equal(other.code_counts_[0][names[0]], plain.code_counts_[0])


def test_bits_go_with_their_codes():
    X = mixture()
    quantizer = clone(WARM["rq-rate"]).fit(X)
    before, names = quantizer.code_lengths_, random_names(quantizer)
    after = quantizer.rename_codes(names).code_lengths_
    for own, old, new in zip(names, before, after, strict=True):
        assert_array_equal(new[own], old)


@pytest.mark.parametrize("name", ["vq-balance", "rq-balance"])
def test_prices_go_with_their_codes(name):
    X = mixture()
    quantizer = clone(WARM[name]).fit(X)
    before, names = quantizer.prices_, random_names(quantizer)
    after = quantizer.rename_codes(names).prices_
    assert max(prices.max() for prices in before) > 0
    for own, old, new in zip(names, before, after, strict=True):
        assert_array_equal(new[own], old)


def test_of_one_codeword_a_warm_start_goes_to_the_new_mean():
    X = mixture()
    quantizer = VectorQuantizer(1, balance=True, warm_start=True).fit(X)
    quantizer.fit(X + 10)
    assert_allclose(quantizer.codebooks_[0][0], X.mean(axis=0) + 10, rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (3, "names=3; expected 3 entries"),
        ([None], "names has 1 entries; expected 3"),
        ([[0, 1, 2], None, None], r"names\[0\].*integers from 0 to 3"),
        ([None, [0, 1, 2, 2], None], r"names\[1\].*each of them once"),
        ([None, None, [0.0, 1.0, 2.0, 3.0]], r"names\[2\].*integers"),
        ([None, None, [-1, 0, 1, 2]], r"names\[2\].*integers"),
    ],
)
def test_what_are_no_names_is_refused(names, message):
    X = mixture()
    quantizer = clone(WARM["pq"]).fit(X)
    before = quantizer.transform(X)
    with pytest.raises(ValueError, match=message):
        quantizer.rename_codes(names)
    assert_array_equal(quantizer.transform(X), before)


def test_a_shared_table_takes_one_order():
    for name in "pq-shared", "rq-shared", "msq":
        quantizer = clone(NAMED[name]).fit(mixture())
        names = random_names(quantizer)
        with pytest.raises(ValueError, match="names differ for columns of a table"):
            quantizer.rename_codes([None, *names[1:]])


def test_places_in_an_order_have_no_names():
    X = mixture()
    with pytest.raises(AttributeError, match=r"no rename_codes.*places in an order"):
        getattr(UniformQuantizer(3).fit(X), RENAME)
    with pytest.raises(AttributeError, match="its parts have none"):
        getattr(ProductQuantizer(2, quantizer=UniformQuantizer(3)).fit(X), RENAME)
    with pytest.raises(AttributeError, match="sorts the codes of a row"):
        getattr(AdditiveQuantizer(2, 4, share_codebook=True), RENAME)
    mixed = clone(WARM["pq-list"]).fit(X)
    swapped = [None, np.array([1, 0, 2]), None, None]
    with pytest.raises(ValueError, match="UniformQuantizer cannot be renamed"):
        mixed.rename_codes(swapped[: len(mixed.codebook_sizes_)])
    scaled = clone(WARM["scaled"]).fit(X)
    size = scaled.codebook_sizes_[-1]
    with pytest.raises(ValueError, match=r"scales of rows.*expected None"):
        scaled.rename_codes([None, np.arange(size)[::-1]])


# -- matches ---------------------------------------------------------------------------


def test_names_are_those_of_least_distance():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(4, 2)), rng.normal(size=(5, 2))
    (names,) = codes.match([old], [new])
    gaps = ((old[:, None, :] - new[None, :, :]) ** 2).sum(axis=2)
    least = min(
        sum(gaps[k, chosen[k]] for k in range(4))
        for chosen in permutations(range(5), 4)
    )
    order = np.argsort(names)
    assert_allclose(gaps[np.arange(4), order[:4]].sum(), least)
    assert sorted(names) == list(range(5))


def test_a_restart_in_another_order_gets_its_names_back():
    X = mixture()
    quantizer = clone(WARM["rq"]).fit(X)
    other = pickle.loads(pickle.dumps(quantizer)).rename_codes(random_names(quantizer))
    names = codes.match(quantizer, other)
    same_codes(other.rename_codes(names), quantizer, X)
    again = codes.match(quantizer.codebooks_, quantizer.codebooks_)
    assert [own.tolist() for own in again] == [list(range(5))] * 3


def test_columns_of_one_table_have_one_name():
    rng = np.random.default_rng(0)
    old, new = [rng.normal(size=(6, 2)) for _ in range(3)], rng.normal(size=(6, 2))
    names = codes.match(old, [new] * 3)
    assert names[0] is names[1] is names[2]
    # By the sum of distances, which is that from the mean but for a constant.
    assert_array_equal(names[0], codes.match([np.mean(old, axis=0)], [new])[0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ([np.eye(3)], [np.eye(3)] * 2, "old has 1 tables and new has 2"),
        ([np.eye(3)], [np.eye(4)[:, :3][:2]], r"new\[0\] has 2 codewords, fewer than"),
        ([np.eye(3)], [np.eye(4)], r"old\[0\] has 3 features and new\[0\] has 4"),
        (np.eye(3), [np.eye(3)], r"old is array(?s:.*)expected a sequence of 2-d"),
        ([np.full((2, 2), np.nan)], [np.eye(2)], "NaN"),
        (5, [np.eye(2)], "old is 5"),
    ],
)
def test_tables_that_do_not_go_together(old, new, message):
    with pytest.raises(ValueError, match=message):
        codes.match(old, new)


def test_changed_codes():
    old, new = np.array([[0, 1], [2, 3], [4, 5]]), np.array([[0, 2], [2, 3], [5, 4]])
    columns, rows = metrics.changed_codes(old, new)
    assert_allclose(columns, [1 / 3, 2 / 3])
    assert_allclose(rows, 2 / 3)
    columns, rows = metrics.changed_codes(old, new, sample_weight=[1, 3, 0])
    assert_allclose(columns, [0, 1 / 4])
    assert_allclose(rows, 1 / 4)
    assert metrics.changed_codes(old[:, 0], new[:, 0]).columns.shape == (1,)
    with pytest.raises(ValueError, match=r"old has shape \(3, 2\)"):
        metrics.changed_codes(old, new[:, :1])
    with pytest.raises(ValueError, match="negative"):
        metrics.changed_codes(old, -new)
