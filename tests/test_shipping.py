"""Codec files: what they hold, what they refuse, and that nothing of them is run."""

import io
import json
import lzma
import os
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.numpy
import sklearn
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection

import skvq
from skvq import (
    BinaryQuantizer,
    FiniteScalarQuantizer,
    ProductQuantizer,
    QuantizedFeatures,
    ScaledQuantizer,
    UniformQuantizer,
    VectorQuantizer,
)
from skvq.__main__ import main
from skvq._codec import container, save_objects
from skvq.io import FormatError, codec_info, decode
from skvq.metrics import distortion
from skvq.model_selection import (
    ReconstructionErrorScorer,
    neg_error_within,
    neg_reconstruction_error,
)

X = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)
ROOT = Path(skvq.__file__).parent.parent


def vq(**parameters):
    return VectorQuantizer(4, max_iter=3, random_state=0, **parameters)


def saved(estimator, tmp_path):
    skvq.save(estimator, tmp_path / "codec")
    return (tmp_path / "codec").read_bytes()


def loaded(content, **settings):
    """Load a codec from bytes in memory."""
    settings = {"verify": True, "mmap": False, "allow_pickle": False, **settings}
    return skvq.io._loaded("memory", io.BytesIO(content), **settings)


def unpacked(content):
    """Return description and arrays of a codec file."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = json.loads(header["__metadata__"]["skvq"])
    del text["digest"], text["data"]
    return text, safetensors.numpy.load(content)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return saved(BinaryQuantizer().fit(X[:, :2]), tmp_path_factory.mktemp("small"))


# -- bytes -----------------------------------------------------------------------------


def test_every_changed_byte_and_every_cut_is_found(small):
    assert loaded(small).n_features_in_ == 2
    for i in range(len(small)):
        for bit in range(8) if i < 10 else [i % 8]:
            changed = bytearray(small)
            changed[i] ^= 1 << bit
            with pytest.raises(FormatError):
                loaded(bytes(changed))
    for n_bytes in range(len(small)):
        with pytest.raises(FormatError):
            loaded(small[:n_bytes])
    with pytest.raises(FormatError, match="damaged"):
        loaded(small + b"\0")


def test_without_verify_the_header_is_checked_and_the_tables_are_not(small):
    end = 8 + int.from_bytes(small[:8], "little")
    for i in range(0, end, 7):
        changed = bytearray(small)
        changed[i] ^= 1
        with pytest.raises(FormatError):
            loaded(bytes(changed), verify=False)
    changed = bytearray(small)
    changed[-1] ^= 1
    loaded(bytes(changed), verify=False)
    with pytest.raises(FormatError, match="checksum of its tensors does not match"):
        loaded(bytes(changed))


def test_the_header_is_the_one_that_safetensors_writes(small):
    text, arrays = unpacked(small)
    again = container.pack(text, arrays)
    assert again == small
    # The same content in other words, with digests that are right.
    end = 8 + int.from_bytes(small[:8], "little")
    header = small[8:end]
    for other in (
        header + b" " * 8,
        header.replace(b'{"__meta', b'{ "__meta', 1).rstrip() + b" " * 8,
        header.replace(b'"dtype":"F32",', b'"dtype":"F32","dtype":"F32",', 1),
    ):
        assert other != header
        other = other.rstrip() + b" " * (-len(other.rstrip()) % 8 + 8)
        with pytest.raises(FormatError, match="its header"):
            loaded(len(other).to_bytes(8, "little") + other + small[end:])


def test_other_readers_of_safetensors_read_it(small, tmp_path):
    (tmp_path / "codec").write_bytes(small)
    with safetensors.safe_open(tmp_path / "codec", framework="np") as file:
        assert list(file.metadata()) == ["skvq"]
        assert_array_equal(file.get_tensor("scale_"), loaded(small).scale_)


# -- what a file may not say -----------------------------------------------------------


def changed_objects(content, change):
    """A codec file with right digests, of which a function changes the objects."""
    text, arrays = unpacked(content)
    change(text["objects"])
    return container.pack(text, arrays)


def _set(attribute, value):
    def change(objects):
        objects[-1]["state"][attribute] = value

    return change


def _named(name):
    def change(objects):
        objects[-1]["class"] = name

    return change


def _refer_to_itself(objects):
    objects[-1]["state"]["scale"] = {"object": len(objects) - 1}


REFUSED = {
    "another class": (_named("os.system"), "class 'os.system'"),
    "a class of scikit-learn": (
        _named("sklearn.preprocessing.FunctionTransformer"),
        "class 'sklearn.preprocessing.FunctionTransformer'",
    ),
    "no class": (_named(3), "int in place of a str"),
    "another kind of value": (_set("scale", {"lambda": "x"}), "kind 'lambda'"),
    "two kinds": (_set("scale", {"tuple": [], "list": []}), "not a value"),
    "itself": (_refer_to_itself, r"no object \d"),
    "an object that is not there": (_set("scale", {"object": -1}), "no object -1"),
    "an array that is not there": (_set("scale_", {"array": ["x", "C"]}), "'x'"),
    "an order that is not there": (_set("scale_", {"array": ["scale_", "K"]}), "'K'"),
    "a dtype of objects": (
        _set("scale", {"dtype": "object"}),
        "not a dtype of numbers",
    ),
    "a method": (_set("transform", 3), "attribute 'transform'"),
    "a dunder": (_set("__class__", 3), "attribute '__class__'"),
    "another parameter": (_set("loss", 3), "attribute 'loss'"),
    "a wrong parameter": (_set("spherical", "yes"), "InvalidParameterError"),
    "wrong sizes": (_set("codebook_sizes_", {"tuple": [2, 3]}), "tells of codebooks"),
    "no sizes": (_set("codebook_sizes_", {"tuple": [2, "x"]}), "codebook_sizes_"),
    "another width": (_set("n_features_in_", 3), "ValueError"),
    "no version": (_set("_skvq_version", "new"), "_skvq_version='new'"),
    "a request of a method": (_set("_metadata_request", {"dict": {"x": 1}}), "'x'|int"),
    "an output": (_set("_sklearn_output_config", 3), "output configuration"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_file_may_not_say(what, small):
    change, message = REFUSED[what]
    with pytest.raises(FormatError, match=message):
        loaded(changed_objects(small, change))


def test_a_file_imports_nothing(small):
    assert "this" not in sys.modules
    found = loaded(changed_objects(small, _set("_home_", "this")))
    assert "this" not in sys.modules and found._home_.name == "numpy"


def test_what_tables_are_made_of_is_checked(tmp_path):
    def state(objects, name):
        return next(o["state"] for o in objects if o["class"] == name)

    grid = saved(UniformQuantizer(3).fit(X), tmp_path)

    def fewer(objects):
        state(objects, "skvq.coding.Grid")["sizes"] = {"tuple": [3] * 5}

    with pytest.raises(FormatError, match="not as many as its columns"):
        loaded(changed_objects(grid, fewer))
    levels = saved(UniformQuantizer(3, levels="lloyd-max").fit(X), tmp_path)

    def other(objects):
        state(objects, "skvq.coding.Levels")["sizes"] = {"tuple": [3, 3, 3, 2]}

    with pytest.raises(FormatError, match="levels are not as many"):
        loaded(changed_objects(levels, other))

    def longer(objects):
        lengths = state(objects, "skvq.nearest.Columns")
        lengths["lengths"] = lengths["of_column"]

    with pytest.raises(FormatError, match="other lengths than it says"):
        loaded(changed_objects(levels, longer))
    priced = VectorQuantizer(3, rate_weight=1.0, random_state=0).fit(X)
    priced = saved(priced, tmp_path)

    def negative(objects):
        state(objects, "skvq.coding.Charge")["price"] = -1.0

    with pytest.raises(FormatError, match="price of bits is not valid"):
        loaded(changed_objects(priced, negative))
    balanced = saved(VectorQuantizer(3, balance=True, random_state=0).fit(X), tmp_path)

    def other_shares(objects):
        prices = state(objects, "skvq.coding.Prices")
        prices["bias"], prices["shares"] = prices["shares"], prices["bias"]

    with pytest.raises(FormatError, match="shares of codes are not as many"):
        loaded(changed_objects(balanced, other_shares))
    squash = saved(FiniteScalarQuantizer(3).fit(X), tmp_path)

    def huge(objects):
        state(objects, "skvq.grid.Tanh")["sizes"] = {"tuple": [2**40] * 4}

    with pytest.raises(FormatError, match="that it keeps"):
        loaded(changed_objects(squash, huge))
    seeded = vq().set_params(random_state=np.random.RandomState(0)).fit(X)

    def beyond(objects):
        state(objects, "numpy.random.RandomState")["position"] = 10**6

    with pytest.raises(FormatError, match="RandomState"):
        loaded(changed_objects(saved(seeded, tmp_path), beyond))


def test_tables_of_other_sizes_are_refused(tmp_path):
    content = saved(vq().fit(X), tmp_path)
    text, arrays = unpacked(content)
    text["codebook_sizes"] = [5]
    text["objects"][-1]["state"]["codebook_sizes_"] = {"tuple": [5]}
    with pytest.raises(FormatError, match="IndexError"):
        loaded(container.pack(text, arrays))
    parts = saved(ProductQuantizer(2, 4, random_state=0).fit(X), tmp_path)
    shrunk = changed_objects(parts, _set("codebook_sizes_", {"tuple": [4]}))
    with pytest.raises(FormatError, match="not those of its quantizers_"):
        loaded(shrunk)
    front = saved(ScaledQuantizer(vq(), n_scale_bits=3).fit(X), tmp_path)
    shrunk = changed_objects(front, _set("codebook_sizes_", {"tuple": [5, 8]}))
    with pytest.raises(FormatError, match="not those of its quantizer_"):
        loaded(shrunk)
    for attribute, value in {
        "quantizer_": 3,
        "_scale_code_": 3,
        "n_features_in_": X.shape[1] + 1,
    }.items():
        with pytest.raises(FormatError):
            loaded(changed_objects(front, _set(attribute, value)))


def test_counts_of_other_columns_are_refused(tmp_path):
    content = saved(ProductQuantizer(2, 4, random_state=0).fit(X), tmp_path)
    text, arrays = unpacked(content)
    name = "code_counts_.values"
    assert arrays[name].sum() == 2 * len(X)
    for changed in (arrays[name][1:], -arrays[name], arrays[name].astype("f4")):
        with pytest.raises(FormatError, match="code_counts_"):
            loaded(container.pack(text, arrays | {name: changed}))
    fewer = {"code_counts_.lengths": np.array([8])}
    with pytest.raises(FormatError, match="code_counts_ of other columns"):
        loaded(container.pack(text, arrays | fewer))
    # Files of before have none.
    del text["objects"][-1]["state"]["code_counts_"]
    kept = {key: value for key, value in arrays.items() if name[:12] != key[:12]}
    assert not hasattr(loaded(container.pack(text, kept)), "code_counts_")


def test_other_versions_of_the_format_are_refused(small):
    text, arrays = unpacked(small)
    for version, message in ((5, "version 5"), (0, "version 0"), ("4", "version is")):
        with pytest.raises(FormatError, match=message):
            loaded(container.pack({**text, "version": version}, arrays))
    del text["details"]
    with pytest.raises(FormatError, match="not an object with the keys"):
        loaded(container.pack(text, arrays))


def _header(text):
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tensor(shape, offsets, dtype="F32"):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return _header(json.dumps({"__metadata__": {"skvq": "{}"}, "x": entry}).encode())


BOMBS = {
    "a header of 90 MB": (9 * 10**7).to_bytes(8, "little") + b'{"a":1}',
    "a header of 3 GB": (3 * 10**9).to_bytes(8, "little") + b'{"a":1}',
    "a shape of 2^60": _tensor([2**60], [0, 2**62]),
    "a shape that wraps around": _tensor([2**32, 2**32], [0, 0]),
    "many axes": _tensor([0] * 99, [0, 0]),
    "a negative size": _tensor([-1], [0, -4]),
    "a size of another kind": _tensor([1.0], [0, 4]),
    "a gap": _tensor([1], [4, 8]),
    "a dtype of objects": _tensor([1], [0, 8], "O"),
    "depth": _header(b'{"a":' * 10**5),
    "lists": _header(b"[" * 10**5),
    "depth within": _header(
        json.dumps({"__metadata__": {"skvq": '{"a":' * 90 + "1" + "}" * 90}}).encode()
    ),
    "no metadata": _header(b'{"a": 1}'),
    "metadata of others": _header(b'{"__metadata__":{"format":"pt"}}'),
    "a number of many digits": _header(b"1" * 10**5),
    "not a number": _header(b'{"a": NaN}'),
    "no text": _header(b"{\xff\xfe}"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_what_a_header_claims_costs_nothing(what):
    content = BOMBS[what]
    tracemalloc.start()
    with pytest.raises(FormatError) as caught:
        loaded(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21 + 20 * len(content)
    assert len(str(caught.value)) < 400


# -- nothing is run --------------------------------------------------------------------

AUDIT = """
import sys
import numpy as np
import skvq

