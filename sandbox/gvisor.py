"""Which arguments gVisor's `runsc` needs to run candidates, and whether it works on this machine at all."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .control_group import ControlGroup

NEEDED = {"--network=none": "its runs fail"}
"""The arguments with which an engine must have registered it, and what is the matter without each."""

TRIAL_SECONDS = 10


def lacking(runtime: Mapping[str, object]) -> list[str]:
    """Return the needed arguments that an engine's description of the runtime does not show."""
    listed = runtime.get("runtimeArgs")
    given = {str(argument).lstrip("-") for argument in listed} if isinstance(listed, list) else set()
    return [argument for argument in NEEDED if argument.lstrip("-") not in given]


def working_arguments(runsc: str, scratch: Path, group: ControlGroup) -> list[str]:
    """Return the arguments with which it works here, none where it does not; `scratch` is made and removed.

    It catches system calls by systrap, or by what older releases had in its place. The kvm platform is left out: it
    hangs on some kernels, and nothing tells which. `--oci-seccomp` is left out too: with it (release 20221219) a run
    that meets its timeout ends without the warden's completion record.
    """
    for platform in ("systrap", "ptrace"):
        arguments = [f"--platform={platform}", *NEEDED]
        try:
            if _runs([runsc, f"--root={scratch}", "--ignore-cgroups", *arguments, "do", "true"], group):
                return arguments
        except subprocess.TimeoutExpired:
            group.kill()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return []


def _runs(command: list[str], group: ControlGroup) -> bool:
    """Whether a command ends with 0. It gets pipes: `runsc do` gives its standard files away, be it /dev/null."""
    trial = subprocess.run(
        [*group.entering, *command], input=b"", capture_output=True, timeout=TRIAL_SECONDS, check=False
    )
    return trial.returncode == 0
