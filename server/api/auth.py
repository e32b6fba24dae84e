"""Who calls, and what for. Every route depends on exactly one of `public_access`, `tenant_access`, `admin_access`.

The tenant comes from here, never from a body. Another tenant's task is told apart from a missing one by nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Protocol
from urllib.parse import urlsplit

from fastapi import Depends, Request

from prompt_store.errors import TaskNotFoundError
from prompt_store.refs import DEFAULT_TENANT, TaskName, TaskRef
from server.api.refusals import ForbiddenError
from server.api.services import ServicesOf
from server.settings import is_loopback


class Role(StrEnum):
    """What a caller may do in its tenant."""

    INFER = "infer"
    PUBLISH = "publish"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `every_tenant` is for operators."""

    name: str  # stands in the history of what it changes
    tenant: str
    roles: frozenset[Role]
    every_tenant: bool = False

    def ref(self, text: str) -> TaskRef:
        """Read a reference; a bare name is in the caller's tenant. Raises InvalidNameError, TaskNotFoundError."""
        ref = TaskRef.parse(text, self.tenant)
        self.see(ref.task)
        return ref

    def sees(self, tenant: str) -> bool:
        """Whether a tenant's tasks exist for this caller."""
        return self.every_tenant or tenant == self.tenant

    def see(self, task: TaskName) -> None:
        """Refuse another tenant's task in the words for one that does not exist. Raises TaskNotFoundError."""
        if not self.sees(task.tenant):
            raise TaskNotFoundError(f"no task {task}")

    def need(self, role: Role) -> None:
        """Raise ForbiddenError unless the caller has `role`."""
        if role not in self.roles:
            raise ForbiddenError(
                f"caller {self.name} has not the role {role}: ask your administrator for a key with it"
            )


ANONYMOUS = Caller("anonymous", DEFAULT_TENANT, frozenset(Role), every_tenant=True)


class Authenticator(Protocol):
    """Find out who calls."""

    def caller(self, request: Request) -> Caller:
        """Return the caller. Raises UnauthenticatedError, ForbiddenError."""
        ...


class Anonymous:
    """No keys are configured: whoever reaches this machine's loopback is admin of every tenant."""

    def __init__(self, allow_remote: bool) -> None:
        self._allow_remote = allow_remote

    def caller(self, request: Request) -> Caller:
        """Return the anonymous admin. Raises ForbiddenError for callers from elsewhere."""
        if not self._allow_remote and not _is_local(request):
            raise ForbiddenError(
                "no keys are configured, so only this machine may call, by the name localhost or 127.0.0.1: "
                "serve with --allow-anonymous if the network is trusted"
            )
        return ANONYMOUS


def _is_local(request: Request) -> bool:
    # The headers too: a web page from elsewhere may call us through a browser on this machine, by our own address
    # (its Origin gives it away) or by a name of its own that points to 127.0.0.1 (the Host does).
    client = request.client.host if request.client else ""
    named = [f"//{request.headers.get('host', '')}", *request.headers.getlist("origin")]
    return is_loopback(client) and all(is_loopback(_hostname(name)) for name in named)


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def caller_of(request: Request, services: ServicesOf) -> Caller:
    """Authenticate the request."""
    return services.authenticator.caller(request)


async def public_access() -> None:
    """Let everybody in."""


async def tenant_access(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
    """Let callers in who belong to a tenant."""
    return caller


async def admin_access(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
    """Let administrators in."""
    caller.need(Role.ADMIN)
    return caller


TenantCaller = Annotated[Caller, Depends(tenant_access)]
AdminCaller = Annotated[Caller, Depends(admin_access)]
