"""Translation of botocore's errors: callers decide by class, never by botocore's strings.

Owns the sorting of answers into those about one request (`BlobRefused`), the object (`BlobMissing`)
and the whole store (`BlobsUnavailable`), and the advice of each. Knows no client. Invariant: the
store's own code is in every message.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from jobs.errors import BlobMissing, BlobsUnavailable

_KEYS = "check PRINTWORKS_S3_ACCESS_KEY and PRINTWORKS_S3_SECRET_KEY"
_RIGHTS = (
    "give the key s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket; "
    "where it keeps versions, s3:ListBucketVersions and s3:DeleteObjectVersion, too"
)
_BUCKET = "make the bucket, or check PRINTWORKS_S3_BUCKET"
_REGION = "check PRINTWORKS_S3_REGION and PRINTWORKS_S3_ENDPOINT"
_STYLE = "set PRINTWORKS_S3_ADDRESSING=virtual"
_PACE = "object storage wants fewer requests; Printworks tries again"

# Errors of the whole store: the next request would be answered the same. Advice by code.
STORE_WIDE = {
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": f"{_KEYS}, and that no proxy changes the Host header or the path",
    "ExpiredToken": "the credentials have run out: renew them",
    "InvalidToken": _KEYS,
    "TokenRefreshRequired": "the credentials have run out: renew them",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoSuchBucket": _BUCKET,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "SecondLevelDomainForbidden": _STYLE,
    "PathStyleDomainForbidden": _STYLE,
    "VirtualHostDomainRequired": _STYLE,
    "SlowDown": _PACE,
    "ServiceUnavailable": _PACE,
    "RequestLimitExceeded": _PACE,
    "Throttling": _PACE,
    "TooManyRequests": _PACE,
}
# Errors of one request; a HEAD has no body, so botocore gives its status as the code.
_ADVICE = {"AccessDenied": _RIGHTS, "403": f"{_KEYS}; {_RIGHTS}"}
_BUSY = {429, 503}
_UNREACHABLE = {
    "NoCredentialsError": _KEYS,
    "PartialCredentialsError": _KEYS,
    "ProxyConnectionError": "the proxy of this environment does not answer: name the store's host "
    "in NO_PROXY, or unset HTTP_PROXY and HTTPS_PROXY",
    "SSLError": "the certificate is not trusted: set AWS_CA_BUNDLE to a file of trusted ones",
}


class BlobRefused(BlobsUnavailable):
    """Object storage refuses this one request; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


@contextmanager
def translated() -> Generator[None]:
    """Translate botocore's errors to BlobMissing, BlobRefused or BlobsUnavailable."""
    try:
        yield
    except ClientError as error:
        raise _answered(error) from error
    except BotoCoreError as error:
        name = type(error).__name__
        raise BlobsUnavailable(_said(f"is unavailable: {name}", _UNREACHABLE.get(name))) from error


def _answered(error: ClientError) -> BlobsUnavailable:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in {"404", "NoSuchKey"}:
        return BlobMissing(f"object storage has no such object ({code})")
    if code in STORE_WIDE or status in _BUSY:
        return BlobsUnavailable(_said(f"refuses: {code}", STORE_WIDE.get(code, _PACE)))
    return BlobRefused(_said(f"refuses: {code}", _ADVICE.get(code)), status=status)


def _said(what: str, advice: str | None) -> str:
    return f"object storage {what}" + (f"; {advice}" if advice else "")
