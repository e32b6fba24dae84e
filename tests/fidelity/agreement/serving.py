"""Ask softmux every row of a prompt, in steps of many rows, alone in none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from engine_cases import SETTINGS, Counted, load_request

from fidelity.agreement.prompt import Layout, Prompt
from fidelity.case import Ids
from prompt_store.artifact import Artifact
from prompt_store.validate import validate
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.residency import Resident
from server.engine.rows import RunningRow
from server.engine.types import RowInput, SamplingParams, Token

ROWS_A_STEP = 16
Written = Sequence[int]


@dataclass(frozen=True)
class Served:
    """A prompt that is resident on an engine."""

    engine: Engine
    prompt: Prompt
    resident: Resident

    def logits(self) -> list[torch.Tensor]:
        """Return [places, choices] of each row."""
        answers = []
        for batch in _batches(self.prompt.rows):
            found = self.engine._stepper.run([self._row(ids) for ids in batch])
            answers += [_read(one) for one in found]
        return answers

    def written(self, forced: Sequence[Written] | None = None) -> list[list[int]]:
        """Return the tokens of each row, greedily; `forced` stand in the text in their place, one after the other."""
        said = []
        for index, batch in enumerate(_batches(self.prompt.rows)):
            start = index * ROWS_A_STEP
            said += self._write(batch, forced[start : start + len(batch)] if forced else None)
        return said

    def _write(self, batch: Sequence[Ids], forced: Sequence[Written] | None) -> list[list[int]]:
        rows = [self._row(ids) for ids in batch]
        for row in rows:
            assert row.take_slots(self.engine._memory)
        said: list[list[int]] = [[] for _ in rows]
        for step in range(self.prompt.num_new):
            results = self.engine._stepper.run(rows)
            for place, (row, token) in enumerate(zip(rows, results, strict=True)):
                assert isinstance(token, Token), token
                said[place].append(token.token_id)
                row.write(replace(token, token_id=forced[place][step]) if forced else token, frozenset())
        for row in rows:
            row.release_slots(self.engine._memory)
        return said

    def _row(self, ids: Ids) -> RunningRow:
        sampling = SamplingParams(max_new_tokens=max(self.prompt.num_new, 1), ignore_eos=True)
        return RunningRow(self.resident, _laid_out(self.prompt.layout, ids), sampling, self.engine.spec.vocab_size)


def serve(prompt: Prompt, dtype: str) -> Served:
    """Open the prompt's backbone in `dtype` and bring the prompt."""
    engine = Engine.open(str(prompt.directory), replace(SETTINGS, dtype=dtype), Counted())
    return bring(engine, prompt)


def bring(engine: Engine, prompt: Prompt) -> Served:
    """Bring a prompt to an engine as a push would."""
    artifact = Artifact.from_bytes(prompt.artifact(engine.spec).to_bytes())
    validate(artifact, engine.spec)
    request = load_request("prompt", artifact, prompt.reading)
    request = replace(request, leading=(None,) * prompt.layout.leading)
    bringing = Bringing(engine._backbone)
    return Served(engine, prompt, bringing.bring(request, bringing.part_keys(request), {}).resident)


def _laid_out(layout: Layout, ids: Ids) -> RowInput:
    shape = [*layout.before, *ids, *layout.after]
    soft = tuple(place for place, token in enumerate(shape) if token is None)
    return RowInput(tuple(token or 0 for token in shape), soft)


def _batches(rows: Sequence[Ids]) -> Iterator[Sequence[Ids]]:
    return (rows[start : start + ROWS_A_STEP] for start in range(0, len(rows), ROWS_A_STEP))


def _read(found: object) -> torch.Tensor:
    assert isinstance(found, torch.Tensor), found
    return found if found.dim() == 2 else found[None]
