"""Which containers are ours, who owns them, and the removal of those whose owner is dead.

Ours means: labelled with the instance id of our state folder. Another installation's containers, or anybody else's,
are never touched. An owner is a process, named by pid, start time and boot, so a reused pid is no owner.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from ..schemas.errors import EngineError
from ..schemas.settings import Settings
from .engine import Engine, calling
from .seal import CPU_PERIOD

INSTANCE_LABEL = "sandgate.instance"
OWNER_LABEL = "sandgate.owner"
RUN_LABEL = "sandgate.run"
FILE_LABEL = "sandgate.file"


@dataclass(frozen=True)
class Container:
    """A container of ours, as the engine lists it. `created` is seconds since 1970."""

    id: str
    run: str
    file: str
    state: str
    created: int
    owner_is_alive: bool


def instance_id(settings: Settings) -> str:
    """Return the id of this state folder, made at first use."""
    path = settings.state / "instance"
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        draft = path.with_name(f".instance.{os.getpid()}.{secrets.token_hex(4)}")
        draft.write_text(secrets.token_hex(8))
        # Of two processes that get here at once the first one's id holds; a reader never sees half an id.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


def labels(settings: Settings, run: str, file: str) -> dict[str, str]:
    """Return the labels of a new container that this process owns."""
    return {
        INSTANCE_LABEL: instance_id(settings),
        OWNER_LABEL: _identity(os.getpid()) or "",
        RUN_LABEL: run,
        FILE_LABEL: file,
    }


def ours(engine: Engine, settings: Settings) -> list[Container]:
    """List the containers of this instance."""
    with calling("list containers"):
        rows = engine.api.containers(all=True, filters={"label": f"{INSTANCE_LABEL}={instance_id(settings)}"})
    return [
        Container(
            id=row["Id"],
            run=row["Labels"].get(RUN_LABEL, ""),
            file=row["Labels"].get(FILE_LABEL, ""),
            state=row["State"],
            created=row["Created"],
            owner_is_alive=_is_alive(row["Labels"].get(OWNER_LABEL, "")),
        )
        for row in rows
    ]


def reap(engine: Engine, settings: Settings) -> list[Container]:
    """Remove our containers whose owner is dead; return them."""
    orphans = [container for container in ours(engine, settings) if not container.owner_is_alive]
    for container in orphans:
        remove(engine, container.id)
    return orphans


def sweep(engine: Engine, settings: Settings) -> None:
    """Remove what dead owners left and has ended by itself. Quick, and nobody's run fails for it.

    A container that still runs may take the engine long to kill: that is left to `sandbox cleanup`.
    """
    with contextlib.suppress(EngineError):
        for container in ours(engine, settings):
            if not container.owner_is_alive and container.state in ("created", "exited", "dead"):
                remove(engine, container.id)


def kill_run(engine: Engine, settings: Settings, run: str) -> None:
    """Remove the container of one run of ours, if it is still there."""
    for container in ours(engine, settings):
        if container.run == run:
            remove(engine, container.id)


def remove(engine: Engine, container: str) -> None:
    """Kill and remove a container with what hangs on it; gone already is as good."""
    with contextlib.suppress(EngineError):
        _remove(engine, container)
        return
    # Dying takes CPU time, and many processes with a small share of it can outlast the engine's patience.
    with calling("give a container the CPU time to die", gone_is_fine=True):
        engine.api.update_container(container, cpu_period=CPU_PERIOD, cpu_quota=2 * CPU_PERIOD)
    _remove(engine, container)


def _remove(engine: Engine, container: str) -> None:
    with calling("remove a container", gone_is_fine=True):
        engine.api.remove_container(container, force=True, v=True)


def _identity(pid: int) -> str | None:
    """Return `pid:start time:boot id`, which no two processes of this machine ever share; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The name in the second field may hold spaces and brackets; the start time is the 20th field after it.
    return f"{pid}:{stat.rpartition(')')[2].split()[19]}:{boot}"


def _is_alive(owner: str) -> bool:
    pid = owner.split(":")[0]
    return pid.isdigit() and _identity(int(pid)) == owner
