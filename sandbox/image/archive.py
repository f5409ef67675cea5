"""Image archives written by ourselves: the same files give the same bytes, so the same image id.

Everything that varies between two machines or two moments is settled here: order, owner, mode, time, and the
spelling of the configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors

from ...schemas.errors import EngineError
from ..engine import Engine, calling

CHUNK = 1 << 20
USER = "10001:10001"
"""Who a run is inside the container. No such account exists outside."""

SETTLED = {
    "User": USER,
    "Env": ["PATH=/usr/bin"],
    "Entrypoint": None,
    "Cmd": None,
    "WorkingDir": "/",
}
_STICKY = {"tmp"}
_MADE_BY_ENGINES = {".dockerenv", "dev", "proc", "sys"}
_PLATFORMS = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Layer:
    """One layer as a tar file of ours; `diff_id` is the digest of exactly these bytes."""

    path: Path
    diff_id: str


def architecture() -> str:
    """Return this machine's architecture as engines call it."""
    machine = os.uname().machine
    return _PLATFORMS.get(machine, machine)


def pack(root: Path, target: Path) -> Layer:
    """Write the files below `root` to the tar `target`: sorted, owned by 0:0, at time zero, mode 0644 or 0755."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in _sorted_below(root):
            _add(tar, path, path.relative_to(root).as_posix())
    return layer_of(target)


def pack_exported(exported: Path, target: Path) -> Layer:
    """Write what an engine exported of a container to the tar `target`, as a layer that stands for a whole image.

    What the engine adds to every container and devices are left out. Owners, times, setuid bits, file capabilities
    and the write permission of others are lost: nothing inside may be more than the user that a run is.
    """
    with tarfile.open(exported) as source, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
        for entry in source:
            if entry.isdev() or entry.name.split("/")[0] in _MADE_BY_ENGINES:
                continue
            content = source.extractfile(entry) if entry.isreg() else None
            entry.mode &= 0o755
            entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime = 0, 0, "", "", 0
            entry.pax_headers = {}
            layer.addfile(entry, content)
    return layer_of(target)


def layer_of(path: Path) -> Layer:
    """Return the tar file `path` as a layer."""
    with path.open("rb") as file:
        return Layer(path, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def configuration(layers: list[Layer], labels: dict[str, str], machine: str) -> bytes:
    """Return the image configuration, whose digest is the image id on engines that count ids that way.

    `machine` is the architecture as engines call it.
    """
    document = {
        "architecture": machine,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": SETTLED | {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "sandgate"} for _ in layers],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def image_archive(layers: list[Layer], config: bytes, tag: str) -> Iterator[bytes]:
    """Yield a docker-archive that `load` accepts, as a stream: no layer is ever held in memory."""
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_names = [f"{layer.diff_id.removeprefix('sha256:')}.tar" for layer in layers]
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": layer_names}]).encode()
    files: list[tuple[str, bytes | Path]] = [
        (name, layer.path) for name, layer in zip(layer_names, layers, strict=True)
    ]
    return _tar_stream([*files, (config_name, config), ("manifest.json", manifest)])


def load(engine: Engine, layers: list[Layer], config: bytes, tag: str) -> None:
    """Load the image of `layers` and `config` into the engine under `tag`.

    Raises EngineError when the engine fails or changes what it was sent.
    """
    with calling(f"load {tag}"):
        follow(engine.api.load_image(image_archive(layers, config, tag)))
        found = engine.api.inspect_image(tag)
    if found["RootFS"]["Layers"] != [layer.diff_id for layer in layers]:
        raise EngineError(f"the engine did not keep {tag} as it was sent; see the engine's log")


def follow(progress: Iterable[dict[str, Any]]) -> None:
    """Read an engine's progress to its end; it reports failures there, after it answered that all is well.

    Raises APIError for such a failure.
    """
    for line in progress:
        if "error" in line:
            raise docker.errors.APIError(line["error"])


def _tar_stream(members: Iterable[tuple[str, bytes | Path]]) -> Iterator[bytes]:
    """Yield a tar of `members` (name, and bytes or the file that holds them)."""
    for name, content in members:
        entry = tarfile.TarInfo(name)
        entry.size = len(content) if isinstance(content, bytes) else content.stat().st_size
        yield entry.tobuf(tarfile.PAX_FORMAT)
        yield from [content] if isinstance(content, bytes) else _chunks(content)
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _sorted_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _sorted_below(path)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o755
    if path.is_symlink():
        entry.type = tarfile.SYMTYPE
        entry.linkname = str(path.readlink())
        tar.addfile(entry)
    elif path.is_dir():
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o1777 if name in _STICKY else 0o755
        tar.addfile(entry)
    else:
        status = path.stat()
        entry.size = status.st_size
        entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
        with path.open("rb") as file:
            tar.addfile(entry, file)
