"""Run cases through an engine, each row alone and all rows of all cases in the same steps, and compare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from engine_cases import load_request, random_ids

from fidelity.case import Case, Cell, Ids, NoReference, NoReferenceError, Outcome, Refused, Served, max_error
from prompt_store.errors import SoftmuxError
from prompt_store.validate import validate
from server.engine.bringing import Bringing
from server.engine.decoder_rows import running_row
from server.engine.engine import Engine
from server.engine.residency import Resident
from server.engine.rows import RunningRow
from server.engine.step import RowResult
from server.engine.trial import Trial
from server.engine.types import LoadRequest, RowInput, SamplingParams, Token

LENGTHS = (1, 5, 13, 24)  # on both sides of a window of 8
NUM_NEW = 4
WRITING = SamplingParams(max_new_tokens=NUM_NEW, ignore_eos=True, num_logprobs=5)


@dataclass(frozen=True)
class Text:
    """One text for one case, as the engine takes it, and the training code's answer to it."""

    case: Case
    ids: Ids
    row: RowInput
    resident: Resident
    wanted: torch.Tensor  # of written text just the first step's logits
    scale: float  # the largest entry of all answers to this case's texts: one may be next to nothing


def measure(engine: Engine, arch: str, cases: Iterable[Case]) -> list[Cell]:
    """Return a cell for each case."""
    outcomes: list[tuple[Case, Outcome | list[Text]]] = [(case, _prepared(engine, case)) for case in cases]
    texts = [text for _, prepared in outcomes if isinstance(prepared, list) for text in prepared]
    mixed = iter(_errors(texts, _answers(engine, texts)))
    cells = []
    for case, prepared in outcomes:
        if isinstance(prepared, list):
            together = [next(mixed) for _ in prepared]
            apart = [_errors([text], _answers(engine, [text]))[0] for text in prepared]
            outcome: Outcome = Served(max_error(apart), max_error(together))
        else:
            outcome = prepared
        cells.append(Cell(case.family, arch, case.head, case.variant, outcome))
    return cells


def _prepared(engine: Engine, case: Case) -> Outcome | list[Text]:
    """Bring a case as a push would, its trial included, and ask its training code for every answer."""
    bringing = Bringing(engine._backbone)
    try:
        request = _request(case, engine)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        rows = [(ids, case.row(request, ids)) for ids in _texts()]
        trial = Trial(bringing, engine._stepper, engine.spec)
        for _ in trial.passes(request, bringing.part_keys(request), rows[1][1]):
            pass
    except NoReferenceError as error:
        return NoReference(str(error))
    except SoftmuxError as error:
        return Refused(type(error).__name__, str(error))
    kept = replace(case, live=cache(case.live))  # the same text is asked for alone and mixed
    try:
        wanted = [kept.live(tuple(ids)) for ids, _ in rows]
    except NoReferenceError as error:
        return NoReference(str(error))
    scale = max(float(answer.abs().max()) for answer in wanted)
    return [Text(kept, ids, row, resident, answer, scale) for (ids, row), answer in zip(rows, wanted, strict=True)]


def _request(case: Case, engine: Engine) -> LoadRequest:
    artifact = case.artifact(engine.spec)
    validate(artifact, engine.spec)
    request = load_request("case", artifact, case.reading)
    return request if case.leading is None else replace(request, leading=case.leading)


def _texts() -> Iterator[list[int]]:
    return (random_ids(length, seed) for seed, length in enumerate(LENGTHS))


def _answers(engine: Engine, texts: Sequence[Text]) -> list[RowResult | list[Token]]:
    """Run all texts in the same steps: those that write stay for NUM_NEW of them."""
    shape = engine._backbone.shape
    rows = [running_row(text.resident, text.row, WRITING, shape) for text in texts]
    writing = [row for row in rows if row.is_generating]
    for row in writing:
        row.take_slots(engine._memory)
    results = engine._stepper.run(rows) if rows else []
    by_row = dict(zip(map(id, rows), results, strict=True))
    _write(engine, writing, by_row)
    for row in writing:
        row.release_slots(engine._memory)
    return [list(row.written) if row.is_generating else by_row[id(row)] for row in rows]


def _write(engine: Engine, rows: Sequence[RunningRow], first: dict[int, RowResult]) -> None:
    results = [first[id(row)] for row in rows]
    for step in range(NUM_NEW):
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Token):
                row.write(result, frozenset())
        if rows and step + 1 < NUM_NEW:
            results = engine._stepper.run(rows)


def _errors(texts: Sequence[Text], answers: Sequence[RowResult | list[Token]]) -> list[float]:
    return [
        _written_error(text, answer) if isinstance(answer, list) else _read_error(text, answer)
        for text, answer in zip(texts, answers, strict=True)
    ]


def _read_error(text: Text, found: RowResult) -> float:
    """Return the largest error as a share of the scale; infinite for a failure or another shape."""
    if isinstance(found, torch.Tensor) and text.case.answer is not None:
        found = text.case.answer(found)
    if not isinstance(found, torch.Tensor) or found.shape != text.wanted.shape:
        return math.inf
    return float((found - text.wanted).abs().max()) / text.scale


def _written_error(text: Text, tokens: Sequence[Token]) -> float:
    """Compare the log-probabilities of each step; a token that is not the best is off by what it lacks."""
    if len(tokens) != NUM_NEW:
        return math.inf
    errors: list[float] = []
    written: list[int] = []
    for token in tokens:
        logits = text.case.behind(tuple(text.ids), tuple(written))
        logprobs = logits.log_softmax(-1)
        errors.append(float(logits.max() - logits[token.token_id]))
        errors += [abs(logprob - float(logprobs[one])) for one, logprob in token.top_logprobs.items()]
        written.append(token.token_id)
    return max_error(errors) / text.scale