seen = []
watched = {"pickle.find_class", "exec", "os.system", "subprocess.Popen", "import"}
sys.addaudithook(lambda event, arguments: event in watched and seen.append(event))
codec = skvq.load(sys.argv[1])
assert not seen, seen
codec.transform(np.zeros((3, 4), np.float32))
assert "skvq._codec.pickled" not in sys.modules and "skvq._layouts" not in sys.modules
"""


def test_nothing_of_a_file_is_unpickled_or_run(tmp_path):
    codec = make_pipeline(StandardScaler(), PCA(3), ProductQuantizer(3, 4)).fit(X)
    skvq.save(codec, tmp_path / "codec")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AUDIT, str(tmp_path / "codec")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


# -- what is saved ---------------------------------------------------------------------


def half(x, y):
    return 0.5 * np.abs(x - y).sum()


class Mine(VectorQuantizer):
    """Of a class that no file can name."""


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (vq(metric=half, learning="fixed"), r"metric=.*half.* is code.*pickle"),
        (make_pipeline(FunctionTransformer(), vq()), "FunctionTransformer"),
        (Mine(4, random_state=0), "Mine"),
        (GridSearchCV(vq(), {"n_codewords": [2, 4]}, cv=2), "its best_estimator_"),
        (Pipeline([("vq", vq())], memory="x"), None),
        (vq(init=np.zeros((4, 4), dtype=complex).real.astype("f2")), None),
        (vq(init=np.eye(4, dtype=np.longdouble)), "init is an array of float128"),
    ],
)
def test_what_cannot_be_saved_is_named(estimator, message, tmp_path, monkeypatch):
    # A relative path is a pipeline's memory.
    monkeypatch.chdir(tmp_path)
    estimator.fit(X)
    if message is None:
        skvq.save(estimator, tmp_path / "codec")
        return
    with pytest.raises(TypeError, match=message):
        skvq.save(estimator, tmp_path / "codec")
    assert not list(tmp_path.iterdir())


def test_attributes_of_others_are_refused(tmp_path):
    estimator = vq().fit(X)
    estimator.note = "mine"
    with pytest.raises(TypeError, match="attribute 'note'"):
        skvq.save(estimator, tmp_path / "codec")


def test_what_has_been_loaded_is_saved_as_the_same_bytes(tmp_path):
    content = saved(make_pipeline(PCA(3), vq(learning="ema")).fit(X), tmp_path)
    assert saved(loaded(content), tmp_path) == content


def test_values_of_all_kinds(tmp_path):
    table = np.asfortranarray(X[:4].astype(">f8"))
    estimator = vq(init=table).set_params(
        random_state=np.random.RandomState(5), n_init=np.int32(2), tol=np.float32(0.5)
    )
    estimator.fit(X)
    estimator.extra_ = [
        *(None, True, 2**70, -0.0, 1e-300, float("nan"), float("-inf"), "é\ud800"),
        *((), (1, [2.0, "x"]), {"a": (1,), "b": {}}, np.float32(0.1), np.bool_(True)),
        *(np.dtype(np.int8), slice(1, None), np.array(3.5), np.empty((0, 3), bool)),
    ]
    again = loaded(saved(estimator, tmp_path))
    assert repr(again.extra_) == repr(estimator.extra_)
    assert type(again.n_init) is np.int32 and type(again.tol) is np.float32
    assert again.init.flags.f_contiguous and again.init.dtype == np.float64
    assert again.random_state.randint(10**6) == estimator.random_state.randint(10**6)
    assert_array_equal(
        clone(again).fit(X).codebooks_, clone(estimator).fit(X).codebooks_
    )


def test_arrays_of_all_dtypes(tmp_path):
    estimator = vq().fit(X)
    names = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
    estimator.extra_ = [
        np.arange(6).reshape(2, 3).astype(name)
        for name in [*names, "float16", "float32", "float64"]
    ]
    again = loaded(saved(estimator, tmp_path)).extra_
    for one, other in zip(again, estimator.extra_, strict=True):
        assert one.dtype == other.dtype and one.flags.writeable
        assert_array_equal(one, other)


def test_what_is_shared_is_one_object(tmp_path):
    estimator = ProductQuantizer(2, 4, share_codebook=True, random_state=0).fit(X)
    content = saved(estimator, tmp_path)
    again = loaded(content)
    first, second = again.quantizers_
    one, other = again._parts_.tables
    assert first is second and one is other is first._table_
    assert sum("codewords" in name for name in safetensors.numpy.load(content)) == 1


def test_many_columns_are_few_tensors(tmp_path):
    wide = np.random.default_rng(0).normal(size=(40, 300))
    estimator = UniformQuantizer(3, levels="lloyd-max").fit(wide)
    content = saved(estimator, tmp_path)
    assert len(safetensors.numpy.load(content)) < 10
    assert_array_equal(loaded(content).transform(wide), estimator.transform(wide))


# -- pipelines -------------------------------------------------------------------------

STEPS = [
    StandardScaler(),
    StandardScaler(with_std=False, with_mean=False),
    MinMaxScaler((-1, 1)),
    MaxAbsScaler(),
    RobustScaler(),
    QuantileTransformer(n_quantiles=20),
    Normalizer("l1"),
    PCA(3),
    PCA(2, whiten=True, svd_solver="randomized", random_state=0),
    IncrementalPCA(2),
    TruncatedSVD(2, random_state=0),
    GaussianRandomProjection(3, random_state=0),
    GaussianRandomProjection(3, compute_inverse_components=True, random_state=0),
    VarianceThreshold(),
    make_pipeline(StandardScaler(), "passthrough", PCA(2)),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_pipelines_come_back(step, tmp_path):
    codec = make_pipeline(step, vq()).fit(X)
    again = loaded(saved(codec, tmp_path))
    codes = codec.transform(X)
    assert_array_equal(again.transform(X), codes)
    assert_array_equal(decode(again, codes), decode(codec, codes))
    assert repr(again) == repr(codec)
    assert_array_equal(clone(again).fit(X).transform(X), codes)


def test_wrapped_quantizers_come_back(tmp_path):
    inner = vq().fit(X)
    for codec in (
        QuantizedFeatures(vq()).fit(X),
        QuantizedFeatures(FrozenEstimator(inner)).fit(X),
        FrozenEstimator(inner),
        FrozenEstimator(make_pipeline(StandardScaler(), vq()).fit(X)),
        make_pipeline(StandardScaler(), FrozenEstimator(inner)).fit(X),
        make_pipeline(StandardScaler(), QuantizedFeatures(vq())).fit(X),
    ):
        again = loaded(saved(codec, tmp_path))
        assert_array_equal(again.transform(X), codec.transform(X))
        assert codec_info(tmp_path / "codec")["codebook_sizes"] == [4]


def test_a_stream_goes_on_in_a_pipeline(tmp_path):
    codec = make_pipeline(StandardScaler(), vq(learning="minibatch")).fit(X)
    again = loaded(saved(codec, tmp_path))
    for one in (codec, again):
        one[0].partial_fit(X[:20])
        one[1].partial_fit(one[0].transform(X[:20]))
    assert_array_equal(again[1].codebooks_[0], codec[1].codebooks_[0])


def test_names_requests_and_outputs_come_back(tmp_path):
    frame = pd.DataFrame(X, columns=list("abcd"))
    with sklearn.config_context(enable_metadata_routing=True):
        quantizer = vq().set_fit_request(sample_weight="mass")
        quantizer.set_score_request(sample_weight=False)
        codec = make_pipeline(
            StandardScaler().set_output(transform="pandas"), quantizer
        )
        codec.set_output(transform="pandas").fit(frame, mass=np.ones(len(X)))
        again = loaded(saved(codec, tmp_path))
        routing = again[-1].get_metadata_routing()
        assert routing.fit.requests == {"sample_weight": "mass"}
        assert routing.score.requests == {"sample_weight": False}
        assert repr(clone(again[-1]).get_metadata_routing()) == repr(routing)
        again.fit(frame, mass=np.ones(len(X)))
    pd.testing.assert_frame_equal(again.transform(frame), codec.transform(frame))
    assert again.feature_names_in_.dtype == object
    assert list(again.feature_names_in_) == list("abcd")


def test_attributes_of_transformers_are_declared(tmp_path):
    codec = make_pipeline(StandardScaler(), vq()).fit(X)
    codec[0].trick_ = 3
    with pytest.raises(TypeError, match=r"StandardScaler has an attribute 'trick_'"):
        skvq.save(codec, tmp_path / "codec")
    del codec[0].trick_
    content = saved(codec, tmp_path)

    def scaler(objects):
        return next(o["state"] for o in objects if "StandardScaler" in o["class"])

    with pytest.raises(FormatError, match="attribute 'trick_'"):
        loaded(changed_objects(content, lambda o: scaler(o).update(trick_=3)))
    with pytest.raises(FormatError, match="has no scale_"):
        loaded(changed_objects(content, lambda o: scaler(o).pop("scale_")))
    other = changed_objects(content, lambda o: scaler(o).update(_sklearn_version="1.0"))
    with pytest.warns(InconsistentVersionWarning, match=r"1\.0"):
        loaded(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InconsistentVersionWarning):
            loaded(other)


# -- steps that only encode ------------------------------------------------------------


def test_a_step_that_only_encodes_is_the_identity_on_the_way_back(tmp_path):
    codec = make_pipeline(PCA(3), Normalizer(), MaxAbsScaler(), vq()).fit(X)
    codes = codec.transform(X)
    units = codec[2].inverse_transform(codec[3].inverse_transform(codes))
    assert_array_equal(decode(codec, codes), codec[0].inverse_transform(units))
    with pytest.raises(TypeError, match=r"behind=True"):
        neg_reconstruction_error(codec, X)
    behind = ReconstructionErrorScorer(behind=True)
    error = distortion(codec[:2].transform(X), units)
    assert behind(codec, X) == pytest.approx(-error)
    assert neg_error_within(8, behind=True)(codec, X) == pytest.approx(-error)
    plain = make_pipeline(PCA(3), vq()).fit(X)
    assert behind(plain, X) == neg_reconstruction_error(plain, X)


def test_the_command_line_decodes_behind_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", X)
    codec = make_pipeline(Normalizer(), vq()).fit(X)
    skvq.save(codec, "codec")
    assert main(["encode", "X.npy", "codec", "-o", "codes"]) == 0
    assert main(["decode", "codes", "codec", "-o", "Y.npy"]) == 0
    assert_array_equal(np.load("Y.npy"), decode(codec, codec.transform(X)))
    skvq.save(QuantizedFeatures(vq()).fit(X), "features")
    assert main(["encode", "X.npy", "features", "-o", "codes"]) == 2
    assert "gives no codes" in capsys.readouterr().err


# -- stored files ----------------------------------------------------------------------


def test_stored_codecs_load():
    """``data/codecs_of_version_4.npz.xz``: files, codes and reconstructions of X."""
    path = Path(__file__).parent / "data" / "codecs_of_version_4.npz.xz"
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as archive:
        stored = dict(archive)
    names = [key.removesuffix("/codec") for key in stored if key.endswith("/codec")]
    assert len(names) == 17
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            codec = loaded(stored[f"{name}/codec"].tobytes())
        codes = codec.transform(stored["X"][:12])
        assert_array_equal(codes, stored[f"{name}/codes"])
        found, expected = codec.inverse_transform(codes), stored[f"{name}/X_quant"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_command_line_unpickles_on_request_only(tmp_path, monkeypatch, capsys):
    pytest.importorskip("numpy._core.numeric")  # where the pickle has its arrays from
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parent / "data" / "codecs_of_version_3.npz.xz"
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as archive:
        np.save("X.npy", archive["X"])
        Path("old").write_bytes(archive["product/codec"].tobytes())
    assert main(["info", "old"]) == 0
    assert main(["encode", "X.npy", "old", "-o", "codes"]) == 2
    assert "load it with --allow-pickle" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        assert main(["encode", "X.npy", "old", "-o", "codes", "--allow-pickle"]) == 0
        assert main(["decode", "codes", "old", "-o", "Y.npy", "--allow-pickle"]) == 0
    capsys.readouterr()


# -- maps ------------------------------------------------------------------------------


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("verify", [False, True])
def test_tables_can_stay_in_the_file(verify, tmp_path):
    codec = ProductQuantizer(2, 8, random_state=0).fit(X)
    content = saved(codec, tmp_path)
    again = skvq.load(tmp_path / "codec", mmap=True, verify=verify)
    assert all(is_mapped(table) for table in again.codebooks_)
    assert_array_equal(again.transform(X), codec.transform(X))
    again.set_params(n_subspaces=4)
    assert_array_equal(clone(again).fit(X).n_subspaces_, 4)
    changed = bytearray(content)
    changed[-1] ^= 1
    (tmp_path / "codec").write_bytes(changed)
    if verify:
        with pytest.raises(FormatError, match="checksum of its tensors"):
            skvq.load(tmp_path / "codec", mmap=True)
    else:
        skvq.load(tmp_path / "codec", mmap=True, verify=False)


def test_tables_are_not_copied(tmp_path):
    wide = np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)
    codec = VectorQuantizer(4096, init=wide, learning="fixed").fit(wide[:9])
    codec.init = "random"  # of which the file would have a copy
    skvq.save(codec, tmp_path / "codec")
    for settings, most in (({}, 1.3), ({"mmap": True, "verify": False}, 0.2)):
        tracemalloc.start()
        skvq.load(tmp_path / "codec", **settings)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < most * wide.nbytes


def test_objects_are_behind_those_that_they_refer_to():
    objects, _ = save_objects(make_pipeline(StandardScaler(), vq()).fit(X))
    assert objects[-1]["class"] == "sklearn.pipeline.Pipeline"
    assert all(
        text.count('"object"') <= i for i, text in enumerate(map(json.dumps, objects))
    )
