"""From an inference call to its HTTP answer, one or streamed, measured on the way. Judges no input itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from prompt_store.errors import SoftmuxError
from server.api.context import RequestContext, context_of
from server.api.disconnect import while_connected
from server.api.errors import Problem, problem_of
from server.api.refusals import ClientGoneError
from server.api.schemas.infer import answer_json
from server.api.services import Services
from server.api.sse import Event, EventStream
from server.inference.answer import Answer, DoneEvent, ErrorEvent, InferCall, TokenEvent
from server.inference.service import AnswerStream
from server.telemetry.metrics import Metrics

UNKNOWN_KIND = "unknown"


async def respond(request: Request, services: Services, call: InferCall) -> Response:
    """Answer one call in the form that its parameters ask for. A client that leaves cancels it."""
    if call.parameters.get("stream") is not True:
        return JSONResponse(answer_json(await answered(request, services, call)))
    with _counted_problems(request, services, call):
        return await _stream(request, services, call)


async def answered(request: Request, services: Services, call: InferCall) -> Answer:
    """Answer one call, counted whether it ends well or not. A client that leaves cancels it."""
    with _counted_problems(request, services, call):
        answer = await while_connected(request.receive, services.parts.inference.infer(call))
    count_answer(services.metrics, answer)
    return answer


@contextmanager
def _counted_problems(request: Request, services: Services, call: InferCall) -> Iterator[None]:
    context = context_of(request.scope)
    context.task = str(call.ref)
    try:
        yield
    except SoftmuxError as error:
        count_problem(services.metrics, problem_of(error))
        context.client_left = isinstance(error, ClientGoneError)
        raise


async def _stream(request: Request, services: Services, call: InferCall) -> EventStream:
    stream = await while_connected(request.receive, services.parts.inference.stream(call))
    clock = TokenClock(services.metrics, context_of(request.scope).arrived)
    return EventStream(_events(stream, context_of(request.scope), clock), stream.aclose)


async def _events(stream: AnswerStream, context: RequestContext, clock: TokenClock) -> AsyncIterator[Event]:
    async for event in stream:
        match event:
            case TokenEvent():
                clock.token()
                yield "token", _token_json(event)
            case DoneEvent(answer):
                count_answer(clock.metrics, answer)
                yield "done", answer_json(answer)
            case ErrorEvent(error):
                problem = problem_of(error)
                context.problem = problem.type
                count_problem(clock.metrics, problem)
                yield "error", problem.body(context.task, context.request_id)


def _token_json(token: TokenEvent) -> dict[str, Any]:
    body: dict[str, Any] = {"index": token.index, "text": token.text, "token_id": token.token_id}
    return body if token.logprob is None else body | {"logprob": token.logprob}


@dataclass(slots=True)
class TokenClock:
    """Measure the time to the first token, and between tokens."""

    metrics: Metrics
    last: float
    is_first: bool = True

    def token(self) -> None:
        """Note one token."""
        now = time.monotonic()
        histogram = self.metrics.time_to_first_token if self.is_first else self.metrics.inter_token
        histogram.observe(now - self.last)
        self.last, self.is_first = now, False


def count_answer(metrics: Metrics, answer: Answer) -> None:
    """Count one answer and where its time went."""
    timing = answer.timing
    phases = {"load": timing.load_ms, "queue": timing.queue_ms, "step": timing.step_ms, "total": timing.total_ms}
    for phase, milliseconds in phases.items():
        metrics.request_seconds.labels(answer.kind, phase).observe(milliseconds / 1000)
    metrics.requests.labels(answer.kind, "200").inc()
    metrics.traffic.count(str(answer.task))


def count_problem(metrics: Metrics, problem: Problem) -> None:
    """Count one call without an answer. Its task may not exist, so it gets no series of its own."""
    metrics.requests.labels(UNKNOWN_KIND, str(problem.status)).inc()
    if problem.status in (429, 503):
        metrics.rejections.labels(problem.type).inc()
