"""Names that codec files of versions 1 and 2 look for here."""

from skvq.coding.pyramid import Pyramid, Smoothing  # noqa: F401
