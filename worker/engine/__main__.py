"""`python -m worker.engine FD`: how the link starts the engine's process."""

from __future__ import annotations

import sys

from worker.engine.process import main

sys.exit(main(int(sys.argv[1])))
