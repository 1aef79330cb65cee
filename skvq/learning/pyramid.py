"""Names that files and pickles of versions before 0.2 look for here."""

from skvq.coding.pyramid import Pyramid, Smoothing  # noqa: F401
