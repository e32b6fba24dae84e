"""`softmux fsck`: whether a store keeps what it promised."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.errors import EXIT_REFUSED
from server.cli.options import Json
from server.cli.screen import short, show, size
from server.cli.stores import StoreUrl, opened, require_store

if TYPE_CHECKING:
    from rich.console import RenderableType

    from prompt_store.fsck import Health


def fsck(
    store_url: StoreUrl,
    repair: Annotated[bool, typer.Option("--repair", help="Delete orphaned bytes; nothing else is changed.")] = False,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Bytes are orphans when nobody has named them for so long.")
    ] = 86_400.0,
    as_json: Json = False,
) -> None:
    """Read everything in a store: bytes that cannot be read, names that point nowhere, bytes that nobody names.

    Ends with 0 if every version and alias is sound (orphans do no harm), 1 if something is wrong, 3 if the store does
    not answer. Servers may go on meanwhile.
    """
    require_store(store_url)
    health, freed = asyncio.run(_examine(store_url, grace, repair, as_json))
    show(_as_dict(health, freed), as_json, _draw)
    if health.problems:
        raise typer.Exit(EXIT_REFUSED)


async def _examine(store_url: str, grace_s: float, repair: bool, is_quiet: bool) -> tuple[Health, int | None]:
    from prompt_store.fsck import examine
    from server.cli.transfer import transfer_bar

    with transfer_bar("read the store", is_quiet) as bar:
        async with opened(store_url) as store:
            bar.announce(sum([await store.usage(tenant) for tenant in await store.tenants()]))
            health = await examine(store, grace_s, bar.advance)
            is_safe = all(problem.kind != "endangered" for problem in health.problems)
            return health, await store.collect(grace_s) if repair and is_safe else None


def _as_dict(health: Health, freed: int | None) -> dict[str, Any]:
    return {
        "num_tasks": health.num_tasks,
        "num_versions": health.num_versions,
        "size_bytes": health.size_bytes,
        "problems": [
            {"kind": p.kind, "task": str(p.task), "version": p.version, "message": p.message} for p in health.problems
        ],
        "num_orphans": len(health.orphans),
        "orphan_bytes": sum(orphan.size_bytes for orphan in health.orphans),
        "freed_bytes": freed,
    }


def _draw(found: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    held = f"{found['num_tasks']} tasks, {found['num_versions']} versions, {size(found['size_bytes'])} read"
    orphans = f"{found['num_orphans']} orphans, {size(found['orphan_bytes'])}"
    if found["freed_bytes"] is not None:
        orphans += f"; {size(found['freed_bytes'])} of them deleted"
    elif found["num_orphans"]:
        orphans += "; --repair deletes them"
    if not found["problems"]:
        return f"sound: {held}\n{orphans}"
    table = Table("problem", "task", "version", "what to do")
    for problem in found["problems"]:
        table.add_row(problem["kind"], problem["task"], short(problem["version"]), problem["message"])
    return Group(f"{len(found['problems'])} problems: {held}", table, orphans)
