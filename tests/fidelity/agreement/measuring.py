"""Ask softmux and the training code the same rows in float32 and in bfloat16, and count the answers that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fidelity.agreement.prompt import Peer, Prompt
from fidelity.agreement.serving import Served, Written, serve
from fidelity.case import Ids, max_error
from fidelity.report import ALLOWED

PEER_BATCH = 16
ALMOST_ALL = 0.999


@dataclass(frozen=True)
class Half:
    """bfloat16 beside the training code in float32: the answers that are the same, and how far the logits are off.

    `error` is the root of the mean square of all logits' errors, as a share of the reference's; None: text was written.
    """

    num_same: int
    error: float | None


@dataclass(frozen=True)
class Agreement:
    """What came of one prompt."""

    prompt: Prompt
    num_answers: int
    num_same: int  # of softmux in float32
    worst: float | None  # largest error of softmux in float32, as a share of the reference's largest entry
    softmux: Half | None = None  # in bfloat16
    peer: Half | None = None

    @property
    def is_exact(self) -> bool:
        """Whether softmux in float32 answers as the training code does; a tie of two choices may fall either way."""
        return self.num_same >= ALMOST_ALL * self.num_answers and (self.worst is None or self.worst <= ALLOWED)


Serve = Callable[[Prompt, str], Served]


@torch.inference_mode()
def measure(prompt: Prompt, is_half: bool, served: Serve = serve) -> Agreement:
    """Measure one prompt; in float32 alone unless `is_half`."""
    return _measure_text(prompt, is_half, served) if prompt.num_new else _measure_choices(prompt, is_half, served)


def _measure_choices(prompt: Prompt, is_half: bool, served: Serve) -> Agreement:
    wanted = _of_peer(prompt, prompt.peer(torch.float32), prompt.rows, 1)
    found = served(prompt, "float32").logits()
    scale = max(float(one.abs().max()) for one in wanted)
    worst = max_error(float((a - b).abs().max()) / scale for a, b in zip(found, wanted, strict=True))
    best = _best(wanted)
    agreement = Agreement(prompt, len(best), _num_same(_best(found), best), worst)
    if not is_half:
        return agreement
    ours = served(prompt, "bfloat16").logits()
    theirs = _of_peer(prompt, prompt.peer(torch.bfloat16), prompt.rows, 1)
    return replace(agreement, softmux=_half(ours, wanted), peer=_half(theirs, wanted))


def _half(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> Half:
    ours, theirs = torch.cat([one.flatten() for one in found]), torch.cat([one.flatten() for one in wanted])
    error = float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())
    return Half(_num_same(_best(found), _best(wanted)), error)


def _measure_text(prompt: Prompt, is_half: bool, served: Serve) -> Agreement:
    written = served(prompt, "float32").written()
    best = _next_tokens(prompt, torch.float32, written)
    agreement = Agreement(prompt, len(best), _num_same([token for row in written for token in row], best), None)
    if not is_half:
        return agreement
    ours = [token for row in served(prompt, "bfloat16").written(written) for token in row]
    theirs = _next_tokens(prompt, torch.bfloat16, written)
    return replace(agreement, softmux=Half(_num_same(ours, best), None), peer=Half(_num_same(theirs, best), None))


def _next_tokens(prompt: Prompt, dtype: torch.dtype, written: Sequence[Written]) -> list[int]:
    """Return the token that the training code would write at each place of what was written."""
    rows = [(*ids, *tokens[:-1]) for ids, tokens in zip(prompt.rows, written, strict=True)]
    return _best(_of_peer(prompt, prompt.peer(dtype), rows, prompt.num_new))


def _of_peer(prompt: Prompt, peer: Peer, rows: Sequence[Ids], keep: int) -> list[torch.Tensor]:
    """Return [places, choices] of each row; only equally long rows are asked together, so that no pad is in any."""
    by_length: dict[int, list[int]] = {}
    for place, ids in enumerate(rows):
        by_length.setdefault(len(ids), []).append(place)
    answers: dict[int, torch.Tensor] = {}
    for same in by_length.values():
        for places in (same[start : start + PEER_BATCH] for start in range(0, len(same), PEER_BATCH)):
            logits = peer(torch.tensor([rows[place] for place in places]), keep)
            if prompt.columns is not None:
                logits = logits[..., list(prompt.columns)]
            answers.update(zip(places, logits.float(), strict=True))
    return [answers[place] for place in range(len(rows))]


def _best(logits: Sequence[torch.Tensor]) -> list[int]:
    return [choice for row in logits for choice in row.argmax(-1).tolist()]


def _num_same(found: Sequence[int], wanted: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(found, wanted, strict=True))
