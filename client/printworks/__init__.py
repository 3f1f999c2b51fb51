"""The client of a Printworks service: text to pictures over HTTP.

    from printworks import Client

    with Client("http://127.0.0.1:8000") as printworks:
        job = printworks.generate("a red bicycle on a cobblestone street", seed=7)
        printworks.save(job.images[0], "bicycle.png")

Knows the HTTP contract (docs/openapi.json) and nothing of the service's code.
"""

from printworks.async_client import AsyncClient
from printworks.client import Client
from printworks.errors import (
    ApiError,
    Busy,
    FieldProblem,
    Gone,
    InvalidRequest,
    JobNotSucceeded,
    NotAllowed,
    NotFound,
    PrintworksError,
    ServiceFault,
    Unreachable,
    WaitTimeout,
)
from printworks.events import Event
from printworks.types import (
    Image,
    Job,
    JobOptions,
    JobPage,
    Model,
    OutputOptions,
    Quote,
    Sampler,
    Usage,
    UsageEntry,
    WebhookOptions,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "Busy",
    "Client",
    "Event",
    "FieldProblem",
    "Gone",
    "Image",
    "InvalidRequest",
    "Job",
    "JobNotSucceeded",
    "JobOptions",
    "JobPage",
    "Model",
    "NotAllowed",
    "NotFound",
    "OutputOptions",
    "PrintworksError",
    "Quote",
    "Sampler",
    "ServiceFault",
    "Unreachable",
    "Usage",
    "UsageEntry",
    "WaitTimeout",
    "WebhookOptions",
]
