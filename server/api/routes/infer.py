"""Routes of inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse, Response

from prompt_store.errors import SoftmuxError
from prompt_store.refs import TaskRef
from server.api.auth import Caller, TenantCaller, tenant_access
from server.api.context import RequestContext, context_of
from server.api.disconnect import while_connected
from server.api.errors import problem_of
from server.api.inference import count_answer, count_problem, respond
from server.api.limits import Deadline, inference_permit
from server.api.paths import PathRef
from server.api.refusals import MalformedRequestError
from server.api.schemas.common import ERRORS
from server.api.schemas.infer import BatchAnswer, BatchBody, InferAnswer, InferBody, TaskInferBody, answer_json
from server.api.services import Services, ServicesOf
from server.inference.answer import Answer, InferCall
from server.telemetry.metrics import Metrics

_GUARDS = [Depends(tenant_access), Depends(inference_permit)]
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": InferAnswer,
        "description": "The answer; with `parameters.stream` the events `token`, then `done` or `error`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}

router = APIRouter(prefix="/v1", dependencies=_GUARDS, responses=ERRORS, tags=["inference"])
task_router = APIRouter(dependencies=_GUARDS, responses=ERRORS, tags=["inference"])


async def sticky_key(
    request: Request,
    services: ServicesOf,
    key: Annotated[
        str | None,
        Header(alias="X-Softmux-Sticky", max_length=256, description="The same value gets the same weighted version."),
    ] = None,
) -> str | None:
    """Return what keeps a caller on one version: the header of the settings, else our own."""
    return request.headers.get(services.settings.sticky_header) or key


Sticky = Annotated[str | None, Depends(sticky_key)]


@router.post("/infer", response_model=None, responses=_ANSWERS)
async def infer(
    request: Request,
    body: InferBody,
    caller: TenantCaller,
    services: ServicesOf,
    deadline: Deadline,
    sticky: Sticky = None,
) -> Response:
    """Answer one request of any kind of task."""
    context_of(request.scope).task = body.task_id
    return await respond(request, services, _call(caller.ref(body.task_id), body, sticky, deadline))


@router.post("/infer/batch", response_model=BatchAnswer)
async def infer_batch(
    request: Request,
    body: BatchBody,
    caller: TenantCaller,
    services: ServicesOf,
    deadline: Deadline,
    sticky: Sticky = None,
) -> JSONResponse:
    """Answer requests of different tasks in one call: each gets its own answer or its own error, in order."""
    place = CallPlace(caller, sticky, deadline)
    wanted = [_call_or_error(place, item, index) for index, item in enumerate(body.requests)]
    calls = [call for call in wanted if isinstance(call, InferCall)]
    answers = iter(await _answer_all(request, services, calls) if calls else ())
    results = [next(answers) if isinstance(item, InferCall) else item for item in wanted]
    context = context_of(request.scope)
    pairs = zip(body.requests, results, strict=True)
    return JSONResponse(
        {"results": [_shown(services.metrics, context, item.task_id, result) for item, result in pairs]}
    )


@task_router.post("/infer", response_model=None, responses=_ANSWERS)
async def infer_task(
    request: Request,
    body: TaskInferBody,
    ref: PathRef,
    services: ServicesOf,
    deadline: Deadline,
    sticky: Sticky = None,
) -> Response:
    """Answer one request of the task in the path."""
    return await respond(request, services, _call(ref, body, sticky, deadline))


async def _answer_all(
    request: Request, services: Services, calls: list[InferCall]
) -> tuple[Answer | SoftmuxError, ...]:
    return await while_connected(request.receive, services.parts.inference.infer_batch(calls))


def _call(ref: TaskRef, body: TaskInferBody, sticky: str | None, deadline: float) -> InferCall:
    return InferCall(ref, body.inputs, body.parameters, sticky or body.user, deadline)


@dataclass(frozen=True, slots=True)
class CallPlace:
    """What the requests of one batch share."""

    caller: Caller
    sticky: str | None  # of those that name no user of their own
    deadline: float


def _call_or_error(place: CallPlace, body: InferBody, index: int) -> InferCall | SoftmuxError:
    if body.parameters.get("stream"):
        return MalformedRequestError(
            "a batch does not stream: send this request to /v1/infer", f"requests.{index}.parameters.stream"
        )
    try:
        ref = place.caller.ref(body.task_id)
        return _call(ref, body, body.user or place.sticky, place.deadline)
    except SoftmuxError as error:
        return error


def _shown(metrics: Metrics, context: RequestContext, task: str, result: Answer | SoftmuxError) -> dict[str, Any]:
    if isinstance(result, SoftmuxError):
        problem = problem_of(result)
        count_problem(metrics, problem)
        return problem.body(task, context.request_id)
    count_answer(metrics, result)
    return answer_json(result)
