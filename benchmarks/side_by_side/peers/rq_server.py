"""FastAPI and stock RQ: a job a request, SimpleWorkers that keep the pipeline in memory."""

import base64
import functools
import os
import subprocess
import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from redis import Redis
from rq import Queue, SimpleWorker

URL = os.environ["PEER_REDIS_URL"]


@functools.cache
def painter():
    """Return the pipeline, loaded by the first job and kept in memory."""
    from pipeline import Painter

    return Painter()


def work(asked):
    (png,) = painter().paint([asked])
    return base64.b64encode(png).decode()


def main(port):
    app, queue = FastAPI(), Queue("peer", connection=Redis.from_url(URL))

    @app.post("/generate")
    async def generate(request: Request):
        asked = await request.json()
        job = await run_in_threadpool(queue.enqueue, "rq_server.work", asked, result_ttl=600)
        return {"id": job.id}

    @app.get("/result/{job_id}")
    async def result(job_id: str):
        job = await run_in_threadpool(queue.fetch_job, job_id)
        if job is None or job.is_failed:
            return Response(status_code=500)
        if not job.is_finished:
            return Response(status_code=202)
        png = base64.b64decode(await run_in_threadpool(job.return_value))
        return Response(png, media_type="image/png")

    workers = [
        subprocess.Popen([sys.executable, __file__, "worker"])
        for _ in range(int(os.environ.get("PROCESSES", "1")))
    ]
    try:
        uvicorn.run(app, port=port, log_level="error")
    finally:
        for worker in workers:
            worker.kill()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        connection = Redis.from_url(URL)
        SimpleWorker(["peer"], connection=connection).work(logging_level="ERROR")
    else:
        main(int(sys.argv[1]))
