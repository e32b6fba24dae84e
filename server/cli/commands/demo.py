"""`softmux demo`: a real backbone, the prompts that ship with softmux, and curl lines to paste."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from server.cli.errors import StartError
from server.cli.guide import Guide
from server.cli.launch import launch, read_settings, require_free_port
from server.cli.screen import console

Backbone = Literal["smollm2", "minilm"]
DEFAULT_CACHE = Path("~/.cache/softmux")
HOST = "127.0.0.1"


def demo(
    backbone: Annotated[Backbone, typer.Option(help="smollm2 writes and classifies, minilm classifies.")] = "smollm2",
    port: Annotated[int, typer.Option(help="Where to serve, on 127.0.0.1.")] = 8000,
    cache: Annotated[
        Path, typer.Option(envvar="SOFTMUX_CACHE", help="Where backbones and the demo's store are kept.")
    ] = DEFAULT_CACHE,
) -> None:
    """Fetch a small backbone once, publish the demo's prompts, and serve until Ctrl-C."""
    require_free_port(HOST, port)  # before the download, not after it
    folder = cache.expanduser().resolve()
    settings = read_settings(
        {
            "backbone": str(_prepare(backbone, folder)),
            "store": (folder / "stores" / backbone).as_uri(),
            "host": HOST,
            "port": port,
            "log_level": "warning",
        }
    )
    url = f"http://{HOST}:{port}"
    guide = Guide(url, lambda: _welcome(backbone, url))
    guide.start()
    try:
        launch(settings)
    finally:
        guide.stop()
    if guide.error:
        raise guide.error
    console(stderr=True).print("stopped; what was published is kept in", str(folder), markup=False)


def _prepare(backbone: Backbone, cache: Path) -> Path:
    from rich.progress import Progress

    from server.demo.backbones import prepare
    from server.demo.fetch import FetchError

    try:
        with Progress(console=console(stderr=True)) as progress:
            return prepare(backbone, cache, progress)
    except (FetchError, OSError) as error:
        raise StartError(f"the demo's backbone could not be prepared in {cache}: {error}") from error


def _welcome(backbone: Backbone, url: str) -> None:
    from server.demo.client import DemoError
    from server.demo.publish import curls, publish

    try:
        tasks = publish(backbone, url)
    except (DemoError, OSError) as error:
        raise StartError(f"the demo's prompts could not be published: {error}") from error
    screen = console()
    screen.print(f"\n{backbone} serves {', '.join(tasks)} at {url}. Paste into another terminal:\n", markup=False)
    screen.print(curls(backbone, url), markup=False, soft_wrap=True)
    screen.print(f"\nEvery route: {url}/docs. Ctrl-C stops the server.", markup=False)
