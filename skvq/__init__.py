"""Vector quantization for scikit-learn: every scheme, one contract.

A quantizer maps x to the nearest row of a codebook.  The modules are named after the
four questions that a quantizer answers: what shape the codebook has (`vector`,
`product`, `residual`, `kronecker`, `multiscale`; `rotated` and `scaled` in front of any
of them), where it comes from (`learning`, and the fixed codebooks of `grid`, `finite`,
`trellis`, `sphere` and `binary`), how the argmin is computed (`nearest`), and what is
lost (`losses`, `metrics`, `model_selection`).  Modules that the estimators do without
are imported at first use: ``import skvq`` is enough for `skvq.metrics`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skvq._version import __version__
from skvq._versions import show_versions
from skvq.additive import AdditiveQuantizer
from skvq.binary import BinaryQuantizer
from skvq.features import QuantizedFeatures
from skvq.finite import FiniteScalarQuantizer
from skvq.grid import UniformQuantizer
from skvq.io import load, save
from skvq.kronecker import KroneckerQuantizer
from skvq.multiscale import MultiScaleQuantizer
from skvq.neighbors import QuantizedNeighbors
from skvq.product import ProductQuantizer
from skvq.residual import ResidualQuantizer
from skvq.rotated import RotatedQuantizer
from skvq.scaled import ScaledQuantizer
from skvq.sphere import SphericalQuantizer
from skvq.trellis import TrellisQuantizer
from skvq.vector import VectorQuantizer

__all__ = [
    "AdditiveQuantizer",
    "BinaryQuantizer",
    "FiniteScalarQuantizer",
    "KroneckerQuantizer",
    "MultiScaleQuantizer",
    "ProductQuantizer",
    "QuantizedFeatures",
    "QuantizedNeighbors",
    "ResidualQuantizer",
    "RotatedQuantizer",
    "ScaledQuantizer",
    "SphericalQuantizer",
    "TrellisQuantizer",
    "UniformQuantizer",
    "VectorQuantizer",
    "__version__",
    "load",
    "save",
    "show_versions",
]

# Those that the estimators need are there, the others come at first use.
_MODULES = frozenset(
    {
        "base",
        "binary",
        "codes",
        "display",
        "finite",
        "images",
        "interop",
        "io",
        "losses",
        "metrics",
        "model_selection",
        "nearest",
        "sphere",
    }
)

if TYPE_CHECKING:  # the same names; a test compares them
    from skvq import base as base
    from skvq import binary as binary
    from skvq import codes as codes
    from skvq import display as display
    from skvq import finite as finite
    from skvq import images as images
    from skvq import interop as interop
    from skvq import io as io
    from skvq import losses as losses
    from skvq import metrics as metrics
    from skvq import model_selection as model_selection
    from skvq import nearest as nearest
    from skvq import sphere as sphere
else:  # a checker that saw `__getattr__` would take every name for one of skvq

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'skvq' has no attribute {name!r}", name=name)
        return import_module(f"skvq.{name}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
