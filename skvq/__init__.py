"""Vector quantization for scikit-learn: every scheme, one contract.

A quantizer maps x to the nearest row of a codebook.  The modules are named after the
four questions that a quantizer answers: what shape the codebook has (`vector`,
`product`, `residual`, `kronecker`, `multiscale`; `rotated` and `scaled` in front of any
of them), where it comes from (`learning`, and the fixed codebooks of `grid`, `finite`,
`trellis`, `sphere` and `binary`), how the argmin is computed (`nearest`), and what is
lost (`losses`, `metrics`, `model_selection`).
"""

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
