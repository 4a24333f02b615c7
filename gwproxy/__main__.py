"""``python -m gwproxy``: the same as ``gwproxy``."""

import sys

from gwproxy.cli import main

sys.exit(main())
