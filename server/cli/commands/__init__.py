"""Every command under its name. Importing this must stay quick: torch and transformers come with the commands."""

from __future__ import annotations

import typer

from server.cli.commands.alias import alias
from server.cli.commands.calibrate import calibrate
from server.cli.commands.demo import demo
from server.cli.commands.export import export
from server.cli.commands.export_artifact import export_artifact
from server.cli.commands.fsck import fsck
from server.cli.commands.history import history
from server.cli.commands.import_store import import_store
from server.cli.commands.infer import infer
from server.cli.commands.inspect import inspect
from server.cli.commands.ls import ls
from server.cli.commands.push import push
from server.cli.commands.rollback import rollback
from server.cli.commands.serve import serve
from server.cli.commands.show import show
from server.cli.commands.version import version

app = typer.Typer(
    help="Serve thousands of soft prompts from one frozen transformers backbone.",
    epilog="Exit codes: 0 done, 1 refused by the server, 2 wrong arguments or files, 3 no server answers, "
    "4 the server cannot now (try later), 5 the server could not start, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo,
    serve,
    push,
    inspect,
    ls,
    show,
    infer,
    calibrate,
    alias,
    rollback,
    history,
    export,
    fsck,
    version,
):
    app.command()(command)
app.command("export-artifact")(export_artifact)
app.command("import")(import_store)
