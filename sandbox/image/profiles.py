"""The named sets of packages that an image can hold, and which of them a file needs.

A profile is declared by `profiles/NAME.in` and pinned with hashes in `profiles/NAME.lock`, one lock for every
supported Python. `core` is permissive and the default; the others carry a copyleft licence, so nobody gets them
unless they asked for them by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...schemas.errors import PrerequisiteError, UsageError


@dataclass(frozen=True)
class Profile:
    """One set of packages. `imports` are the top-level names that only this profile provides."""

    name: str
    imports: frozenset[str]
    licence: str
    opt_in: bool

    @property
    def lock(self) -> Path:
        """The pinned requirements: versions and hashes, with markers for each supported Python."""
        return Path(__file__).parent / "profiles" / f"{self.name}.lock"


CORE = Profile("core", frozenset(), "permissive (BSD)", opt_in=False)
BACKTESTING = Profile("backtesting", frozenset({"backtesting", "bokeh"}), "AGPL-3.0", opt_in=True)
BACKTRADER = Profile("backtrader", frozenset({"backtrader"}), "GPL-3.0", opt_in=True)

PROFILES = {profile.name: profile for profile in (CORE, BACKTESTING, BACKTRADER)}
"""Every profile by name. Each holds what `core` holds."""


def named(name: str) -> Profile:
    """Return the profile called `name`. Raises UsageError when there is none."""
    if name not in PROFILES:
        raise UsageError(f"no image profile is called {name!r}; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]


def profile_for(imports: set[str], opted_in: frozenset[str]) -> Profile:
    """Return the profile for a file whose top-level imports are `imports`: `core` unless only another has one.

    `opted_in` names the profiles that the user has asked for before. Raises PrerequisiteError when the profile is
    one to be asked for and was not, UsageError when no single profile has every import.
    """
    selected = [profile for profile in PROFILES.values() if profile.imports & imports]
    if len(selected) > 1:
        names = " and ".join(profile.name for profile in selected)
        raise UsageError(f"the file imports packages of the profiles {names}, and no image holds both; use one")
    profile = selected[0] if selected else CORE
    if profile.opt_in and profile.name not in opted_in:
        package = min(profile.imports & imports)
        raise PrerequisiteError(
            f"{package} is licensed under {profile.licence} and so never installed unasked; "
            f"run `sandbox image build {profile.name}` to accept that"
        )
    return profile
