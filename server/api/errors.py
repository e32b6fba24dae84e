"""From errors to HTTP: the one table, and the one shape. Nothing else in the server chooses a status for an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from prompt_store import errors as store
from prompt_store.errors import ArtifactError, SoftmuxError
from server.api import refusals
from server.api.context import context_of
from server.engine import errors as engine
from server.inference.errors import RequestError
from server.text.errors import TextError

RETRY_AFTER_S = 2
OPENAI_PATHS = frozenset({"/v1/embeddings"})
"""The routes that speak OpenAI's protocol, errors too."""

# An error takes the row of its nearest ancestor. The root and the branches that nobody raises have none on purpose:
# a test walks every subclass, so a new error cannot be forgotten here.
STATUS: Mapping[type[SoftmuxError], tuple[int, str]] = {
    store.InvalidNameError: (400, "invalid_name"),
    RequestError: (400, "invalid_request"),
    refusals.MalformedRequestError: (400, "invalid_request"),
    TextError: (400, "invalid_request"),
    engine.NeverFitsError: (400, "never_fits"),
    refusals.UnauthenticatedError: (401, "unauthenticated"),
    refusals.ForbiddenError: (403, "forbidden"),
    store.TaskNotFoundError: (404, "task_not_found"),
    store.VersionNotFoundError: (404, "version_not_found"),
    store.AliasNotFoundError: (404, "alias_not_found"),
    store.NotFoundError: (404, "not_found"),
    refusals.SlowBodyError: (408, "slow_body"),
    store.ConflictError: (409, "conflict"),
    store.SerialConflictError: (412, "serial_conflict"),
    refusals.BodyTooLargeError: (413, "too_large"),
    store.TooLargeError: (413, "too_large"),
    store.QuotaError: (413, "quota_exceeded"),
    refusals.MediaTypeError: (415, "unsupported_media_type"),
    store.MalformedFileError: (422, "malformed_file"),
    store.ManifestError: (422, "invalid_manifest"),
    store.CheckpointError: (422, "unknown_checkpoint"),
    store.NoSoftPromptError: (422, "no_soft_prompt"),
    store.UnservedMethodError: (422, "unserved_method"),
    store.UnreadPrefixError: (422, "unread_prefix"),
    store.TrainedBackboneError: (422, "trained_backbone"),
    store.MissingLayerError: (422, "missing_layer"),
    store.WrongStackError: (422, "wrong_stack"),
    store.UnfitError: (422, "unfit_artifact"),
    store.MisshapenError: (422, "misshapen"),
    store.BadValuesError: (422, "bad_values"),
    store.NoPositionsError: (422, "no_positions"),
    store.TrialError: (422, "trial_failed"),
    store.ArtifactError: (422, "invalid_artifact"),
    engine.QueueFullError: (429, "queue_full"),
    refusals.OverloadedError: (429, "overloaded"),
    refusals.ClientGoneError: (499, "client_gone"),
    store.StoreCorruptError: (500, "store_corrupt"),
    engine.NonFiniteError: (500, "prompt_nonfinite"),
    engine.BackboneRefusedError: (500, "backbone_refused"),
    engine.ResidencyFullError: (503, "residency_full"),
    engine.LoadingError: (503, "prompt_loading"),
    engine.OutOfMemoryError: (503, "out_of_memory"),
    engine.DeadlineError: (503, "deadline_exceeded"),
    engine.EngineDeadError: (503, "engine_dead"),
    store.StoreFullError: (503, "store_full"),
    store.StoreUnavailableError: (503, "store_unavailable"),
    refusals.DrainingError: (503, "draining"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as HTTP tells it. The envelope is the route family's; these are the facts."""

    status: int
    type: str
    message: str
    param: str | None = None
    reasons: tuple[str, ...] = ()
    retry_after_s: int | None = None

    def body(self, task: str | None, request_id: str | None) -> dict[str, object]:
        """Return the native envelope."""
        facts: dict[str, object] = {
            "type": self.type,
            "message": self.message,
            "param": self.param,
            "task": task,
            "request_id": request_id,
        }
        if self.reasons:
            facts["reasons"] = list(self.reasons)
        return {"error": facts}

    def openai_body(self) -> dict[str, object]:
        """Return OpenAI's envelope: `code` is our type, in its own word for a task that is not there."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        facts: dict[str, object] = {
            "message": self.message,
            "type": "rate_limit_error" if self.status == 429 else kind,
            "param": self.param,
            "code": "model_not_found" if self.type == "task_not_found" else self.type,
        }
        return {"error": facts}


INTERNAL = Problem(500, "internal", "the server failed; its log has the cause under this request_id")


def problem_of(error: SoftmuxError) -> Problem:
    """Translate an error by its nearest ancestor in STATUS; one that is not there is our own fault: 500."""
    row = next((STATUS[ancestor] for ancestor in type(error).__mro__ if ancestor in STATUS), None)
    if row is None:
        return INTERNAL
    status, kind = row
    return Problem(
        status,
        kind,
        str(error),
        param=getattr(error, "param", None),
        reasons=error.reasons if isinstance(error, ArtifactError) else (),
        retry_after_s=getattr(error, "retry_after_s", RETRY_AFTER_S) if status in (429, 503) else None,
    )


class _ProblemResponse(JSONResponse):
    def render(self, content: object) -> bytes:
        # A message may quote half of a surrogate pair that a client spelled in JSON; that is no reason to fail.
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")


def problem_response(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Answer with the route's envelope; ours names the request and, where it is known, its task."""
    context = context_of(request.scope)
    context.problem = problem.type
    is_openai = request.scope["path"] in OPENAI_PATHS
    body = problem.openai_body() if is_openai else problem.body(context.task, context.request_id)
    response = _ProblemResponse(body, problem.status, headers)
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    return response


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error that a route can raise. What is left over is caught by the outermost middleware."""
    app.add_exception_handler(SoftmuxError, _on_softmux_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_softmux_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SoftmuxError)
    return problem_response(request, problem_of(error))


async def _on_invalid_body(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [(_path(fault["loc"]), str(fault["msg"])) for fault in error.errors()]
    reasons = tuple(dict.fromkeys(f"{path}: {message}" for path, message in faults))
    return problem_response(
        request, Problem(400, "invalid_request", "; ".join(reasons), param=faults[0][0], reasons=reasons)
    )


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kinds = {404: "route_not_found", 405: "method_not_allowed", 400: "invalid_request"}
    problem = Problem(error.status_code, kinds.get(error.status_code, "refused"), str(error.detail))
    return problem_response(request, problem, error.headers)


def _path(location: tuple[int | str, ...]) -> str:
    parts = location[1:] if location and location[0] == "body" else location
    return ".".join(map(str, parts)) or "(body)"
