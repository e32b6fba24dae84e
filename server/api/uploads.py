"""From a request's body to an `Upload`: streamed to a private temporary file, counted, capped. Judges no checkpoint."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from starlette.requests import Request

from prompt_store.refs import LIVE, Alias, parse_alias, parse_version
from server.api.middleware import refuse_declared, too_large
from server.api.multipart import MultipartReader
from server.api.refusals import ClientGoneError, MalformedRequestError, MediaTypeError, SlowBodyError
from server.publishing import Upload
from server.settings import Limits

ARTIFACT_TYPE = "application/vnd.softmux.artifact"
MULTIPART_TYPE = "multipart/form-data"
QUERY_FIELDS = frozenset({"alias", "force", "task"})


async def read_upload(request: Request, limits: Limits) -> Upload:
    """Read a publish's body, whichever of the two forms it has.

    Raises MediaTypeError, MalformedRequestError, BodyTooLargeError, SlowBodyError, InvalidNameError, ClientGoneError.
    """
    received = await _read(request, limits)
    if "task" in received.fields:
        raise MalformedRequestError("a publish's task stands in its path; only a plan has a part 'task'", "task")
    return received.upload()


async def read_plan(request: Request, limits: Limits) -> tuple[str | None, Upload]:
    """Read a dry run's body: a publish's, and maybe the task it is for. Raises like `read_upload`."""
    received = await _read(request, limits)
    return received.text("task"), received.upload()


@dataclass(frozen=True, slots=True)
class _Received:
    """A body's parts as they came; for a raw artifact the fields stand in the query."""

    fields: Mapping[str, bytes]
    weights: bytes | None = None
    artifact: bytes | None = None

    def text(self, name: str) -> str | None:
        try:
            return self.fields[name].decode() if name in self.fields else None
        except UnicodeDecodeError as error:
            raise MalformedRequestError(f"part {name!r} is not UTF-8", name) from error

    def flag(self, name: str) -> bool:
        text = self.text(name)
        if text not in (None, "", "true", "false"):
            raise MalformedRequestError(f"{name} is {text!r}: expected true or false", name)
        return text == "true"

    def upload(self) -> Upload:
        base = self.text("base_version")
        return Upload(
            weights=self.weights,
            artifact=self.artifact,
            config=self.fields.get("config"),
            manifest=self.fields.get("manifest"),
            alias=_alias(self.text("alias")),
            base_version=parse_version(base) if base else None,
            force=self.flag("force"),
        )


async def _read(request: Request, limits: Limits) -> _Received:
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    refuse_declared(request.headers, limits.max_upload_bytes)
    with tempfile.TemporaryFile() as file:
        if media_type == MULTIPART_TYPE:
            return await _multipart(request, limits, MultipartReader(content_type.encode("latin-1"), file), file)
        if media_type == ARTIFACT_TYPE:
            return await _artifact(request, limits, file)
    raise MediaTypeError(f"content type {media_type[:80]!r} is not read here: send {MULTIPART_TYPE} or {ARTIFACT_TYPE}")


async def _multipart(request: Request, limits: Limits, reader: MultipartReader, file: BinaryIO) -> _Received:
    await _receive(request, limits, reader.feed)
    reader.finish()
    weights = await asyncio.to_thread(_contents, file) if reader.has_file else None
    return _Received({name: bytes(value) for name, value in reader.fields.items()}, weights=weights)


async def _artifact(request: Request, limits: Limits, file: BinaryIO) -> _Received:
    def write(chunk: bytes) -> None:
        file.write(chunk)

    unknown = sorted(set(request.query_params) - QUERY_FIELDS)
    if unknown:
        raise MalformedRequestError(f"unknown query {unknown[0][:80]!r}: an artifact takes {sorted(QUERY_FIELDS)}")
    await _receive(request, limits, write)
    fields = {name: value.encode("utf-8", "replace") for name, value in request.query_params.items()}
    return _Received(fields, artifact=await asyncio.to_thread(_contents, file))


async def _receive(request: Request, limits: Limits, take: Callable[[bytes], None]) -> None:
    num_bytes, more = 0, True
    while more:
        chunk, more = await _chunk(request, limits.chunk_timeout_s)
        # Counted here as well: Content-Length may lie or be absent.
        num_bytes += len(chunk)
        if num_bytes > limits.max_upload_bytes:
            raise too_large(limits.max_upload_bytes)
        await asyncio.to_thread(take, chunk)


async def _chunk(request: Request, chunk_timeout_s: float) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(chunk_timeout_s):
            message = await request.receive()
    except TimeoutError:
        raise SlowBodyError(f"no byte of the upload arrived for {chunk_timeout_s:g} s") from None
    if message["type"] == "http.disconnect":
        raise ClientGoneError("the client left during its upload")
    return message.get("body", b""), message.get("more_body", False)


def _contents(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _alias(text: str | None) -> Alias | None:
    if text is None:
        return LIVE
    return parse_alias(text) if text else None
