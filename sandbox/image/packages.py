"""The parts of an image that do not depend on its base: the locked packages, our own code, their bytecode."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ...schemas.errors import PrerequisiteError
from .profiles import Profile

INSIDE = Path(__file__).parents[1] / "inside"
"""The source of our code that runs in the container."""

CODE = Path("usr/lib/sandgate")
"""Where that code is inside, relative to the root. It is not on `sys.path`."""

_FOLDERS = ("dev", "etc", "job", "out", "proc", "sys", "tmp")
_PASSWD = "root:x:0:0:root:/:/nonexistent\nsandbox:x:10001:10001:sandbox:/tmp:/nonexistent\n"
_GROUP = "root:x:0:\nsandbox:x:10001:\n"
_UNUSED_SUFFIXES = {".a", ".c", ".cpp", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx"}
_INSTALL_NOTES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_build.json", "uv_cache.json"}


def install(profile: Profile, target: Path, python: list[str], wheels: Path | None) -> None:
    """Install the packages of `profile` into `target`, only what the lock's hashes name and never by building.

    `python` are the arguments that tell uv which interpreter and platform the files are for. `wheels` is a folder
    to take them from instead of the index. Raises PrerequisiteError when a package cannot be had.
    """
    import uv

    offline = ["--no-index", "--find-links", str(wheels)] if wheels else []
    command = [uv.find_uv_bin(), "pip", "install", "--no-config", "--quiet", "--target", str(target)]
    command += [*python, *offline]
    command += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirements", str(profile.lock)]
    finished = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_environment(), check=False
    )
    if finished.returncode:
        source = f"the folder {wheels}" if wheels else "the package index"
        raise PrerequisiteError(
            f"the packages of {profile.name} could not be installed from {source}: "
            f"{' '.join(finished.stderr.split())[:400]}; set `wheels` to a folder that holds them"
        )
    _prune(target)


def _environment() -> dict[str, str]:
    """uv trusts a list of authorities of its own, and a company's proxy is known to the machine's list only."""
    authorities = {"UV_SYSTEM_CERTS": "1"} if Path("/etc/ssl/certs/ca-certificates.crt").exists() else {}
    return {**authorities, **os.environ}


def _prune(site: Path) -> None:
    """Remove what no run needs: scripts, tests, sources of extensions, the installer's notes."""
    shutil.rmtree(site / "bin", ignore_errors=True)
    (site / ".lock").unlink(missing_ok=True)
    for folder, folders, files in os.walk(site):
        if "tests" in folders:
            folders.remove("tests")
            shutil.rmtree(Path(folder, "tests"))
        notes = _INSTALL_NOTES if folder.endswith(".dist-info") else set()
        for name in files:
            if name in notes or Path(name).suffix in _UNUSED_SUFFIXES:
                Path(folder, name).unlink()


def code_files() -> dict[str, bytes]:
    """Return our files for the inside by name, read once: what is digested must be what is built."""
    return {path.name: path.read_bytes() for path in sorted(INSIDE.glob("*.py"))}


def write_code(root: Path, code: dict[str, bytes]) -> None:
    """Write below `root` what is ours: the code, the accounts, and the folders that runs are mounted onto."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)
    (root / CODE).mkdir(parents=True)
    for name, content in code.items():
        (root / CODE / name).write_bytes(content)


def compile_below(root: Path, executable: Path) -> None:
    """Write the bytecode of every source below `root`, as if `root` were `/`.

    It is never checked against the source, because a read-only root could not keep a fresh one: without this, each
    run compiles what it imports. A source that does not compile has none, and fails when it is imported.
    """
    flags = ["-qq", "-j", "0", "-s", str(root), "-p", "/", "--invalidation-mode", "unchecked-hash"]
    command = [str(executable), "-I", "-W", "ignore", "-m", "compileall", *flags, str(root)]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
