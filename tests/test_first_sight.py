"""What objects show of themselves, and what they say to who comes from elsewhere."""

import copy
import email
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from table import DEFAULTS, TABLE, mixture

import skvq
from skvq import (
    KroneckerQuantizer,
    MultiScaleQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    QuantizedNeighbors,
    ResidualQuantizer,
    UniformQuantizer,
    VectorQuantizer,
    _compat,
    codes,
    display,
    io,
    nearest,
)
from skvq._elsewhere import _LINES, _LINES_OF_COLUMNS

X = mixture(100)


@pytest.fixture
def vq():
    return VectorQuantizer(4, random_state=0).fit(X)


@pytest.fixture
def pq():
    return ProductQuantizer(3, 8, random_state=0).fit(X)


# -- representations -------------------------------------------------------------------


def test_readers_and_writers_show_file_and_sizes(pq, tmp_path):
    path = tmp_path / "points.codes"
    io.save_codes(path, pq.transform(X), pq.codebook_sizes_)
    with io.CodeReader(path) as reader:
        assert repr(reader) == (
            f"<CodeReader of {str(path)!r}: 100 rows, 3 columns of 8 codewords, "
            f"{reader.bits_per_row:.4g} bits a row, 'columns'>"
        )
    assert repr(reader).endswith(", closed>")
    writer = io.CodeWriter(tmp_path / "new.codes", (8, 4))
    assert repr(writer) == (
        f"<CodeWriter of {str(tmp_path / 'new.codes')!r}: 2 columns of 8, 4 codewords, "
        "'columns'>"
    )


def test_coders_of_codes_show_what_they_know(pq):
    coder = codes.EntropyCoder((8, 8, 8))
    assert repr(coder) == "<EntropyCoder for 3 columns of 8 codewords; not fitted>"
    coder.fit(pq.transform(X))
    assert f"24 frequencies, model {coder.model_id_}" in repr(coder)


def test_ids_show_how_many_there_are():
    rq = ResidualQuantizer(2, 16, random_state=0).fit(X)
    ids = codes.UniqueIds(rq.codebook_sizes_, overflow="digit", max_width=1)
    assert repr(ids) == "<UniqueIds in 2 columns of 16 codewords; no ids yet>"
    ids.assign(*rq.encode_best(np.concatenate([X, X]), 1))
    assert "200 ids, " in repr(ids)
    assert f"a digit of {ids.n_digits_} values" in repr(ids)


def test_what_the_engine_keeps_shows_its_shape():
    table = nearest.Table(np.zeros((4, 2), np.float32))
    assert repr(table) == "<Table of 4 codewords, 2 features, float32>"
    tables = nearest.Tables([table, np.zeros((8, 3))])
    assert repr(tables) == "<Tables for 2 columns of 4, 8 codewords, 5 features in all>"
    columns = nearest.Columns([np.arange(3.0), np.arange(4.0)])
    assert repr(columns) == "<Columns of 7 numbers, 2 columns>"
    packed = nearest.Packed(np.zeros((5, 1), np.uint8), (4,) * 4)
    assert repr(packed) == (
        "<Packed codes of 5 rows, 4 columns of 4 codewords, 8 bits each>"
    )
    many = nearest.Tables([np.zeros((size, 1)) for size in range(1, 21)])
    assert "20 columns of 1, 2, 3, 4, 5, 6, ... codewords" in repr(many)


def test_displays_show_what_is_drawn():
    pytest.importorskip("matplotlib")
    cells = display.CodebookDisplay(
        xx0=np.zeros(2), xx1=np.zeros(2), cells=np.zeros((2, 2)), codewords=np.eye(2)
    )
    assert repr(cells) == "<CodebookDisplay of 2 codewords>"
    curve = display.RateDistortionDisplay([1.0, 2.0], [0.5, 0.2], name="k-means")
    assert repr(curve) == "<RateDistortionDisplay of 2 points, 'k-means'>"
    usage = display.CodeUsageDisplay([np.ones(4) / 4])
    assert repr(usage) == "<CodeUsageDisplay of 1 code columns>"


# -- HTML ------------------------------------------------------------------------------

ADDRESS = "https://docs.example.org/skvq"
ESTIMATORS = (*DEFAULTS, QuantizedFeatures(VectorQuantizer()))


