"""`python -m nightly` is `.ci/nightly`."""

import sys

from nightly.schedule import main

sys.exit(main())
