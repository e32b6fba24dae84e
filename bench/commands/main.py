"""The command line: which benchmark to run, and how to print what it found."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

from rich.console import Console

from bench.measuring.record import Record, show
from bench.work.options import Options, options_of, parser_of

Run = Callable[[Options], Iterator[Record]]

NAMES = ("floor", "encoder", "decoder", "steps", "long-prefix", "compiled", "many-tasks", "start-up", "http", "swap")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"bench.commands.{name.replace('-', '_')}")


def _later(name: str) -> Run:
    """Return a command that is imported when it runs: some need a server's parts, which a machine may not have."""

    def run(options: Options) -> Iterator[Record]:
        yield from _module(name).run(options)

    return run


COMMANDS: dict[str, Run] = {name: _later(name) for name in NAMES}
USAGE = (
    f"usage: python -m bench {{{','.join([*COMMANDS, 'all', 'report'])}}} [options]; --help after a command lists them"
)


def main(arguments: Sequence[str]) -> int:
    """Run one command, all of them, or write the report; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "report":
        from bench.report.page import main as write_page  # needs matplotlib, which measuring does not

        return write_page(rest)
    if name not in COMMANDS and name != "all":
        print(f"no benchmark is called {name!r}\n{USAGE}", file=sys.stderr)
        return 2
    chosen = _those_that_can_run() if name == "all" else {name: COMMANDS[name]}
    about = None if name == "all" else _module(name).__doc__
    measure(chosen, options_of(parser_of(name, about).parse_args(rest)))
    return 0


def _those_that_can_run() -> dict[str, Run]:
    chosen = {}
    for name, run in COMMANDS.items():
        try:
            _module(name)
        except ModuleNotFoundError as error:
            print(f"{name}: left out, for {error.name} is not installed", file=sys.stderr)
        else:
            chosen[name] = run
    return chosen


def measure(chosen: dict[str, Run], options: Options) -> list[Record]:
    """Run these commands one after the other and print every record as soon as it is known."""
    console, found = _console(options.is_json), []
    for name, run in chosen.items():
        started = time.monotonic()
        records = []
        for record in run(options):
            records.append(record)
            if options.is_json:
                print(record.to_json(), flush=True)
        if not options.is_json:
            show(records, console)
        console.print(f"{name}: {time.monotonic() - started:.0f} s", style="dim")
        found += records
    return found


def _console(is_json: bool) -> Console:
    # Standard output is for what was measured; a table needs room where no terminal says how much there is.
    console = Console(stderr=is_json)
    return console if console.is_terminal else Console(stderr=is_json, width=150)
