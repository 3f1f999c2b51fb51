"""Entry point of the engine's process: `python -m worker.engine FD PARENT_PID`.

Owns the first moments: from its very first line the process dies with its parent, also while
torch is still being imported. Invariant: no orphan ever holds a GPU.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from importlib import import_module

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Have Linux kill this process when the thread that spawned it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died between spawn and here
            sys.exit(0)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    process = import_module("worker.engine.process")  # torch and diffusers: 6 s
    code = process.main(int(sys.argv[1]))
    logging.shutdown()
    os._exit(code)  # torch takes 2 s to tear itself down, and nothing is left to save
