"""The `closure` base: the interpreter that runs us, its standard library and the libraries they load, and no more.

There is no distribution inside: no shell, no package manager, no setuid file. The interpreter moves to `/usr`,
whichever prefix it has here, and every library that the loader would pick here goes to the loader's default folder,
except those that wheels carry beside themselves.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...schemas.errors import EngineError, PrerequisiteError
from ...schemas.settings import Settings
from ..engine import Engine, calling
from .archive import Layer, architecture, configuration, follow, image_archive, pack
from .packages import compile_below, install, write_code
from .recipe import Recipe

_LIBRARY = re.compile(r"\t(?P<name>[^\s/]+) => (?P<path>/.+) \(0x[0-9a-f]+\)")
_LOADER = re.compile(r"\t(?P<path>/\S+)(?: => /.+)? \(0x[0-9a-f]+\)")
_MISSING = re.compile(r"\t(?P<name>\S+) => not found")

_LEFT_OUT = {
    "EXTERNALLY-MANAGED", "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages",
    "sitecustomize.py", "test", "tests", "tkinter", "turtledemo", "usercustomize.py",
}  # fmt: skip
_LEFT_OUT_PREFIXES = (
    "config-", "_ctypes_test", "_sysconfig_vars", "_test", "_tkinter", "_xxtest", "nis.", "xxlimited",
)  # fmt: skip


@dataclass(frozen=True)
class Interpreter:
    """A Python on this machine, and where its parts are inside, relative to the root."""

    executable: Path
    stdlib: Path
    version: str
    library: Path
    site: Path


def host_interpreter() -> Interpreter:
    """Return the interpreter that runs us; inside a virtual environment, the one it was made from.

    `site` asks the interpreter itself, since Debian's reads another folder than everyone else's.
    """
    import site

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Interpreter(
        executable=Path(sys._base_executable).resolve(),  # type: ignore[attr-defined]
        stdlib=Path(sysconfig.get_path("stdlib")),
        version=version,
        library=Path("usr", sys.platlibdir, f"python{version}"),
        site=Path(site.getsitepackages(["/usr"])[-1]).relative_to("/"),
    )


def build(engine: Engine, recipe: Recipe, work: Path, say: Callable[[str], None]) -> None:
    """Build the image of `recipe` and load it into the engine, with `work` as an empty folder to work in.

    Raises PrerequisiteError when the engine cannot use this machine's Python or a part of it cannot be had here,
    EngineError when the engine fails or changes what it was sent.
    """
    _refuse_elsewhere(engine)
    layers = _layers(recipe, work, say)
    say("loading the image into the engine")
    archive = image_archive(layers, configuration(layers, recipe.labels), recipe.tag)
    with calling(f"load {recipe.tag}"):
        follow(engine.api.load_image(archive))
        found = engine.api.inspect_image(recipe.tag)
    if found["RootFS"]["Layers"] != [layer.diff_id for layer in layers]:
        raise EngineError(f"the engine did not keep {recipe.tag} as it was sent; see the engine's log")


def _refuse_elsewhere(engine: Engine) -> None:
    """This machine's interpreter is of use only to an engine that shares its kernel and architecture."""
    version = engine.version()
    where = (engine.is_local, sys.platform, version.get("Os"), version.get("Arch"))
    if where != (True, "linux", "linux", architecture()):
        raise PrerequisiteError(
            f"the engine at {engine.host} does not run on this {architecture()} machine's Linux, so this Python "
            "cannot be packed for it; set `registry_image` to a Python image pinned by digest"
        )


def _layers(recipe: Recipe, work: Path, say: Callable[[str], None]) -> list[Layer]:
    """Write and pack the three layers, from what changes least to what changes most."""
    interpreter = host_interpreter()
    base, packages, code = work / "base", work / "packages", work / "code"
    say(f"installing the locked packages for Python {interpreter.version}")
    python = ["--python", str(interpreter.executable)]
    install(recipe.profile, packages / interpreter.site, python, recipe.settings.wheels)
    say(f"packing {interpreter.executable} and its libraries")
    write_base(base, interpreter, packages)
    write_code(code, recipe.code)
    say("compiling")
    for root in (base, packages, code):
        compile_below(root, interpreter.executable)
    return [pack(root, work / f"{root.name}.tar") for root in (base, packages, code)]