@pytest.fixture
def metadata(monkeypatch):
    """Metadata of a package whose maintainers have filled in where its site is."""
    text = f"Project-URL: Source, https://x.org\nProject-URL: Documentation, {ADDRESS}/"
    monkeypatch.setattr(_compat, "metadata", lambda _: email.message_from_string(text))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: type(one).__name__)
def test_html_links_to_the_page_of_the_class(estimator, metadata):
    page = f"{ADDRESS}/generated/skvq.{type(estimator).__name__}.html"
    assert type(estimator).__name__ in skvq.__all__
    assert f'href="{page}"' in estimator._repr_html_()


def test_html_has_what_parameters_mean(metadata):
    html = VectorQuantizer()._repr_html_()
    if not hasattr(sklearn, "callback") and "param-doc-link" not in html:
        pytest.skip("this scikit-learn shows no descriptions of parameters")
    described = set(re.findall(r'param-doc-description"[^>]*>\s*(\w+):', html))
    assert described == set(inspect.signature(VectorQuantizer).parameters)


@pytest.mark.parametrize("found", ["none", "others", "no package"])
def test_without_an_address_there_is_no_link(found, monkeypatch):
    def metadata(_):
        if found == "no package":
            raise _compat.PackageNotFoundError
        urls = "Project-URL: Source, https://x.org\n" * (found == "others")
        return email.message_from_string(urls)

    monkeypatch.setattr(_compat, "metadata", metadata)
    assert VectorQuantizer()._get_doc_link() == ""
    assert "sk-estimator-doc-link fitted" not in VectorQuantizer()._repr_html_()


def test_classes_of_others_have_no_page_here(metadata):
    class Own(VectorQuantizer):
        pass

    assert Own()._get_doc_link() == ""


# -- names of other libraries ----------------------------------------------------------


def error_of(obj, name):
    """Return the message of the error that an attribute is."""
    with pytest.raises(AttributeError) as error:
        getattr(obj, name)
    return str(error.value)


@pytest.mark.parametrize("name", sorted(_LINES))
def test_names_of_others_are_told_what_to_write(vq, name):
    for one in vq, clone(vq), ProductQuantizer(), UniformQuantizer(4).fit(X):
        assert not hasattr(one, name)
        lines = _LINES if type(one) is VectorQuantizer else _LINES | _LINES_OF_COLUMNS
        message = f"{type(one).__name__} has no {name!r}: write {lines[name]}."
        assert error_of(one, name) == message


@pytest.mark.parametrize("name", sorted(_LINES))
def test_each_line_runs(vq, name):
    assert value_of(vq, name) is not None


def value_of(quantizer, name):
    """Return what the line gives that the error of a name has."""
    said = error_of(quantizer, name).partition(": write ")[2]
    line = re.match(r"[^;,]*\([^;]*\)(\[.*?\])?(\.\w+\(\w+\))?|[^;,]*", said)[0]
    codes = quantizer.transform(X)
    names = {"quantizer": quantizer, "X": X, "codes": codes, "queries": X[:2]}
    return eval(line.removesuffix("."), {**names, "skvq": skvq, "len": len})


def test_lines_give_what_k_means_gives():
    kmeans = KMeans(4, init=X[:4], max_iter=300, tol=0).fit(X)
    vq = VectorQuantizer(4, init=X[:4], max_iter=300, tol=0).fit(X)
    for name, expected in {
        "predict": kmeans.predict(X),
        "labels_": kmeans.labels_,
        "fit_predict": kmeans.labels_,
        "cluster_centers_": kmeans.cluster_centers_,
        "inertia_": kmeans.inertia_,
        "n_clusters": [kmeans.n_clusters],
    }.items():
        np.testing.assert_allclose(value_of(vq, name), expected, rtol=1e-4, atol=1e-4)


def test_of_several_columns_all_are_told_of(pq):
    codes = pq.transform(X)
    ids = codes.astype(int) @ [64, 8, 1]
    for name in ("predict", "labels_", "fit_predict"):
        np.testing.assert_array_equal(value_of(clone(pq).fit(X), name), ids)
    assert value_of(pq, "cluster_centers_") is not pq.codebooks_[0]
    assert len(value_of(pq, "cluster_centers_")) == 3


@pytest.mark.parametrize("row", TABLE[::5], ids=lambda row: row.name)
def test_names_that_nobody_has_are_pythons_error(row):
    estimator = row.make()
    name = type(estimator).__name__
    message = f"'{name}' object has no attribute 'no_such_name'"
    assert error_of(estimator, "no_such_name") == message
    assert "predict" not in dir(estimator)


