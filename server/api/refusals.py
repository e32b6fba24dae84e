"""What HTTP itself refuses, before any part behind it is asked.

SoftmuxError
└── RefusedError
    ├── MalformedRequestError   the body, a header or a query parameter does not parse
    ├── UnauthenticatedError    no credential, or one that is not known
    ├── ForbiddenError          this caller may not do this
    ├── SlowBodyError           the body took too long to arrive
    ├── BodyTooLargeError       over the cap of this route
    ├── MediaTypeError          a content type or encoding that this route does not read
    ├── OverloadedError         no permit is free
    ├── DrainingError           this replica takes no new work
    └── ClientGoneError         nobody is left to answer
"""

from __future__ import annotations

from prompt_store.errors import SoftmuxError


class RefusedError(SoftmuxError):
    """HTTP refused the request."""


class MalformedRequestError(RefusedError):
    """The body, a header or a query parameter does not parse; `param` says where."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnauthenticatedError(RefusedError):
    """No credential, or one that is not known."""


class ForbiddenError(RefusedError):
    """This caller may not do this."""


class SlowBodyError(RefusedError):
    """The body took too long to arrive."""


class BodyTooLargeError(RefusedError):
    """The body is over the cap of this route."""


class MediaTypeError(RefusedError):
    """A content type or encoding that this route does not read."""


class OverloadedError(RefusedError):
    """No permit is free; retrying soon can help."""


class DrainingError(RefusedError):
    """This replica takes no new work; another one will."""


class ClientGoneError(RefusedError):
    """The client left before its answer."""
