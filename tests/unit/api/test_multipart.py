"""A multipart body means the same however it is cut into chunks."""

from __future__ import annotations

import contextlib
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.multipart import MultipartReader
from server.api.refusals import MalformedRequestError, RefusedError

TYPE = b"multipart/form-data; boundary=B"
WEIGHTS = bytes(range(256)) * 3 + b"\r\n--B-\r\n--"
BODY = (
    b'--B\r\nContent-Disposition: form-data; name="weights"; filename="w"\r\nContent-Type: x/y\r\n\r\n'
    + WEIGHTS
    + b'\r\n--B\r\nContent-Disposition: form-data; name="alias"\r\n\r\nlive\r\n--B--\r\n'
)


def read(chunks: list[bytes]) -> tuple[bytes, dict[str, bytearray]]:
    file = io.BytesIO()
    reader = MultipartReader(TYPE, file)
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()
    return file.getvalue(), reader.fields


@given(st.lists(st.integers(1, len(BODY)), max_size=12))
def test_chunks_do_not_matter(cuts: list[int]) -> None:
    ends = sorted({0, len(BODY), *cuts})
    assert read([BODY[a:b] for a, b in itertools.pairwise(ends)]) == (WEIGHTS, {"alias": bytearray(b"live")})


@given(st.integers(0, len(BODY) - 5))
def test_a_body_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(MalformedRequestError):
        read([BODY[:end]])


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(RefusedError):
        read([raw])


@given(st.binary(max_size=100), st.integers(0, len(BODY)))
def test_any_bytes_inside_are_read_or_refused(raw: bytes, at: int) -> None:
    with contextlib.suppress(RefusedError):
        read([BODY[:at] + raw + BODY[at:]])
