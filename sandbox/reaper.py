"""Which containers are ours, who owns them, and the removal of those whose owner is dead.

Ours means: labelled with the instance id of our state folder. Another installation's containers, or anybody else's,
are never touched. An owner is a process, named so that a reused pid is no owner; what cannot be found out is alive.
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
    """A container of ours, as the engine lists it."""

    id: str
    run: str
    file: str
    state: str
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
        OWNER_LABEL: owner_label(),
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
            owner_is_alive=_may_be_alive(row["Labels"].get(OWNER_LABEL, "")),
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


@dataclass(frozen=True)
class _Owner:
    """A process, told apart from every other one: machine, boot, pid namespace, pid and start time."""

    machine: str
    boot: str
    namespace: str
    pid: str
    started: str

    @classmethod
    def of(cls, pid: int) -> _Owner | None:
        """Return the identity of a process of this machine, None when there is no such process."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            return None
        machine = Path("/etc/machine-id").read_text().strip() if Path("/etc/machine-id").exists() else ""
        # The name in the second field may hold spaces and brackets; the start time is the 20th field after it.
        return cls(machine, boot, namespace, str(pid), stat.rpartition(")")[2].split()[19])

    def __str__(self) -> str:
        return " ".join((self.machine or "-", self.boot, self.namespace, self.pid, self.started))


def owner_label() -> str:
    """Return the owner label of this process; empty where processes cannot be told apart (no /proc)."""
    owner = _Owner.of(os.getpid())
    return "" if owner is None else str(owner)


def _may_be_alive(label: str) -> bool:
    """Tell whether an owner may still need its container. Only one that we can look for and do not find is dead.

    An owner on another machine or in another pid namespace cannot be looked for; one of an earlier boot is dead.
    """
    fields = label.split()
    ours = _Owner.of(os.getpid())
    if len(fields) != 5 or ours is None or not fields[3].isdigit():
        return True
    owner = _Owner(fields[0] if fields[0] != "-" else "", *fields[1:])
    if owner.machine != ours.machine:
        return True
    if owner.boot != ours.boot:
        return False
    return owner.namespace != ours.namespace or _Owner.of(int(owner.pid)) == owner
