"""Start a server in this process, or say why it cannot be started before minutes have gone into loading."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli.errors import LocalFileError, SettingsError, StartError

if TYPE_CHECKING:
    from server.settings import Settings


def read_settings(said: dict[str, Any]) -> Settings:
    """Build the settings from what was said, the environment and the defaults, in this order. Raises SettingsError."""
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        return Settings(**{name: value for name, value in said.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(fault) for fault in error.errors())) from error


def _describe(fault: Any) -> str:
    names = [str(part) for part in fault["loc"]]
    if not names:
        return str(fault["msg"]).removeprefix("Value error, ")
    return f"--{names[0].replace('_', '-')} or SOFTMUX_{'__'.join(names).upper()}: {fault['msg']}"


def launch(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises LocalFileError, StartError."""
    require_backbone(Path(settings.backbone))
    require_free_port(settings.host, settings.port)
    from server.serve import serve

    try:
        code = serve(settings)
    except KeyboardInterrupt:  # uvicorn hands the signal on when it has shut down in order
        return
    if code:
        raise StartError("the server ended with an error; its log above says why")


def require_backbone(folder: Path) -> None:
    """Raise LocalFileError unless `folder` looks like what transformers' save_pretrained writes."""
    if not folder.is_dir():
        raise LocalFileError(f"backbone {folder} is not a folder: name one that transformers' save_pretrained wrote")
    if not (folder / "config.json").is_file():
        raise LocalFileError(
            f"backbone {folder} has no config.json: it is not a folder of transformers' save_pretrained"
        )


def require_free_port(host: str, port: int) -> None:
    """Raise StartError if somebody listens there already, or nobody may."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does: a port in TIME_WAIT is free
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            advice = f": try --port {port + 1}" if error.errno == errno.EADDRINUSE else ""
            raise StartError(f"cannot listen on {host} port {port} ({error.strerror or error}){advice}") from error
