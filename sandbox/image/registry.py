"""The `registry` base: the files of an image pinned by digest, with the same packages and code as further layers.

Only files are taken from it: exported, freed of what would give rights, and loaded under our own configuration, so
that neither its environment nor its entry point, volumes or health check survive. What has to be asked of the base
(its Python, its platform) or made by it (the bytecode, which is particular to its interpreter) is done by containers
without network and rights whose standard output is all that leaves them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from docker.utils.socket import frames_iter

from ...schemas.errors import PrerequisiteError, UsageError
from ...schemas.settings import Settings
from .. import reaper
from ..engine import Engine, calling
from .archive import CHUNK, USER, Layer, configuration, follow, layer_of, load, pack, pack_exported
from .packages import CODE, install, write_code
from .recipe import Recipe

PYTHON = Path("usr/bin/python3")
"""Where a run's interpreter is inside, relative to the root."""

BYTECODE_BYTES = 1 << 28
"""Room for the bytecode of everything inside; it is about 40 MB."""

_DESCRIBE = """
import json, os, platform, site, sys, sysconfig
print(json.dumps({
    "executable": os.path.realpath(sys._base_executable), "version": "%d.%d" % sys.version_info[:2],
    "stdlib": sysconfig.get_path("stdlib"), "site": site.getsitepackages([sys.base_prefix])[-1],
    "libc": platform.libc_ver()[0], "machine": platform.machine(),
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
    """A pulled base image, as its own Python describes it. `files` is the layer of everything that is in it."""

    executable: str
    version: str
    stdlib: str
    site: str
    libc: str
    machine: str
    files: Layer


def identity(settings: Settings) -> str:
    """Return what tells one base of this kind from another: the pinned reference.

    Raises UsageError when the settings name none.
    """
    if settings.registry_image is None:
        raise UsageError("base is registry but registry_image is not set; set it to NAME@sha256:DIGEST")
    return settings.registry_image


def build(engine: Engine, recipe: Recipe, work: Path, say: Callable[[str], None]) -> None:
    """Build the image of `recipe` and load it into the engine, with `work` as an empty folder to work in.

    Raises EngineError when the pull or the load fails, PrerequisiteError when the base holds no suitable Python or
    a package cannot be had.
    """
    reference = identity(recipe.settings)
    say(f"pulling {reference}")
    with calling(f"pull {reference}"):
        follow(engine.api.pull(reference, stream=True, decode=True))
        image = engine.api.inspect_image(reference)
    base = _described(engine, image["Id"], recipe, work)
    packages, code = work / "packages", work / "code"
    say(f"installing the locked packages for Python {base.version}")
    python = ["--python-version", base.version, "--python-platform", f"{base.machine}-manylinux_2_28"]
    install(recipe.profile, packages / base.site.lstrip("/"), python, recipe.settings.wheels)
    write_code(code, recipe.code)
    _link_interpreter(code, base.executable)
    added = [pack(root, work / f"{root.name}.tar") for root in (packages, code)]
    say("compiling")
    layers = [base.files, *added, _bytecode(engine, image["Id"], base, added, recipe, work)]
    say("loading the image into the engine")
    load(engine, layers, configuration(layers, recipe.labels, image["Architecture"]), recipe.tag)


def _described(engine: Engine, image: str, recipe: Recipe, work: Path) -> Base:
    """Return what the Python that the base itself would start says of the base, and the base's files."""
    with _container(engine, image, ["python3", "-I", "-c", _DESCRIBE], recipe) as container:
        described = json.loads(_output(engine, container, recipe))
        exported = work / "exported.tar"
        with calling("export the base image"), exported.open("wb") as file:
            file.writelines(engine.api.export(container, chunk_size=CHUNK))
    base = Base(**described, files=pack_exported(exported, work / "base.tar"))
    if base.libc != "glibc":
        raise PrerequisiteError(
            f"{recipe.settings.registry_image} has no glibc, which the packages need; use an image such as slim"
        )
    return base


def _link_interpreter(root: Path, executable: str) -> None:
    """Make the one path that runs start lead to the interpreter of the base, wherever that is."""
    if executable != f"/{PYTHON}":
        (root / PYTHON).parent.mkdir(parents=True, exist_ok=True)
        (root / PYTHON).symlink_to(executable)


def _bytecode(engine: Engine, image: str, base: Base, added: list[Layer], recipe: Recipe, work: Path) -> Layer:
    """Return a layer of the bytecode that the base's own interpreter makes of its library and of what is `added`."""
    folders = [base.stdlib, f"/{CODE}"]
    if not base.site.startswith(base.stdlib):
        folders.append(base.site)
    command = [base.executable, "-I", "-X", "pycache_prefix=/tmp/bytecode", "-c", _COMPILE, *folders]
    bytecode = work / "bytecode.tar"
    with _container(engine, image, command, recipe) as container:
        for layer in added:
            with calling("copy packages into a container"), layer.path.open("rb") as file:
                engine.api.put_archive(container, "/", file)
        bytecode.write_bytes(_output(engine, container, recipe))
    return layer_of(bytecode)


@contextmanager
def _container(engine: Engine, image: str, command: list[str], recipe: Recipe) -> Iterator[str]:
    """Create a container of a trusted `image` without network or rights, and remove it in the end.

    Its root can be written to, for the engine puts no files into one that cannot; its user has no rights there.
    """
    api = engine.api
    with calling("create a container of the base image"):
        container = api.create_container(
            image,
            entrypoint=command[:1],
            command=command[1:],
            user=USER,
            labels=reaper.labels(recipe.settings, "build", recipe.tag),
            host_config=api.create_host_config(
                network_mode="none",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                tmpfs={"/tmp": f"size={BYTECODE_BYTES}"},
                pids_limit=64,
            ),
            network_disabled=True,
            healthcheck={"test": ["NONE"]},
        )["Id"]
    try:
        yield container
    finally:
        reaper.remove(engine, container)


def _output(engine: Engine, container: str, recipe: Recipe) -> bytes:
    """Start `container` and return its standard output once it has ended well."""
    with calling("run the Python of the base image"):
        output = _attached_output(engine, container)
        code = engine.api.wait(container)["StatusCode"]
    if code:
        raise PrerequisiteError(
            f"the Python of {recipe.settings.registry_image} exited with {code}; set `registry_image` to a Python image"
        )
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
