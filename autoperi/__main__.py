"""``python -m autoperi``: the command line."""

import sys

from autoperi.cli.main import main

sys.exit(main())
