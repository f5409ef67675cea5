"""The `registry` base: an image pinned by digest, with the same packages and code as additional layers.

Nothing is executed by the build. What has to be asked of the base (its Python, its platform) or made by it (the
bytecode, which is particular to its interpreter) is done by one container that is sealed like a run and whose
standard output is all that leaves it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from docker.utils.socket import frames_iter

from ...schemas.errors import PrerequisiteError, UsageError
from ...schemas.settings import Settings
from ..engine import Engine, calling
from .archive import SETTLED, USER, follow, pack, tar_stream
from .packages import CODE, install, write_code
from .recipe import Recipe

BUILD_SECONDS = 600
BYTECODE_BYTES = 1 << 28
"""Room for the bytecode of everything inside; it is about 40 MB."""

_DESCRIBE = """
import json, platform, site, sys, sysconfig
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2], "site": site.getsitepackages()[-1], "libc": platform.libc_ver()[0],
    "machine": platform.machine(), "stdlib": sysconfig.get_path("stdlib"),
}))
"""

_COMPILE = """
import compileall, os, py_compile, sys, tarfile
for folder in sys.argv[1:]:
    compileall.compile_dir(folder, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    for folder, folders, names in os.walk(sys.pycache_prefix):
        folders.sort()
        if not names:
            continue
        cache = tarfile.TarInfo(os.path.relpath(folder, sys.pycache_prefix) + "/__pycache__")
        cache.type, cache.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(cache)
        for name in sorted(names):
            with open(os.path.join(folder, name), "rb") as file:
                entry = tarfile.TarInfo(cache.name + "/" + name)
                entry.size = os.fstat(file.fileno()).st_size
                tar.addfile(entry, file)
"""


@dataclass(frozen=True)
class Base:
    """A pulled base image, as its own Python describes it."""

    id: str
    version: str
    site: str
    libc: str
    machine: str
    stdlib: str


def identity(settings: Settings) -> str:
    """Return what tells one base of this kind from another: the pinned reference.

    Raises UsageError when the settings name none.
    """
    if settings.registry_image is None:
        raise UsageError("base is registry but registry_image is not set; set it to NAME@sha256:DIGEST")
    return settings.registry_image


def build(engine: Engine, recipe: Recipe, work: Path, say: Callable[[str], None]) -> None:
    """Build the image of `recipe` on the engine, with `work` as an empty folder to work in.

    Raises EngineError when the pull or the build fails, PrerequisiteError when the base holds no suitable Python or
    a package cannot be had.
    """
    reference = identity(recipe.settings)
    say(f"pulling {reference}")
    base = _pulled(engine, reference)
    packages, code = work / "packages", work / "code"
    say(f"installing the locked packages for Python {base.version}")
    python = ["--python-version", base.version, "--python-platform", f"{base.machine}-manylinux_2_28"]
    install(recipe.profile, packages / base.site.lstrip("/"), python, recipe.settings.wheels)
    write_code(code, recipe.code)
    layers = [pack(root, work / f"{root.name}.tar").path for root in (packages, code)]
    uncompiled = f"{recipe.tag}-uncompiled"
    _build(engine, base.id, layers, uncompiled, {})
    try:
        say("compiling")
        layers.append(_bytecode(engine, uncompiled, base, work))
        _build(engine, base.id, layers, recipe.tag, recipe.labels)
    finally:
        with calling("remove the uncompiled image"):
            engine.api.remove_image(uncompiled)


def _pulled(engine: Engine, reference: str) -> Base:
    with calling(f"pull {reference}"):
        follow(engine.api.pull(reference, stream=True, decode=True))
        image = engine.api.inspect_image(reference)
    described = json.loads(_output(engine, image["Id"], ["-c", _DESCRIBE]))
    base = Base(id=image["Id"], **described)
    if base.libc != "glibc":
        raise PrerequisiteError(f"{reference} has no glibc, which the packages need; use an image such as slim")
    return base


def _build(engine: Engine, base: str, layers: list[Path], tag: str, labels: dict[str, str]) -> None:
    """Put `layers` on top of the image `base`. The engine unpacks them; nothing in them or below them is run."""
    lines = [f"FROM {base}", *(f"ADD {path.name} /" for path in layers)]
    lines += [f"LABEL {key}={value}" for key, value in labels.items()]
    lines += [f"USER {USER}", f"WORKDIR {SETTLED['WorkingDir']}", "ENTRYPOINT []", "CMD []"]
    members: list[tuple[str, bytes | Path]] = [(path.name, path) for path in layers]
    context = tar_stream([("Dockerfile", "\n".join(lines).encode()), *members])
    with calling(f"build {tag}"):
        progress = engine.api.build(
            fileobj=context,  # type: ignore[arg-type]
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            network_mode="none",
            timeout=BUILD_SECONDS,
            decode=True,
        )
        follow(progress)


def _bytecode(engine: Engine, image: str, base: Base, work: Path) -> Path:
    """Return a layer of the bytecode that the base's own interpreter makes of everything inside `image`."""
    folders = [base.stdlib, f"/{CODE}"]
    if not base.site.startswith(base.stdlib):
        folders.append(base.site)
    layer = work / "bytecode.tar"
    layer.write_bytes(_output(engine, image, ["-X", "pycache_prefix=/tmp/bytecode", "-c", _COMPILE, *folders]))
    return layer


def _output(engine: Engine, image: str, arguments: list[str]) -> bytes:
    """Return what the Python of a trusted `image` prints, run without network, rights or a writable root."""
    api = engine.api
    with calling("start the base image"):
        container = api.create_container(
            image,
            entrypoint=["python3", "-I"],
            command=arguments,
            user=USER,
            host_config=api.create_host_config(
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                tmpfs={"/tmp": f"size={BYTECODE_BYTES}"},
                pids_limit=64,
            ),
            network_disabled=True,
        )["Id"]
        try:
            output = _attached_output(engine, container)
            code = api.wait(container)["StatusCode"]
        finally:
            api.remove_container(container, force=True)
    if code:
        raise PrerequisiteError(f"the Python of {image} exited with {code}; set `registry_image` to a Python image")
    return output


def _attached_output(engine: Engine, container: str) -> bytes:
    """Start `container` and return its standard output, which a log would not keep byte by byte."""
    stream = engine.api.attach_socket(container, {"stdout": 1, "stream": 1})
    try:
        engine.api.start(container)
        return b"".join(chunk for _, chunk in frames_iter(stream, tty=False))
    finally:
        stream._response.close()
        stream.close()
