"""An HTTP client of a few lines over keep-alive connections, so that hardly any time is the client's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

_HEAD = b"POST /v1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answered:
    """One reply: its JSON, and the seconds that it took."""

    body: Any
    seconds: float


class RawClient:
    """Connections that stay open; each carries one request at a time."""

    def __init__(self, connections: Sequence[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        self._connections = connections

    @classmethod
    async def open(cls, url: str, num_connections: int) -> Self:
        """Connect so many times to a server's http://host:port."""
        host, port = url.removeprefix("http://").split(":")
        return cls([await asyncio.open_connection(host, int(port)) for _ in range(num_connections)])

    async def ask(self, bodies: Sequence[Any]) -> list[Answered]:
        """Send every body as soon as a connection is free; return the replies in order."""
        raw = [json.dumps(body).encode() for body in bodies]
        answers: list[Answered | None] = [None] * len(raw)
        numbers = iter(range(len(raw)))
        await asyncio.gather(*(self._ask_on(pair, numbers, raw, answers) for pair in self._connections))
        return [answer for answer in answers if answer is not None]

    async def close(self) -> None:
        """Hang up."""
        for _, writer in self._connections:
            writer.close()

    @staticmethod
    async def _ask_on(
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        numbers: Iterator[int],
        raw: Sequence[bytes],
        answers: list[Answered | None],
    ) -> None:
        reader, writer = connection
        for number in numbers:
            started = time.perf_counter()
            writer.write(_HEAD % len(raw[number]) + raw[number])
            body = await _body(reader)
            seconds = time.perf_counter() - started
            answers[number] = Answered(body, seconds)


async def _body(reader: asyncio.StreamReader) -> Any:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    raw = await reader.readexactly(size)
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"the server answered {head.splitlines()[0]!r}: {raw[:300]!r}")
    return json.loads(raw)
