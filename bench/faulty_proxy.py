"""A TCP proxy in front of a server, whose faults can be switched on and off while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine
from typing import Any, Literal

Fault = Literal["none", "frozen", "slow", "resetting", "dead"]

SLOW_S = 0.1  # added to each direction


class FaultyProxy:
    """Forwards to a port of this machine.

    frozen: takes connections and bytes, and forwards nothing. slow: everything comes late. resetting: every connection
    is reset when it speaks. dead: nobody listens.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._target_port = target_port
        self._tls = tls
        self._fault: Fault = "none"
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultyProxy:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._hang_up()

    async def become(self, fault: Fault) -> None:
        """Have this fault from now on."""
        self._fault = fault
        if fault == "frozen":
            self._flowing.clear()
        else:
            self._flowing.set()
        if fault == "dead":
            await self._hang_up()
        elif self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Coroutine[Any, Any, None]:
        connection = asyncio.ensure_future(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        return self._ended(connection)

    async def _ended(self, connection: asyncio.Task[None]) -> None:
        await asyncio.wait({connection})

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = None
        try:
            there, onward = await asyncio.open_connection("127.0.0.1", self._target_port)
            pumps = [asyncio.ensure_future(self._pump(*ends)) for ends in ((reader, onward), (there, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            return
        finally:
            for end in filter(None, (writer, onward)):
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._fault == "resetting":
                    return
                if self._fault == "slow":
                    await asyncio.sleep(SLOW_S)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
