"""Ray Serve with @serve.batch: 16 requests a batch, 20 ms to fill it."""

import os
import sys
import threading
from pathlib import Path

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(
    num_replicas=int(os.environ.get("PROCESSES", "1")),
    max_ongoing_requests=64,
    ray_actor_options={"num_cpus": 0.1},
)
class Server:
    def __init__(self):
        from pipeline import Painter

        self.painter = Painter()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.02)
    async def paint(self, asked):
        return self.painter.paint(asked)

    async def __call__(self, request: Request):
        return Response(await self.paint(await request.json()), media_type="image/png")


if __name__ == "__main__":
    path = str(Path(__file__).resolve().parent)
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": path}}, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Server.bind(), route_prefix="/generate")
    threading.Event().wait()
