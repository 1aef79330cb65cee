#!/usr/bin/env python3
"""Print the versions that results depend on, of the Python that runs this.

python .ci/versions.py
"""

import platform
import sys
from importlib.metadata import version

PACKAGES = {"NumPy": "numpy", "SciPy": "scipy", "scikit-learn": "scikit-learn"}
PACKAGES |= {"joblib": "joblib"}


if __name__ == "__main__":
    if sys.argv[1:]:
        print("versions.py takes no arguments.", file=sys.stderr)
        raise SystemExit(2)
    found = [f"{name} {version(package)}" for name, package in PACKAGES.items()]
    print(f"Python {platform.python_version()}:", ", ".join(found))
