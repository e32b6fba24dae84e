"""How a command can fail, and the exit code that tells a script so.

CliError
├── LocalFileError      2  a file or folder that was named cannot be used
├── MissingAnswerError  2  something has to be said that neither the files nor the options say
├── SettingsError       2  the server's settings contradict each other, or one is missing
├── RefusedError        1  the server refused the request (4xx): sending it again cannot help
├── UnreachableError    3  nothing answers at the URL
├── UnavailableError    4  the server cannot do it now (429, 5xx), or what answers is not softmux
└── StartError          5  `serve` or `demo` could not start, or its worker died

0 is success; 2 is also every mistake in the arguments; 130 is an interrupt.
"""

from __future__ import annotations

from typing import Any

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_UNAVAILABLE = 4
EXIT_START = 5


class CliError(Exception):
    """A command could not do what it was asked; the message says what to do."""

    type = "refused"
    exit_code = EXIT_REFUSED

    def as_dict(self) -> dict[str, Any]:
        """Return the error as `--json` shows it."""
        return {"type": self.type, "message": str(self)}


class LocalFileError(CliError):
    """A file or folder that was named cannot be used."""

    type = "local_file"
    exit_code = EXIT_USAGE


class MissingAnswerError(CliError):
    """Neither the files nor the options say something that nobody else can know; each reason names its option."""

    type = "missing_answer"
    exit_code = EXIT_USAGE

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons

    def as_dict(self) -> dict[str, Any]:
        """Return the error with its reasons one by one."""
        return {**super().as_dict(), "reasons": self.reasons}


class SettingsError(CliError):
    """The server's settings contradict each other, or one is missing."""

    type = "settings"
    exit_code = EXIT_USAGE


class UnreachableError(CliError):
    """Nothing answers at the URL."""

    type = "unreachable"
    exit_code = EXIT_UNREACHABLE


class StartError(CliError):
    """A server could not start here."""

    type = "start_failed"
    exit_code = EXIT_START


class AnsweredError(CliError):
    """The server answered with an error; `detail` is its own error object, `hints` what we can add to it."""

    def __init__(self, status: int, detail: dict[str, Any]) -> None:
        super().__init__(str(detail.get("message") or f"the server answered {status}"))
        self.status = status
        self.detail = detail
        self.hints: list[str] = []

    def as_dict(self) -> dict[str, Any]:
        """Return the server's error object with the status beside it."""
        hints = {"hints": self.hints} if self.hints else {}
        return {"type": self.type, **self.detail, "message": str(self), "status": self.status, **hints}


class RefusedError(AnsweredError):
    """The server refused the request; sending it again cannot help."""


class UnavailableError(AnsweredError):
    """The server cannot do it now; trying later can help."""

    type = "unavailable"
    exit_code = EXIT_UNAVAILABLE
