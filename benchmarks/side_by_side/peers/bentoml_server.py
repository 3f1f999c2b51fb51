"""BentoML with adaptive batching: `batchable=True`, at most 16 requests a batch."""

import os
import sys
import typing as t
from pathlib import Path

import bentoml
from pipeline import Painter


@bentoml.service(
    workers=int(os.environ.get("PROCESSES", "1")),
    traffic={"timeout": 600, "max_concurrency": 128},
)
class Server:
    def __init__(self):
        self.painter = Painter()

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=600_000, route="/batch")
    def batch(self, asked: t.List[t.Dict[str, t.Any]]) -> t.List[str]:  # noqa: UP006
        import base64

        return [base64.b64encode(png).decode() for png in self.painter.paint(asked)]


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent)
    os.execv(
        Path(sys.executable).with_name("bentoml"),
        ["bentoml", "serve", "bentoml_server:Server", "--port", sys.argv[1], "--host", "127.0.0.1"],
    )
