"""Contract of API and worker: spec, record, keys, scripts, events, blobs, settings.

`api` and `worker` meet only here. This package knows Redis, RQ and S3; it must not know
HTTP frameworks or torch (import-linter holds that).
"""
