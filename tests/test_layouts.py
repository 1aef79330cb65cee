"""Fitted estimators that versions before this one have stored.

``data/codecs_of_versions_1_and_2.npz.xz`` holds, for each of these versions of codec
files, small codecs of every scheme, fitted on X: the bytes of the file; the codes,
reconstructions and bounded values of the first rows; and the codebooks after one batch
more of a stream.  ``data/codecs_of_version_3.npz.xz`` holds codecs of skvq before
pickles were given up, on an X of their own: the files, codes and reconstructions.
``data/codecs_of_old_names.npz.xz`` holds the same of codecs of version 4, from before
some parameters were renamed.
"""

import io
import lzma
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline

import skvq
from skvq import FiniteScalarQuantizer, UniformQuantizer, VectorQuantizer
from skvq._deprecation import IN_FILES
from skvq.io import FormatError, codec_info, save
from skvq.nearest import HOST

pytest.importorskip("numpy._core.numeric")  # where the pickles have arrays from
DATA = Path(__file__).parent / "data"


def stored(name):
    with np.load(io.BytesIO(lzma.decompress((DATA / name).read_bytes()))) as archive:
        return dict(archive)


STORED = stored("codecs_of_versions_1_and_2.npz.xz")
X = STORED["X"]
NAMES = sorted(key.removesuffix("/codec") for key in STORED if key.endswith("/codec"))
STREAMS = [name for name in NAMES if f"{name}/after" in STORED]
every_codec = pytest.mark.parametrize("name", NAMES)


def kept(name):
    return STORED[f"{name}/codec"].tobytes()


def load(path):
    """Load a codec of whatever scikit-learn, but of no other skvq."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?!.*skvq)", InconsistentVersionWarning)
        return skvq.load(path, allow_pickle=True)


@pytest.fixture
def codec(name, tmp_path):
    (tmp_path / "old").write_bytes(kept(name))
    return load(tmp_path / "old")


def check_close(found, key):
    np.testing.assert_allclose(found, STORED[key], rtol=1e-5, atol=1e-6)


def check_codes(codec, name):
    """Compare with what has been stored, in the library that the codec is of."""
    home = getattr(codec, "_home_", HOST)
    rows = X[:12] * np.float32(2.0**110 if name.endswith("scaled") else 1)
    codes = codec.transform(home.like(rows))
    np.testing.assert_array_equal(home.to_host(codes), STORED[f"{name}/codes"])
    check_close(home.to_host(codec.inverse_transform(codes)), f"{name}/X_quant")
    if f"{name}/bounded" in STORED:
        check_close(codec.bounded_values(rows), f"{name}/bounded")


@every_codec
def test_old_codecs_are_converted(name, codec, tmp_path):
    assert kept(name)[8:10] == struct.pack("<H", int(name[0]))
    check_codes(codec, name)
    save(codec, tmp_path / "new")
    assert (tmp_path / "new").read_bytes()[8:9] == b"{"
    check_codes(load(tmp_path / "new"), name)
    sizes = codec_info(tmp_path / "old")["codebook_sizes"]
    assert codec_info(tmp_path / "new")["codebook_sizes"] == sizes


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@every_codec
def test_attributes_are_those_of_today(name, codec):
    for old in codec[-1:] if isinstance(codec, Pipeline) else [codec]:
        new = clone(old).fit(STORED["X"][:, : old.n_features_in_])
        # The library of the samples, the unit of weights, which version 1 had not, what
        # scalar levels were learned from, how often codes were, and what is made anew.
        may_differ = {"_home_", "_weight_unit_", "_seen_", "code_counts_"}
        may_differ |= set(getattr(old, "_made_anew", ()))
        assert vars(old).keys() ^ vars(new).keys() <= may_differ
        for attribute in vars(old).keys() & vars(new).keys():
            assert type(vars(old)[attribute]) is type(vars(new)[attribute])


@pytest.mark.parametrize("name", STREAMS)
def test_old_streams_go_on(name, codec):
    codec.partial_fit(codec._home_.like(X[1:6]))
    tables = [codec._home_.to_host(table).ravel() for table in codec.codebooks_]
    check_close(np.concatenate(tables), f"{name}/after")


@pytest.mark.parametrize("name", ["1/product-shared", "2/residual-shared"])
def test_what_was_shared_is_shared(name, codec):
    first, second = codec.quantizers_
    assert first is second


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("shared")])
def test_a_shared_table_is_one(name, codec):
    assert len({id(table) for table in codec.codebooks_}) == 1


def test_pickles_of_no_version_are_refused():
    with pytest.raises(pickle.UnpicklingError, match="_skvq_version=None"):
        VectorQuantizer().__setstate__({})


def test_codecs_of_version_3_load(tmp_path):
    later, path = stored("codecs_of_version_3.npz.xz"), tmp_path / "codec"
    names = [key.removesuffix("/codec") for key in later if key.endswith("/codec")]
    assert len(names) == 17
    for name in names:
        path.write_bytes(later[f"{name}/codec"].tobytes())
        assert codec_info(path)["details"] == {"note": name}
        with pytest.raises(FormatError, match=r"version 3 .*allow_pickle=True"):
            skvq.load(path)
        codec = load(path)
        codes = codec.transform(later["X"][:12])
        np.testing.assert_array_equal(codes, later[f"{name}/codes"])
        found, expected = codec.inverse_transform(codes), later[f"{name}/X_quant"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# -- names of before -------------------------------------------------------------------

NAMED = stored("codecs_of_old_names.npz.xz")
OLD_NAMES = sorted(key.split("/")[0] for key in NAMED if key.endswith("/codec"))


def test_the_files_have_every_old_name():
    found = {name: set() for name in IN_FILES}
    for name in OLD_NAMES:
        header = NAMED[f"{name}/codec"].tobytes().decode("latin-1")
        for cls in IN_FILES:
            if f"skvq.{cls}" in header:
                found[cls] |= {old for old in IN_FILES[cls] if f'"{old}\\"' in header}
    assert found == {name: set(names) for name, names in IN_FILES.items()}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_names_are_read(name, tmp_path):
    path, later = tmp_path / "codec", tmp_path / "later"
    path.write_bytes(NAMED[f"{name}/codec"].tobytes())
    codec = skvq.load(path)
    save(codec, later)
    for one in (codec, skvq.load(later)):
        codes = one.transform(NAMED["X"][:12])
        np.testing.assert_array_equal(codes, NAMED[f"{name}/codes"])
        found, expected = one.inverse_transform(codes), NAMED[f"{name}/X_quant"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    same = clone(codec).fit(NAMED["X"])
    np.testing.assert_array_equal(same.transform(NAMED["X"][:12]), codes)


def test_old_names_in_pickles_are_read():
    new = FiniteScalarQuantizer(5, squash="cdf").fit(NAMED["X"])
    state = new.__getstate__()
    state |= {"levels": state.pop("n_levels"), "bound": state.pop("squash")}
    again = object.__new__(FiniteScalarQuantizer)
    again.__setstate__(state)
    assert again.get_params() == new.get_params()

    class Own(UniformQuantizer):
        """With a parameter of an old name."""

        def __init__(self, n_levels=3, *, density=2.0):
            super().__init__(n_levels)
            self.density = density

    own = object.__new__(Own)
    own.__setstate__(Own(density=3.0).__getstate__())
    assert own.density == 3.0
