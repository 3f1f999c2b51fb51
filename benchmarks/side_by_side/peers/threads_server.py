"""Threads over one pipeline: FastAPI's own thread pool, one call of the pipeline a request."""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from pipeline import Painter

app, painter = FastAPI(), Painter()


@app.post("/generate")
async def generate(request: Request):
    (png,) = await run_in_threadpool(painter.paint, [await request.json()])
    return Response(png, media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
