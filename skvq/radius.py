"""Where files and pickles of versions before 0.2 look for codes of a length."""

from skvq.coding.radius import Float32Radius, RadiusCode, ScalarRadius  # noqa: F401