def test_fitted_attributes_say_that_fit_sets_them(vq):
    unfitted = clone(vq)
    for name in "distortion_", "n_iter_", "codebook_sizes_", "bits_per_sample_":
        assert error_of(unfitted, name) == (
            f"'VectorQuantizer' object has no attribute {name!r}: call fit first, "
            "which sets it."
        )
    # What no documentation names is not promised.
    assert error_of(unfitted, "labels_of_x_").endswith("no attribute 'labels_of_x_'")
    # Properties keep their own words.
    assert "not fitted: it has no codebooks_ yet" in error_of(unfitted, "codebooks_")
    assert "does not weigh bits" in error_of(vq, "code_lengths_")
    assert "has no partial_fit with these" in error_of(vq, "partial_fit")


class WithNamesOfOthers(VectorQuantizer):
    """A quantizer that has some of them after all."""

    @property
    def cluster_centers_(self):
        return self.codebooks_[0]

    @property
    def predict(self):
        raise AttributeError("why it is not there")


def test_properties_of_subclasses_keep_their_errors(vq):
    one = WithNamesOfOthers(4)
    assert error_of(one, "predict") == "why it is not there"
    assert "not fitted" in error_of(one, "cluster_centers_")
    assert error_of(one, "labels_").startswith("WithNamesOfOthers has no 'labels_'")
    assert one.fit(X).cluster_centers_ is one.codebooks_[0]


@pytest.mark.parametrize("one", [copy.copy, copy.deepcopy, clone])
def test_copies_are_made_as_before(vq, one):
    assert repr(one(vq)) == repr(vq)
    assert pickle.loads(pickle.dumps(vq)).distortion_ == vq.distortion_
    empty = object.__new__(VectorQuantizer)
    assert not hasattr(empty, "n_codewords")
    assert not hasattr(empty, "distortion_")


def test_pipelines_and_searches_see_no_predict():
    pipeline = make_pipeline(StandardScaler(), VectorQuantizer(4, random_state=0))
    assert not hasattr(pipeline.fit(X), "predict")
    grid = GridSearchCV(pipeline, {"vectorquantizer__n_codewords": [2, 4]}, cv=2)
    assert not hasattr(grid.fit(X), "predict")
    assert QuantizedNeighbors(ProductQuantizer(2, 4)).fit(X).kneighbors(X[:1])


# -- first parameters ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantizer", "meant"),
    [
        (KroneckerQuantizer(16), "how many codewords each table has is n_codewords"),
        (MultiScaleQuantizer(16), "how many codewords the table has is n_codewords"),
    ],
)
def test_a_number_where_a_shape_is_first_says_what_was_meant(quantizer, meant):
    with pytest.raises(ValueError, match=re.escape(meant)) as error:
        quantizer.fit(X)
    assert "Got 16 instead" in str(error.value)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: type(one).__name__)
def test_what_stands_first_is_what_the_scheme_is_made_of(estimator):
    """A shape or a count of tables, then their size; all else goes by its name."""
    parameters = inspect.signature(type(estimator)).parameters.values()
    first = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert first in (
        [],
        ["n_codewords"],
        ["n_levels"],
        ["levels"],
        ["n_bits"],
        ["quantizer"],
        ["quantizer", "n_neighbors"],
        ["factor_sizes", "n_codewords"],
        ["map_shape", "scales", "n_codewords"],
        ["n_codebooks", "n_codewords"],
        ["n_stages", "n_codewords"],
        ["n_subspaces", "n_codewords"],
    )


# -- input that is not rows of numbers -------------------------------------------------


def test_a_path_is_told_how_to_be_read(vq):
    message = re.escape("numpy.load('X.npy', mmap_mode='r')")
    for call in (vq.fit, vq.transform):
        for path in ("X.npy", Path("X.npy")):
            with pytest.raises(ValueError, match=f"got a path instead: {message}"):
                call(path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_the_row_that_is_not_finite_is_named(vq, value):
    bad = np.tile(X, (2000, 1))
    bad[150_003, 2] = bad[199_000, 0] = float(value)
    what = "NaN" if value == "nan" else "infinity"
    for call in (vq.transform, vq.quantize, vq.score):
        with pytest.raises(ValueError) as error:
            call(bad)
        message = f"Input X contains {what}: in row 150003, column 2."
        assert str(error.value) == message
