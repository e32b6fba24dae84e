"""What crosses to a GPU and back: prompts over a stream of their own, and a step's answers at once."""

from __future__ import annotations

import pytest
import torch

from server.engine.carrying import Plainly, SideStream, carrier_to
from server.engine.crossing import land, send

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")
LONG = 1 << 31  # cycles: about a second


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(0, 1).contiguous()


def test_prompts_arrive_as_plain_copies_do_while_the_steps_stream_works() -> None:
    carrier, vectors = carrier_to(CUDA), torch.randn(512, 64).pin_memory()
    assert isinstance(carrier, SideStream)
    busy = torch.cuda.Event()
    torch.cuda._sleep(LONG)
    busy.record()
    with carrier.carrying():
        moved = carrier.moved(vectors, torch.bfloat16, transposed)
    assert not busy.query()  # it has arrived before what was asked of the steps' stream is done
    torch.cuda.synchronize()
    assert torch.equal(moved.cpu(), transposed(Plainly(torch.device("cpu")).moved(vectors, torch.bfloat16)))


def test_numbers_are_sent_without_waiting_and_answers_land_together() -> None:
    busy = torch.cuda.Event()
    torch.cuda._sleep(LONG)
    busy.record()
    sent = [send([3, 1 << 40], CUDA), send([[0.5], [0.25]], CUDA, torch.float64), send([1], CUDA).bool()]
    assert not busy.query()
    found = land([*sent, torch.empty(0, 7, device=CUDA)])
    assert [one.tolist() for one in found] == [[3, 1 << 40], [[0.5], [0.25]], [True], []]
    assert {one.device.type for one in found} == {"cpu"}