def identity(settings: Settings) -> str:
    """Return what tells one base of this kind from another: the interpreter's build, the C library, the machine."""
    return " | ".join((sys.version, os.confstr("CS_GNU_LIBC_VERSION") or "", os.uname().machine))


def write_base(root: Path, interpreter: Interpreter, packages: Path) -> None:
    """Write the interpreter, its standard library, and the libraries that they and `packages` load below `root`.

    Raises PrerequisiteError when a library is missing here, or the C library is not where loaders look by default.
    """
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    program = root / "usr/bin" / f"python{interpreter.version}"
    copy(interpreter.executable, program)
    program.with_name("python3").symlink_to(program.name)
    copy_stdlib(interpreter.stdlib, root / interpreter.library)
    _copy_libraries(root, interpreter, packages)


def copy(source: Path, target: Path) -> None:
    """Copy the bytes and the executable bit of one file. Raises PrerequisiteError for a setuid or setgid file."""
    mode = source.stat().st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise PrerequisiteError(f"{source} is setuid or setgid and must not enter an image; use a plain Python")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if mode & 0o100 else 0o644)


def copy_stdlib(source: Path, target: Path) -> None:
    """Copy a standard library without tests, graphics, installers, and what this machine's owner put beside it."""
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not _left_out(name)]
        for name in files:
            path = Path(folder, name)
            if _left_out(name) or not path.is_file():
                continue
            copied = target / path.relative_to(source)
            copy(path, copied)
            if name.startswith("_sysconfigdata"):
                copied.write_text(_without_paths(path))


def _left_out(name: str) -> bool:
    return name in _LEFT_OUT or name.startswith(_LEFT_OUT_PREFIXES)


def _without_paths(path: Path) -> str:
    """Return a `_sysconfigdata` module with its facts about the build and without the folders it was built in."""
    facts = runpy.run_path(str(path))["build_time_vars"]
    kept = {key: facts[key] for key in sorted(facts) if "/" not in str(facts[key])}
    return f"build_time_vars = {kept!r}\n"


def _copy_libraries(root: Path, interpreter: Interpreter, packages: Path) -> None:
    library = root / interpreter.library
    extensions = [interpreter.stdlib / path.relative_to(library) for path in library.rglob("*.so")]
    pairs, loader = linked([interpreter.executable, *extensions, *packages.rglob("*.so*")])
    libraries = {name: path for name, path in pairs if not path.is_relative_to(packages)}
    if "libc.so.6" not in libraries or loader is None:
        raise PrerequisiteError(
            f"{interpreter.executable} is not linked to glibc, so it cannot be packed; set `registry_image`"
        )
    folder = libraries["libc.so.6"].parent
    if folder.parts[1] not in ("lib", "lib64", "usr"):
        raise PrerequisiteError(
            f"the C library is in {folder}, where a loader does not look by default; set `registry_image`"
        )
    ending_threads = folder / "libgcc_s.so.1"  # the C library loads it by name, so nothing is linked to it
    if ending_threads.exists():
        libraries.setdefault(ending_threads.name, ending_threads)
    for name, path in libraries.items():
        copy(path, root / _merged(folder) / name)
    copy(loader, root / _merged(loader))


def _merged(path: Path) -> Path:
    """Return where `path` is inside, where `/lib` and `/lib64` are links into `/usr`."""
    relative = path.relative_to("/")
    return relative if relative.parts[0] == "usr" else Path("usr", relative)


def linked(files: Iterable[Path]) -> tuple[list[tuple[str, Path]], Path | None]:
    """Return what the loader picks for `files`, as pairs of looked up name and path found, and the loader itself.

    Raises PrerequisiteError when a library is missing on this machine.
    """
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    command = ["ldd", *map(str, files)]
    output = subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stdout
    return parse_ldd(output)


def parse_ldd(output: str) -> tuple[list[tuple[str, Path]], Path | None]:
    """Read the output of ldd; what it returns and raises is what `linked` does."""
    if missing := _MISSING.search(output):
        raise PrerequisiteError(f"{missing['name']} is missing on this machine; install the package that has it")
    pairs = [(match["name"], Path(match["path"])) for match in _LIBRARY.finditer(output)]
    loader = _LOADER.search(output)
    return pairs, Path(loader["path"]) if loader else None
