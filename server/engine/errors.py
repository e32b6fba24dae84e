"""What the engine can refuse or fail with.

SoftmuxError
└── EngineError
    ├── QueueFullError        no room to wait; retry later
    ├── ResidencyFullError    no room on the device beside what is leased or pinned; retry later
    ├── LoadingError          the soft prompt is still on its way to the device; retry later
    ├── NeverFitsError        longer than this backbone or its memory can ever take
    ├── EngineDeadError       the worker has ended; the process is about to be replaced
    ├── NonFiniteError        this row's logits were NaN or infinite
    ├── OutOfMemoryError      this row did not fit even alone
    ├── DeadlineError         the row's time ran out
    └── BackboneRefusedError  this backbone cannot be served exactly; said at start
"""

from __future__ import annotations

from prompt_store.errors import SoftmuxError


class EngineError(SoftmuxError):
    """The engine could not do what it was asked."""


class QueueFullError(EngineError):
    """No room to wait; retry after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ResidencyFullError(EngineError):
    """The device has no room for this soft prompt beside those that are leased or pinned; retrying can help."""


class LoadingError(EngineError):
    """The soft prompt is still on its way to the device, and goes on coming; retry after `retry_after_s` seconds."""

    retry_after_s = 1


class NeverFitsError(EngineError):
    """The row is longer than this backbone or its memory can ever take."""


class EngineDeadError(EngineError):
    """The worker has ended; the process is about to be replaced."""


class NonFiniteError(EngineError):
    """The row's logits were NaN or infinite. Its neighbours are untouched."""


class OutOfMemoryError(EngineError):
    """The row did not fit on the device even alone."""


class DeadlineError(EngineError):
    """The row's time ran out before its answer."""


class BackboneRefusedError(EngineError):
    """This backbone cannot be served exactly."""
