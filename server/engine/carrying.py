"""How a prompt's vectors reach the device: on a GPU over a stream of their own, while steps go on. Copies, no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

Arrange = Callable[[torch.Tensor], torch.Tensor]


def as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    """Arrange nothing."""
    return tensor


class Carrier(Protocol):
    """Copies tensors to one device."""

    def moved(self, tensor: torch.Tensor, dtype: torch.dtype, arrange: Arrange = as_it_is) -> torch.Tensor:
        """Return the tensor, arranged, on the device; it may be used when the `carrying` around this has ended."""
        ...

    def carrying(self) -> AbstractContextManager[None]:
        """Copy and convert inside the block; behind it all is there, for every stream and thread."""
        ...


def carrier_to(device: torch.device) -> Carrier:
    """Return what copies to this device best."""
    return SideStream(device) if device.type == "cuda" else Plainly(device)


class Plainly:
    """Copies at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def moved(self, tensor: torch.Tensor, dtype: torch.dtype, arrange: Arrange = as_it_is) -> torch.Tensor:
        """See Carrier."""
        return arrange(tensor.to(self._device, dtype))

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """See Carrier."""
        yield


class SideStream:
    """Copies over a CUDA stream of its own: from page-locked memory, neither steps nor their kernels wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def moved(self, tensor: torch.Tensor, dtype: torch.dtype, arrange: Arrange = as_it_is) -> torch.Tensor:
        """See Carrier."""
        # Converted there: a copy that converts would do so on the host first, into memory that is not page-locked.
        moved = arrange(tensor.to(self._device, non_blocking=True).to(dtype))
        # Steps read it on theirs: its memory must not be given to the next copy before they have.
        moved.record_stream(torch.cuda.default_stream(self._device))
        return moved

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """See Carrier. The thread of the block waits: one that loads, or for a trial the one that runs it."""
        with torch.cuda.stream(self._stream):
            yield
            arrived = self._stream.record_event()
        # The steps' stream would wait with all who are served; this thread has nobody to serve.
        arrived.synchronize()
