"""Which container runtimes have known holes, and what that means for a run on this engine.

The table names holes of the programs that build the container: a way out of them is a way past the seal. Holes of
the engine that need its network, its plugins or its build step are not listed, since a run uses none of them.
"""

from __future__ import annotations

import functools
import math
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

RUNC_CHANGES = "https://github.com/opencontainers/runc/blob/main/CHANGELOG.md"
CRUN_NEWS = "https://github.com/containers/crun/blob/main/NEWS"


@dataclass(frozen=True)
class Hole:
    """Holes that one release fixed: the first fixed version of each maintained branch, and who says so.

    `low` is the rating of the advisory: its holes need a hostile image or an `exec`, and are worth a warning only.
    """

    cves: tuple[str, ...]
    fixed: tuple[str, ...]
    source: str
    low: bool = False

    def is_in(self, version: Version) -> bool:
        """Return whether `version` still has the hole: fixed branches from their fix on, later branches never."""
        fixes = sorted(parsed for fix in self.fixed if (parsed := parse(fix)))
        same_branch = [fix for fix in fixes if fix[:2] == version[:2]]
        return version < (same_branch[0] if same_branch else fixes[-1])


HOLES: dict[str, tuple[Hole, ...]] = {
    "runc": (
        Hole(("CVE-2024-21626",), ("1.1.12", "1.2.0-rc.1"), RUNC_CHANGES),
        Hole(("CVE-2024-45310",), ("1.1.14", "1.2.0-rc.3"), RUNC_CHANGES, low=True),
        Hole(("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"), ("1.2.8", "1.3.3", "1.4.0-rc.3"), RUNC_CHANGES),
        Hole(("CVE-2026-41579",), ("1.3.6", "1.4.3", "1.5.0-rc.3"), RUNC_CHANGES, low=True),
    ),
    # crun is not affected by the runc holes of 2024 and 2025: containers/crun issue 1906, and NEWS of 1.14.1.
    "crun": (
        Hole(("CVE-2022-27650",), ("1.4.4",), CRUN_NEWS),
        Hole(("CVE-2025-24965",), ("1.20",), CRUN_NEWS),
        Hole(("CVE-2026-30892",), ("1.27",), CRUN_NEWS, low=True),
        Hole(("CVE-2026-47766",), ("1.28",), CRUN_NEWS, low=True),
    ),
    "runsc": (),
}
"""Known holes by runtime, as of September 2026."""

Version = tuple[int, int, int, float]

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:[-~.]?(?:rc|beta|alpha|dev)[-.]?(\d*))?", re.ASCII)
_PRERELEASE = re.compile(r"\d[-~.]?(rc|beta|alpha|dev)", re.ASCII)
_DISTRIBUTION = re.compile(r"[+~](ds|dfsg|deb)\d*|ubuntu|\.(el|fc|amzn|azl)\d", re.ASCII)


def parse(text: str) -> Version | None:
    """Return the version in `text` as it compares (a release candidate lies below its release), or None."""
    match = _VERSION.search(text)
    if match is None:
        return None
    before_release = _PRERELEASE.search(match[0]) is not None
    return int(match[1]), int(match[2]), int(match[3] or 0), float(match[4] or 0) if before_release else math.inf


@dataclass(frozen=True)
class Runtime:
    """A container runtime that the engine names: `text` as it was reported, `package` as the system has it."""

    name: str
    text: str
    package: str | None = None

    @property
    def is_readable(self) -> bool:
        """Whether we can tell which version this is. gVisor has no entry in the table, so any will do."""
        return not HOLES[self.name] or parse(self.text) is not None

    @property
    def is_packaged(self) -> bool:
        """Whether a distribution made it, and may have put the fixes into an older version."""
        return self.package is not None or _DISTRIBUTION.search(self.text) is not None

    @property
    def holes(self) -> tuple[Hole, ...]:
        """The known holes that its version number alone implies."""
        version = parse(self.text)
        return tuple(hole for hole in HOLES[self.name] if version is not None and hole.is_in(version))

    def __str__(self) -> str:
        return f"{self.name} {self.package or self.text or '(no version)'}"


def runtimes(version: Mapping[str, Any], package: Callable[[str], str | None]) -> tuple[Runtime, ...]:
    """Return the container runtimes in the engine's answer about versions: its default one, or those it lists.

    `package` tells the version of a program's package on this machine; it counts where it is the same version.
    """
    found = []
    for component in version.get("Components") or ():
        name = re.search(r"\b(runc|crun|runsc)\b", str(component.get("Name")))
        if name is None:
            continue
        text, *_ = str(component.get("Version") or "").splitlines() or [""]
        found.append(Runtime(name[1], text, _same_version(package(name[1]), text)))
    return tuple(found)


def _same_version(package: str | None, text: str) -> str | None:
    return package if package and parse(package) == parse(text) is not None else None


@functools.cache
def packaged(program: str) -> str | None:
    """Return the version of the installed package of that name (Debian's or an RPM), None where there is none."""
    for command in (
        ["dpkg-query", "--show", "--showformat=${Version}", program],
        ["rpm", "--query", "--queryformat=%{VERSION}-%{RELEASE}", program],
    ):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return answer.stdout.strip() or None
    return None


def no_package(_program: str) -> None:
    """Stand in for `packaged` where the engine is on another machine, whose packages we cannot ask."""


Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Verdict:
    """What a runtime's version means for a run: `fail` is that none may start."""

    runtime: str
    level: Level
    reason: str


def judge(found: Iterable[Runtime], strict: bool) -> list[Verdict]:
    """Return a verdict for each runtime. What we cannot tell counts as a hole, and so does no runtime at all."""
    verdicts = [_judge_one(runtime, strict) for runtime in found]
    return verdicts or [
        Verdict("container runtime", "fail", "the engine does not say which runtime it uses, so it may have holes")
    ]


def _judge_one(runtime: Runtime, strict: bool) -> Verdict:
    if not runtime.is_readable:
        return Verdict(runtime.name, "fail", f"{runtime} is no version that we can read, so it may have holes")
    holes = runtime.holes
    if not holes:
        return Verdict(runtime.name, "ok", f"{runtime} has no hole that we know of")
    cves = ", ".join(cve for hole in holes for cve in hole.cves)
    if runtime.is_packaged:
        reason = f"{runtime} is older than the fix of {cves}, which the distribution may have put in"
        return Verdict(runtime.name, "fail" if strict else "warn", reason)
    severe = any(not hole.low for hole in holes)
    return Verdict(runtime.name, "fail" if strict or severe else "warn", f"{runtime} has known holes: {cves}")


def fixed_in(name: str) -> str:
    """Return the versions of a runtime, one for each maintained branch, from which on no hole is known."""
    return " or ".join(HOLES[name][-1].fixed) if HOLES.get(name) else "a current version"
