"""`python -m engine` is the command `ddis`."""

import sys

from engine.apps.cli import main

sys.exit(main())
