"""Where files and pickles of versions before 0.2 look for a pyramid."""

from skvq.coding.pyramid import Pyramid, Smoothing  # noqa: F401
