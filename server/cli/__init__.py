"""The command `softmux`: one module a command. Heavy imports stay inside the commands that need them."""

from __future__ import annotations

import sys

from prompt_store.errors import SoftmuxError
from server.cli.errors import EXIT_USAGE, CliError


def main() -> None:
    """Run the command line and exit with a code of `server.cli.errors`; nobody's mistake shows a traceback."""
    from server.cli.commands import app
    from server.cli.screen import complain

    try:
        app(prog_name="softmux")
    except CliError as error:
        complain(error.as_dict())
        sys.exit(error.exit_code)
    except SoftmuxError as error:
        complain({"type": type(error).__name__, "message": str(error)})
        sys.exit(EXIT_USAGE)
