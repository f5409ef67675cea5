"""The connection to the container engine; with `image/` and `daemon.py` the only users of the docker SDK.

Which engine: `DOCKER_HOST` when it is set (and then no other: it was asked for), else the current docker context,
else the default socket, else the engine that `sandbox engine up` started under our state folder. An engine counts
when it answers a ping. No engine is a refusal, never a reason to run code in another way.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils
import requests.exceptions
from docker.context import ContextAPI
from docker.tls import TLSConfig

from ..schemas.errors import EngineError, PrerequisiteError
from ..schemas.settings import Settings

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
CALL_SECONDS = 60
"""How long any one call may take: a hung runtime must not hang us."""


@dataclass(frozen=True)
class Engine:
    """A container engine that answered. `api` is not thread-safe: connect once per thread."""

    api: docker.APIClient
    host: str

    @property
    def is_local(self) -> bool:
        """Whether the engine shares this machine's kernel and interpreter (true for a unix socket)."""
        return self.host.startswith("unix://")

    def info(self) -> dict[str, Any]:
        """Return the engine's description of itself."""
        with calling("describe the engine"):
            return dict(self.api.info())

    def version(self) -> dict[str, Any]:
        """Return the versions of the engine and its parts."""
        with calling("ask the engine for its version"):
            return dict(self.api.version(api_version=False))


@contextmanager
def calling(action: str, gone_is_fine: bool = False) -> Iterator[None]:
    """Wrap what the SDK and its transport raise, once, saying what we were doing.

    With `gone_is_fine` an object that is no longer there counts as success: what we wanted gone is gone.
    """
    try:
        yield
    except docker.errors.APIError as error:
        if gone_is_fine and (error.status_code == HTTPStatus.NOT_FOUND or _is_going(error)):
            return
        detail = error.explanation or str(error)
        raise EngineError(f"the engine refused to {action}: {_one_line(str(detail))}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineError(
            f"the engine stopped answering (could not {action}: {type(error).__name__}); "
            "see `sandbox doctor`, and run `sandbox cleanup` when it is back"
        ) from error


def own_socket(settings: Settings) -> Path:
    """Return the socket of the engine that `sandbox engine up` starts."""
    return settings.state / "engine" / "docker.sock"


def candidates(settings: Settings) -> dict[str, TLSConfig | None]:
    """Return the addresses to try, in order, each with what it needs for TLS."""
    if os.environ.get("DOCKER_HOST"):
        asked = docker.utils.kwargs_from_env()
        return {asked["base_url"]: asked.get("tls")}
    hosts: dict[str, TLSConfig | None] = {}
    context = _context()
    if context is not None and context.Host and context.Host != "http+docker://localunixsocket":
        hosts[context.Host] = context.TLSConfig
    return {**hosts, DEFAULT_SOCKET: None, f"unix://{own_socket(settings)}": None}


def _context() -> Any:
    try:
        return ContextAPI.get_current_context()
    except Exception as error:  # The SDK raises a bare Exception for a context that it cannot read.
        raise PrerequisiteError(f"the docker context cannot be read: {_one_line(str(error))}; mend it") from error


def connect(settings: Settings) -> Engine:
    """Return the first engine that answers. Raises PrerequisiteError when none does."""
    hosts = candidates(settings)
    for host in hosts:
        if engine := _answering(host, hosts[host]):
            return engine
    if closed := [host for host in hosts if _probe(host) == errno.EACCES]:
        raise PrerequisiteError(
            f"a container engine listens at {closed[0]}, but this user may not talk to it (permission denied); "
            "join the group of that socket, or run with sudo"
        )
    raise PrerequisiteError(
        f"no container engine answers at {' or '.join(hosts)}; start Docker, or run `sandbox engine up` as root"
    )


def _answering(host: str, tls: TLSConfig | None) -> Engine | None:
    if _probe(host):
        return None
    try:
        api = docker.APIClient(base_url=host, version="auto", timeout=CALL_SECONDS, tls=tls or False)
        api.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError):
        return None
    return Engine(api, host)


def _probe(host: str) -> int:
    """Return the error of connecting to a unix socket, 0 for none. Quick, and the SDK would leave a socket open."""
    if not host.startswith("unix://"):
        return 0
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            return probe.connect_ex(host.removeprefix("unix://"))
        except OSError:  # A path that is too long for a socket.
            return errno.EINVAL


def _is_going(error: docker.errors.APIError) -> bool:
    """Whether somebody else is removing the container at this moment."""
    return error.status_code == HTTPStatus.CONFLICT and "already in progress" in str(error.explanation)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
