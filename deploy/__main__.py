"""`python3 deploy COMMAND`: from a clone to a running Printworks, with Python and nothing else.

Owns only the check of the running Python's version, so this file must stay readable to Python 3.6.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Optional

OLDEST = (3, 11)


def _newer_python() -> Optional[str]:  # noqa: UP045 - Python 3.6 must read this
    """Return a Python on PATH that is new enough, where `python3` itself is not."""
    names = ("python3.14", "python3.13", "python3.12", "python3.11")
    return next((found for found in map(shutil.which, names) if found), None)


if sys.version_info < OLDEST:
    newer = _newer_python()
    if newer:
        os.execv(newer, [newer, *sys.argv])  # noqa: S606
    sys.exit(
        f"Printworks needs Python 3.11 or later; {sys.executable} is {sys.version.split()[0]}.\n"
        "Install a newer one (apt, brew, https://www.python.org/downloads), and run, for example,\n"
        "    python3.12 deploy up"
    )

if sys.platform == "win32":
    sys.exit("Valkey has no build for Windows: run this in WSL (https://learn.microsoft.com/wsl).")

# `python3 deploy` put this folder first; what it imports is `deploy.something`, as tests do
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from deploy.commands import main  # noqa: E402 - after the check and the path

sys.exit(main(sys.argv[1:]))
