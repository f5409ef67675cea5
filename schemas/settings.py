"""Settings: `[tool.sandbox]` in pyproject.toml or `sandbox.toml`, then `SANDBOX_*`, then flags.

Unknown names are errors in every source: a misspelt limit must not silently mean the default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import UsageError
from .evaluation import Costs
from .limits import CEILINGS, Limits, beyond, over
from .run import Isolation

PREFIX = "SANDBOX_"


def default_state_folder() -> Path:
    """Return where runs, images and our own engine live unless `state` says otherwise (XDG state folder)."""
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "sandgate"
    try:
        return Path.home() / ".local" / "state" / "sandgate"
    except RuntimeError as error:
        raise UsageError("this user has no home folder; set SANDBOX_STATE to a folder to work in") from error


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
    data: str = Field(default="sp500", min_length=1)
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
        return None if value is None else _expanded(value).absolute()

    @model_validator(mode="before")
    @classmethod
    def _fill_what_is_not_given(cls, values: Any) -> Any:
        """Ceilings that are not named stay ours; limits that are not named are the defaults, under the ceilings."""
        if not isinstance(values, dict):
            return values
        ceilings = over(CEILINGS, _table(values, "ceilings"))
        try:
            highest = Limits.model_validate(ceilings)
        except ValidationError:
            return {**values, "ceilings": ceilings}
        defaults = {name: min(default, getattr(highest, name)) for name, default in Limits().model_dump().items()}
        limits = over(Limits.model_construct(**defaults), _table(values, "limits"))
        return {**values, "ceilings": ceilings, "limits": limits}

    @model_validator(mode="after")
    def _limits_within_ceilings(self) -> Settings:
        if too_much := beyond(self.limits, self.ceilings):
            raise ValueError(f"limits: {'; '.join(too_much)}")
        return self

    @field_validator("ceilings")
    @classmethod
    def _ceilings_only_lower(cls, value: Limits) -> Limits:
        if too_much := beyond(value, CEILINGS):
            raise ValueError("; ".join(too_much))
        return value


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user's home") from error


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    table = values.get(name, {})
    return table.model_dump() if isinstance(table, Limits) else table if isinstance(table, dict) else {"": table}


def load_settings(folder: Path, environ: Mapping[str, str]) -> Settings:
    """Read the settings that hold in `folder`: the nearest file in it or above it, then the environment.

    Raises UsageError naming key, reason and source.
    """
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
        tables: dict[object, type[BaseModel]] = {"limits": Limits, "ceilings": Limits, "costs": Costs}
        table = tables.get(first["loc"][0], Settings)
        return f"unknown setting {where!r}; there are {', '.join(table.model_fields)}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason


def _from_file(folder: Path) -> tuple[dict[str, Any], str | None]:
    for above in (folder.absolute(), *folder.absolute().parents):
        own, project = above / "sandbox.toml", above / "pyproject.toml"
        if own.exists():
            return _anchored(_parsed(own), own), str(own)
        tools = _parsed(project).get("tool")
        if isinstance(tools, dict) and "sandbox" in tools:
            return _anchored(tools["sandbox"], project), str(project)
    return {}, None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}") from error


def _anchored(table: Any, source: Path) -> dict[str, Any]:
    """Return the table with its relative paths counted from the folder that it stands in."""
    if not isinstance(table, dict):
        raise UsageError(f"{source}: tool.sandbox must be a table")
    paths = {name: table[name] for name in ("state", "wheels") if isinstance(table.get(name), str) and table[name]}
    try:
        return {**table, **{name: str(source.parent / _expanded(text)) for name, text in paths.items()}}
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from error


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
