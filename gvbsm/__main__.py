"""`python -m gvbsm` is `gvbsm`."""

import sys

from gvbsm.cli import main

sys.exit(main())
