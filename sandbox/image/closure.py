"""The `closure` base: the interpreter that runs us, its standard library and the libraries they load, and no more.

There is no distribution inside: no shell, no package manager, no setuid file. The interpreter moves to `/usr`,
whichever prefix it has here, and every library that the loader would pick here goes to the loader's default folder,
except those that wheels carry beside themselves.
"""

from __future__ import annotations

import os
import runpy
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...schemas.errors import PrerequisiteError
from ...schemas.settings import Settings
from ..engine import Engine
from .archive import Layer, architecture, configuration, load, pack
from .libraries import digest, linked
from .packages import compile_below, install, write_code
from .recipe import Recipe

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
    prefix: Path
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
        prefix=Path(sys.base_prefix),
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
    load(engine, layers, configuration(layers, recipe.labels, architecture()), recipe.tag)


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
    """Return what tells one base of this kind from another: the interpreter, its libraries, the machine."""
    interpreter = host_interpreter()
    extensions = sorted(path for path in interpreter.stdlib.glob("lib-dynload/*.so") if not _left_out(path.name))
    libraries = digest((interpreter.executable, *extensions), settings.state / "images" / "libraries.seen")
    return " | ".join((sys.version, libraries, os.uname().machine))


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
    hide_prefix(root, interpreter.prefix)


def hide_prefix(root: Path, prefix: Path) -> None:
    """Let every binary below `root` name `/usr` where it names the folder of `prefix`, which may hold a user's name.

    A text in a binary cannot become shorter, so slashes fill it, which mean nothing in a path. The last part of the
    prefix stays: linkers let other texts begin within this one's end, as the version does in `/home/me/3.11.7`.
    Prefixes such as `/usr`, `/usr/local` or `/opt/python` have no such folder and tell nothing.
    """
    if len(prefix.parent.parts) <= len(Path("/opt").parts):
        return
    text = os.fsencode(f"{prefix.parent}/")
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if content.startswith(b"\x7fELF") and text in content:
            path.write_bytes(content.replace(text, b"/usr".ljust(len(text), b"/")))


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
