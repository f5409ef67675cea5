"""Settings: `[tool.sandbox]` in pyproject.toml or `sandbox.toml`, then `SANDBOX_*`, then flags.

Unknown names are errors in every source: a misspelt limit must not silently mean the default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import UsageError
from .evaluation import Costs
from .limits import CEILINGS, Limits, beyond
from .run import Isolation

PREFIX = "SANDBOX_"


def default_state_folder() -> Path:
    """Return where runs, images and our own engine live unless `state` says otherwise (XDG state folder)."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "sandgate"


class Settings(BaseModel):
    """Everything that can be configured. Absent means the default below; an empty text is refused.

    A relative `state` or `wheels` in a file counts from that file's folder. `base` is how runtime images are made:
    `closure` packs this machine's interpreter, `registry` starts from `registry_image` (which must be pinned by
    digest), and `auto` takes the registry when an image is named there. `wheels` is a folder to take packages from
    instead of the package index. `strict` refuses to run on an engine with a known hole, even one that the
    distribution says it patched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Path = Field(default_factory=default_state_folder)
    isolation: Isolation = Isolation.DEFAULT
    strict: bool = False
    limits: Limits = Limits()
    ceilings: Limits = CEILINGS
    costs: Costs = Costs()
    data: str = "sp500"
    base: Literal["auto", "closure", "registry"] = "auto"
    registry_image: str | None = Field(default=None, pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$")
    wheels: Path | None = None

    @field_validator("state", "wheels", mode="before")
    @classmethod
    def _no_empty_path(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("must not be empty")
        return value

    @field_validator("state", "wheels")
    @classmethod
    def _same_from_everywhere(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("ceilings")
    @classmethod
    def _ceilings_only_lower(cls, value: Limits) -> Limits:
        if over := beyond(value, CEILINGS):
            raise ValueError("; ".join(over))
        return value


def load_settings(folder: Path, environ: Mapping[str, str]) -> Settings:
    """Read the settings that hold in `folder`. Raises UsageError naming key, reason and source."""
    values, source = _from_file(folder)
    sources = [source] if source else []
    from_environ = _from_environ(environ)
    if from_environ:
        sources.append(f"{PREFIX}* variables")
    merged = _merge(values, from_environ)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise UsageError(f"{' and '.join(sources) or 'settings'}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """Return the first complaint of a validation error as one line: where, and why."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown setting {where!r}; see the README for the names that exist"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason


def _from_file(folder: Path) -> tuple[dict[str, Any], str | None]:
    own, project = folder / "sandbox.toml", folder / "pyproject.toml"
    path = own if own.exists() else project
    if not path.exists():
        return {}, None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}") from error
    table = document if path == own else document.get("tool", {}).get("sandbox", {})
    for name in ("state", "wheels"):
        if isinstance(relative := table.get(name), str) and relative:
            table[name] = str(folder / Path(relative).expanduser())
    return table, str(path)


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    """`SANDBOX_LIMITS__MEMORY=1g` means limits.memory; the double underscore separates table and key."""
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        *tables, key = name.removeprefix(PREFIX).lower().split("__")
        target = values
        for table in tables:
            target = target.setdefault(table, {})
            if not isinstance(target, dict):
                raise UsageError(f"{name}: {table} is a setting and a table of settings at once; unset one")
        target[key] = text
    return values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
