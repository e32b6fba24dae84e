"""The one place where the command line speaks HTTP. Answers are plain JSON; failures are `server.cli.errors`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from server.cli.errors import RefusedError, UnavailableError, UnreachableError

ARTIFACT_TYPE = "application/vnd.softmux.artifact"
# A publish is answered when the version is served, and a first answer may wait for its load: minutes, not seconds.
TIMEOUT = httpx.Timeout(600.0, connect=5.0)


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: dict[str, Any]


class Client:
    """A connection to one softmux server. Use it in a `with`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/")
        # The server is named by the user; a proxy meant for the internet must not stand before 127.0.0.1.
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=TIMEOUT, trust_env=not _is_local(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """Return the JSON of a GET. Raises RefusedError, UnavailableError, UnreachableError."""
        return self._call(self._http.build_request("GET", path, params=params))

    def send(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """Send a JSON body and return the JSON of the answer. Raises like `get`."""
        return self._call(self._http.build_request(method, path, json=body))

    def upload(self, path: str, files: Mapping[str, Any], fields: Mapping[str, str]) -> Any:
        """Send a multipart form, streamed from its files, and return the JSON of the answer. Raises like `get`."""
        return self._call(self._http.build_request("POST", path, files=files, data=dict(fields)))

    def upload_artifact(self, path: str, params: Mapping[str, str], artifact: Iterable[bytes]) -> Any:
        """Send a canonical artifact as it is and return the JSON of the answer. Raises like `get`."""
        headers = {"Content-Type": ARTIFACT_TYPE}
        return self._call(self._http.build_request("POST", path, params=params, content=artifact, headers=headers))

    def download(self, path: str, take: Callable[[bytes], object], start: Callable[[int | None], object]) -> None:
        """Hand the bytes of a GET to `take` as they come; `start` hears how many are announced. Raises like `get`."""
        response = self._send(self._http.build_request("GET", path))
        try:
            if response.is_error:
                response.read()
                raise _refusal(response)
            start(int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None)
            for chunk in response.iter_bytes():
                take(chunk)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Event]:
        """Yield the server-sent events of a POST as they come. Raises like `get`."""
        request = self._http.build_request("POST", path, json=body)
        response = self._send(request)
        try:
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield from _parse_events(_lines(response.iter_text()))
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def _call(self, request: httpx.Request) -> Any:
        response = self._send(request)
        try:
            response.read()
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        finally:
            response.close()
        if not response.is_success:
            raise _refusal(response)
        return _json(response)

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._http.send(request, stream=True)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.RequestError) -> UnreachableError:
        what = "timed out" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
        return UnreachableError(
            f"no softmux server answers at {self._url} ({what}): start one with `softmux demo` or `softmux serve`, "
            "or name another with --url or SOFTMUX_URL"
        )


def _is_local(url: str) -> bool:
    try:
        return httpx.URL(url).host in ("localhost", "127.0.0.1", "::1")
    except httpx.InvalidURL:
        return False


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise UnavailableError(
            response.status_code,
            {"type": "not_softmux", "message": f"{response.url} answered, but not as softmux does: is the URL right?"},
        ) from None


def _refusal(response: httpx.Response) -> RefusedError | UnavailableError:
    answer = _json(response)
    detail = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(detail, str):
        detail = {"message": detail}
    elif not isinstance(detail, dict):
        detail = {"message": f"{response.url} answered {response.status_code}: {str(answer)[:500]}"}
    kind = UnavailableError if response.status_code == 429 or response.is_server_error else RefusedError
    return kind(response.status_code, detail)


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    # httpx's own lines also end at U+2028 and its like, which a generated text may well hold.
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole


def _parse_events(lines: Iterator[str]) -> Iterator[Event]:
    """Read the event stream format (WHATWG HTML, section 9.2.6) as far as the server uses it: one `data` an event."""
    name, data = "message", ""
    for line in lines:
        field, _, value = line.rstrip("\r").partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data = value.strip()
        elif not field and data:
            yield Event(name, _event_data(data))
            name, data = "message", ""


def _event_data(data: str) -> dict[str, Any]:
    try:
        read = json.loads(data)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise UnavailableError(200, {"type": "not_softmux", "message": f"this is no event of softmux: {data[:200]}"})
    return read
