"""Run one server process until it is told to stop or its worker dies. Knows uvicorn and nothing of the parts."""

from __future__ import annotations

import uvicorn

from server.app import create_app
from server.settings import Settings
from server.telemetry.logs import configure_logs

# Request headers are a few hundred bytes here; the parser's own default would hold 64 KiB per connection.
MAX_HEADER_BYTES = 16 << 10


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code: 0, or 1 when the worker or the start failed."""
    configure_logs(settings.log_level)
    codes: list[int] = []

    def on_worker_death() -> None:
        codes.append(1)
        server.should_exit = True

    app = create_app(settings, on_worker_death=on_worker_death)
    server = uvicorn.Server(uvicorn_config(app, settings))
    server.run()
    return 1 if codes or not server.started else 0


def uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    """Return the one way this server is run: our own logs, bounded headers, a bounded graceful shutdown."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="on",
        http="h11",
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
