"""`python -m engine` is the command `ddis`."""

import sys

from engine.cli import main

sys.exit(main())
