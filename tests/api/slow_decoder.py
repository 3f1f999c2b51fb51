"""The decoder, which two pictures of its own bring to a stand: `hang` waits, `burn` computes.

Run as api/uploads/decoder.py is: python -m tests.api.slow_decoder PIXELS
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from api.uploads import decoder

REAL = decoder.decode


def decode(data: bytes, **how: Any) -> dict[str, Any]:
    if data == b"hang":
        threading.Event().wait()
    while data == b"burn":
        pass
    return REAL(data, **how)


if __name__ == "__main__":
    decoder.decode = decode
    decoder._BASE_CPU_S = 0.5
    decoder.serve(sys.stdin.buffer, sys.stdout.buffer, max_pixels=int(sys.argv[1]))
