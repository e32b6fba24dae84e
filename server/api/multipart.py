"""Read a publish's multipart body part by part: known names only, each with its cap. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.api.refusals import BodyTooLargeError, MalformedRequestError

MAX_PART_HEADER_BYTES = 4096
FILE_PART = "weights"
# A checkpoint's own JSON and our manifest; the rest are names and flags.
FIELD_CAPS: Mapping[str, int] = {
    "config": 1 << 20,
    "manifest": 1 << 20,
    "alias": 128,
    "base_version": 128,
    "force": 8,
    "task": 300,  # of a plan only
}


class MultipartReader:
    """Take a body in chunks of any size. `weights` goes to `file`, every other part into `fields`."""

    def __init__(self, content_type: bytes, file: BinaryIO) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise MalformedRequestError("the multipart content type names no boundary", "content-type")
        self.fields: dict[str, bytearray] = {}
        self.has_file = False
        self._file = file
        self._part = ""
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._is_complete = False
        self._parser = _parser(boundary, self)

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes. Raises MalformedRequestError, BodyTooLargeError."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedRequestError(f"the multipart body does not parse: {error}") from error

    def finish(self) -> None:
        """Say that no more bytes will come. Raises MalformedRequestError when the closing boundary is missing."""
        if not self._is_complete:
            raise MalformedRequestError("the multipart body ends before its closing boundary: was it cut off?")

    def on_part_begin(self) -> None:
        """Forget the part before."""
        self._part, self._disposition = "", b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """Collect a header's name."""
        self._collect(self._header_name, data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Collect a header's value."""
        self._collect(self._header_value, data[start:end])

    def on_header_end(self) -> None:
        """Keep the one header that matters."""
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def on_headers_finished(self) -> None:
        """Learn which part begins, and refuse one that is unknown or comes twice."""
        name = parse_options_header(self._disposition)[1].get(b"name", b"").decode("utf-8", "replace")
        if name != FILE_PART and name not in FIELD_CAPS:
            known = ", ".join([FILE_PART, *FIELD_CAPS])
            raise MalformedRequestError(f"unknown part {name[:80]!r}: the parts of a publish are {known}", name[:80])
        if name in self.fields or (name == FILE_PART and self.has_file):
            raise MalformedRequestError(f"part {name!r} comes twice", name)
        self._part = name
        if name == FILE_PART:
            self.has_file = True
        else:
            self.fields[name] = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Keep a piece of the part."""
        if self._part == FILE_PART:
            self._file.write(data[start:end])
            return
        field = self.fields[self._part]
        field += data[start:end]
        if len(field) > FIELD_CAPS[self._part]:
            raise BodyTooLargeError(f"part {self._part!r} is over its cap of {FIELD_CAPS[self._part]} bytes")

    def on_end(self) -> None:
        """Note the closing boundary."""
        self._is_complete = True

    def _collect(self, into: bytearray, piece: bytes) -> None:
        into += piece
        if len(into) > MAX_PART_HEADER_BYTES:
            raise MalformedRequestError(f"a part's header is over {MAX_PART_HEADER_BYTES} bytes")


def _parser(boundary: bytes, reader: MultipartReader) -> MultipartParser:
    return MultipartParser(
        boundary,
        {
            "on_part_begin": reader.on_part_begin,
            "on_header_field": reader.on_header_field,
            "on_header_value": reader.on_header_value,
            "on_header_end": reader.on_header_end,
            "on_headers_finished": reader.on_headers_finished,
            "on_part_data": reader.on_part_data,
            "on_end": reader.on_end,
        },
    )
