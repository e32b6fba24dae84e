"""What a request can get wrong.

SoftmuxError
└── RequestError              the request is malformed; `param` says where
"""

from __future__ import annotations

from prompt_store.errors import SoftmuxError


class RequestError(SoftmuxError):
    """The request's inputs or parameters cannot be taken; `param` is the path of the field at fault."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param
