# Two images from one recipe:
#   docker build --target api .        API, janitor and courier: no torch
#   docker build --target worker .     with torch; CUDA comes with PyPI's wheel. For a machine without a GPU:
#     --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# No heredoc, COPY --link or --start-interval: buildah 1.28 (Debian 12) builds this too.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS base
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

# What pyproject.toml asks for, in the versions of the lock, without our code: these layers change
# only with those two.
FROM base AS packages
COPY pyproject.toml deploy/requirements.py deploy/lock.txt /src/
RUN python -m venv /venv

FROM packages AS api-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    python /src/requirements.py /src/pyproject.toml api courier > /src/wanted.txt \
    && pip install --disable-pip-version-check -c /src/lock.txt -r /src/wanted.txt

FROM packages AS worker-packages
ARG TORCH_INDEX_URL=""
RUN --mount=type=cache,target=/root/.cache/pip \
    python /src/requirements.py /src/pyproject.toml worker > /src/wanted.txt \
    && pip install --disable-pip-version-check -c /src/lock.txt \
       ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r /src/wanted.txt

FROM base AS api
COPY --from=api-packages /venv /venv
COPY --chown=10001:10001 jobs jobs
COPY --chown=10001:10001 api api
COPY --chown=10001:10001 worker worker
COPY --chown=10001:10001 models/models.toml models/models.toml
# the first API key is kept here (docker-compose.yml): a volume inherits owner and mode
RUN mkdir -m 700 /keys && chown 10001:10001 /keys
ENV PRINTWORKS_API_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=2); c.request('GET', '/livez'); assert c.getresponse().status == 200"]
CMD ["python", "-m", "api"]

FROM base AS worker
COPY --from=worker-packages /venv /venv
# measured capacities, waiting pictures and downloaded models outlive the container: volumes inherit the owner
RUN mkdir -p /state /hub && chown 10001:10001 /state /hub
COPY --chown=10001:10001 jobs jobs
COPY --chown=10001:10001 worker worker
COPY --chown=10001:10001 deploy/worker_health.py deploy/worker_health.py
COPY --chown=10001:10001 models models
ENV HF_HOME=/hub \
    PRINTWORKS_WORKER_STATE_DIR=/state/engine \
    PRINTWORKS_WORKER_SPOOL_DIR=/state/spool \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
HEALTHCHECK --interval=20s --timeout=10s --start-period=120s \
    CMD ["python", "-m", "deploy.worker_health"]
CMD ["python", "-m", "worker", "gpu"]
