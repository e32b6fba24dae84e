"""The demo's second half, beside the running server: wait until it is ready, publish, say what to paste."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from server.cli.client import Client
from server.cli.errors import CliError
from server.cli.screen import console

POLL_S = 0.2


class Guide:
    """Runs `work` once, on its own thread, as soon as the server at `url` is ready; a failure stops the server."""

    def __init__(self, url: str, work: Callable[[], None]) -> None:
        self.error: CliError | None = None
        self._url = url
        self._work = work
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-guide", daemon=True)

    def start(self) -> None:
        """Begin to wait for the server."""
        self._thread.start()

    def stop(self) -> None:
        """Wait no longer; a no-op once the work is done."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            with console(stderr=True).status("load the backbone"):
                while not self._is_ready():
                    if self._stopped.wait(POLL_S):
                        return
            self._work()
        except CliError as error:
            self.error = error
            os.kill(os.getpid(), signal.SIGINT)  # the server owns the main thread and ends in order on this

    def _is_ready(self) -> bool:
        try:
            with Client(self._url) as client:
                client.get("/readyz")
        except CliError:
            return False
        return True
