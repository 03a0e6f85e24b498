"""Every error this project raises, as one tree, and what a caller may do about each.

RasdError
├── RequestError            the request is at fault; HTTP 4xx, nothing was started
│   ├── InvalidRequest          400  a value is out of range or of the wrong type
│   ├── UnsupportedParameter    400  a parameter this server does not implement
│   ├── Unauthorized            401  no key, or an unknown one
│   ├── Forbidden               403  the key may not read a corpus it asked for
│   ├── NotFound                404  no such model, route or corpus
│   ├── BodyTimeout             408  the body did not arrive in time
│   ├── Conflict                409  it exists already, and is different
│   ├── PayloadTooLarge         413  the body is over its limit; refused before parsing
│   └── Overloaded              429  running and queued requests are at their limit; retry later
├── ServerError             the service is at fault; the request may be sent again
│   ├── Unavailable             503  starting, draining or restarting
│   ├── StoreLocked             503  another process writes to this corpus, or took it over
│   ├── StorageError            507  the storage root refuses a write: full, or read-only
│   └── DeadlineExceeded        504  the request waited or ran longer than its deadline
├── ConfigError             a setting is wrong; refused at start, named
├── ModelError              a model, drafter or tokenizer cannot be loaded
│   └── UnsupportedModel        it loads, but we cannot run it losslessly; the reason is named
├── SegmentError            a file of a corpus is refused; the service goes on without it
│   ├── SegmentCorrupt          wrong magic, length or checksum
│   ├── SegmentVersionError     written by a newer version
│   └── TokenizerMismatch       made with another tokenizer
├── StageError              a stage did not answer; speculation goes on without it
│   ├── StageTimeout            its deadline passed
│   └── StageUnavailable        its process is gone or its breaker is open
├── KVExhausted             no free page for keys and values; the scheduler sets a sequence back
└── WireError               a message is malformed, oversized or lacks the application's secret
"""

from __future__ import annotations


class RasdError(Exception):
    """Root of the tree. Messages give the limit and the value."""


class RequestError(RasdError):
    """The request is at fault.

    Attributes:
        status: HTTP status code.
        param: name of the offending parameter, if one is to blame.
        code: short machine-readable reason.
    """

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """A value is out of range or of the wrong type."""

    code = "invalid_value"


class UnsupportedParameter(RequestError):
    """A parameter this server does not implement; never ignored silently."""

    code = "unsupported_parameter"


class Unauthorized(RequestError):
    """No key, or an unknown one."""

    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    """The key may not read what it asked for."""

    status = 403
    code = "forbidden"


class NotFound(RequestError):
    """No such model, route or corpus."""

    status = 404
    code = "not_found"


class BodyTimeout(RequestError):
    """The body did not arrive in time; nothing was started."""

    status = 408
    code = "request_timeout"


class Conflict(RequestError):
    """It exists already, and is different."""

    status = 409
    code = "conflict"


class PayloadTooLarge(RequestError):
    """The body is over its limit; it was not parsed."""

    status = 413
    code = "payload_too_large"


class Overloaded(RequestError):
    """Running and queued requests are at their limit. Retry after ``retry_after_s`` seconds."""

    status = 429
    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerError(RasdError):
    """The service is at fault; the request may be sent again."""

    status = 500
    code = "server_error"


class Unavailable(ServerError):
    """Starting, draining or restarting."""

    status = 503
    code = "unavailable"


class StoreLocked(ServerError):
    """Another process writes to this corpus, or has taken it over; nothing was written."""

    status = 503
    code = "store_locked"


class StorageError(ServerError):
    """The storage root refuses a write: it is full or read-only. What was there is untouched."""

    status = 507
    code = "storage_error"


class DeadlineExceeded(ServerError):
    """The request waited or ran longer than its deadline."""

    status = 504
    code = "deadline_exceeded"


class ConfigError(RasdError):
    """A setting is wrong; refused at start, named."""


class ModelError(RasdError):
    """A model, drafter or tokenizer cannot be loaded."""


class UnsupportedModel(ModelError):
    """The model loads, but we cannot run it losslessly; the message names the reason."""


class SegmentError(RasdError):
    """A file of a corpus is refused; the message names the file and the field."""


class SegmentCorrupt(SegmentError):
    """Wrong magic, length or checksum."""


class SegmentVersionError(SegmentError):
    """Written by a newer version of the format."""


class TokenizerMismatch(SegmentError):
    """Made with another tokenizer or vocabulary."""


class StageError(RasdError):
    """A stage did not answer; text goes on without it."""


class StageTimeout(StageError):
    """The stage's deadline passed.

    Attributes:
        counted: whether the stage keeps away from its own silent parts, so that this is no
            reason to keep away from all of it.
    """

    def __init__(self, message: str, *, counted: bool = False) -> None:
        super().__init__(message)
        self.counted = counted


class StageUnavailable(StageError):
    """The stage's process is gone, or its breaker is open."""


class KVExhausted(RasdError):
    """No free page for keys and values. The scheduler sets a sequence back and retries."""


class WireError(RasdError):
    """A message is malformed, oversized or lacks the application's secret."""
