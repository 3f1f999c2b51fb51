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
    Group,
    Image,
    Input,
    Job,
    JobOptions,
    JobPage,
    JobRequest,
    Model,
    OutputOptions,
    Queue,
    Quote,
    Sampler,
    Usage,
    UsageEntry,
    WebhookOptions,
)
from printworks.webhook_types import Delivery, Webhook

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "AsyncClient",
    "Busy",
    "Client",
    "Delivery",
    "Event",
    "FieldProblem",
    "Gone",
    "Group",
    "Image",
    "Input",
    "InvalidRequest",
    "Job",
    "JobNotSucceeded",
    "JobOptions",
    "JobPage",
    "JobRequest",
    "Model",
    "NotAllowed",
    "NotFound",
    "OutputOptions",
    "PrintworksError",
    "Queue",
    "Quote",
    "Sampler",
    "ServiceFault",
    "Unreachable",
    "Usage",
    "UsageEntry",
    "WaitTimeout",
    "Webhook",
    "WebhookOptions",
]
