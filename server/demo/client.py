"""The few requests that the demo makes to a running server. Knows no data and no prompt."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

# A publish is answered once its version is served, and a list of inputs may take a while on one core.
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
ARTIFACT_TYPE = "application/vnd.softmux.artifact"


class DemoError(RuntimeError):
    """The server did not do what the demo asked of it."""


class DemoClient:
    """A connection to the server at `url`. Use it in a `with`."""

    def __init__(self, url: str) -> None:
        # The demo serves on this machine, so a proxy meant for the internet must not stand in between.
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, trust_env=False)
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def backbone(self) -> dict[str, Any]:
        """Return what `GET /v1/backbone` says."""
        return self._ask("GET", "/v1/backbone")

    def push(self, task: str, files: dict[str, bytes]) -> dict[str, Any]:
        """Publish a checkpoint's `weights`, `config` and `manifest` under the alias `live`."""
        return self._ask("POST", f"/v1/tasks/{task}/versions", files=files)

    def push_artifact(self, task: str, artifact: bytes) -> dict[str, Any]:
        """Publish a canonical artifact under the alias `live`."""
        headers = {"Content-Type": ARTIFACT_TYPE}
        return self._ask("POST", f"/v1/tasks/{task}/versions", content=artifact, headers=headers)

    def infer(self, task: str, inputs: list[Any], parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """Return one output for each input."""
        body = {"task_id": task, "inputs": inputs, "parameters": dict(parameters or {})}
        answer = self._ask("POST", "/v1/infer", json=body)
        outputs: list[Any] = answer["outputs"]
        return outputs

    def delete(self, task: str) -> None:
        """Forget a task with its aliases."""
        self._ask("DELETE", f"/v1/tasks/{task}", params={"force": "true"})

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **request)
        except httpx.RequestError as error:
            raise DemoError(f"no server answers at {self._url} ({error}): start one with `make demo`") from error
        if not response.is_success:
            raise DemoError(f"{method} {path} was answered {response.status_code}: {_message(response)}")
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.text[:500]
