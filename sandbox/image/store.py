"""Which images may be run: the ones recorded here when we built them, as long as the engine still shows the same.

An image is known by its content digest, which can be computed before there is an image: the lock, the base, our
code inside and the format below. The record under that digest is what allows an image id; tags are for people.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker.errors
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ...schemas.errors import EngineError, SealError
from ...schemas.run import Image, Sha256
from ...schemas.settings import Settings
from ..engine import Engine, calling
from . import closure, registry
from .packages import code_files
from .profiles import PROFILES, Profile
from .recipe import Recipe, tag

FORMAT = 2
"""The version of how images are put together. Raise it when the same inputs start to give another image."""

Say = Callable[[str], None]
"""Gets one line of progress for people at a time."""

_BASES = {"closure": closure, "registry": registry}


class Record(BaseModel):
    """What we remember of an image that we built. `id` is the engine's; `settled` digests its configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    content: Sha256
    base: str
    id: str
    settled: Sha256
    layers: tuple[str, ...]
    size: int
    built: AwareDatetime

    @property
    def image(self) -> Image:
        """The image as evidence names it."""
        return Image(profile=self.profile, id=self.id, content=self.content)

    @property
    def tag(self) -> str:
        """The name under which people find the image on the engine."""
        return tag(self.profile, self.content)


class Listed(Image):
    """An image as `sandbox image list` shows it. `current` means that a run of its profile would take it now."""

    tag: str
    base: str
    size: int
    built: AwareDatetime
    current: bool


def expected_content(profile: Profile, settings: Settings) -> str:
    """Return the content digest of the image that a run of `profile` needs now, as hexadecimal SHA-256."""
    return _recipe(profile, settings).content


def ensure(engine: Engine, profile: Profile, settings: Settings, say: Say) -> Image:
    """Return the image for `profile`, built first when the engine lacks it; `say` gets progress for people.

    Raises SealError when the engine has an image under the recorded id that is not the one we built.
    """
    if image := _held(engine, profile, settings):
        return image
    with _alone(settings):
        return _held(engine, profile, settings) or _built(engine, profile, settings, say)


def build(engine: Engine, profile: Profile, settings: Settings, say: Say) -> Image:
    """Build the image for `profile` whether or not there is one, and record it."""
    with _alone(settings):
        return _built(engine, profile, settings, say)


def opted_in(settings: Settings) -> frozenset[str]:
    """Return the names of the profiles that were built here before, for whatever lock."""
    return frozenset(record.profile for record in records(settings))


def listed(engine: Engine, settings: Settings) -> list[Listed]:
    """Return the recorded images that the engine has, by profile and then newest first."""
    current = {expected_content(profile, settings) for profile in PROFILES.values()}
    held = [record for record in records(settings) if _inspect(engine, record.id) is not None]
    held.sort(key=lambda record: record.built, reverse=True)
    held.sort(key=lambda record: record.profile)
    return [
        Listed(
            **record.image.model_dump(),
            tag=record.tag,
            base=record.base,
            size=record.size,
            built=record.built,
            current=record.content in current,
        )
        for record in held
    ]


def prune(engine: Engine, settings: Settings, days: float) -> list[str]:
    """Remove images that no run would take any more and that were built over `days` ago; return their tags."""
    with _alone(settings):  # Nobody builds now, so what a builder left is a dead one's.
        for left in _folder(settings).glob("building-*"):
            shutil.rmtree(left)
    horizon = datetime.now(UTC) - timedelta(days=days)
    old = [image for image in listed(engine, settings) if not image.current and image.built < horizon]
    for image in old:
        with calling("remove an image", gone_is_fine=True):
            engine.api.remove_image(image.id, force=True)
        (_folder(settings) / f"{image.content}.json").unlink()
    return [image.tag for image in old]


def verify(engine: Engine, image: Image, settings: Settings) -> list[str]:
    """Return one line for each way in which the engine's image differs from the one we recorded; none is good."""
    record = _recorded(settings, image.content)
    if record is None:
        return [f"content {image.content[:12]} is not recorded; run `sandbox image build {image.profile}`"]
    if image.id != record.id:
        return [f"id is {image.id}, recorded is {record.id}"]
    found = _inspect(engine, record.id)
    if found is None:
        return [f"{record.tag} is not on the engine; run `sandbox image build {record.profile}`"]
    return _mismatches(record, found)


def records(settings: Settings) -> list[Record]:
    """Return what is recorded. A file that is no record allows nothing, so it is passed over."""
    found = (_read(path) for path in sorted(_folder(settings).glob("*.json")))
    return [record for record in found if record is not None]


def _recipe(profile: Profile, settings: Settings) -> Recipe:
    base, code = _base(settings), code_files()
    identity = _BASES[base].identity(settings)
    digest = hashlib.sha256(json.dumps([FORMAT, profile.name, base, identity]).encode())
    for name, content in {profile.lock.name: profile.lock.read_bytes(), **code}.items():
        digest.update(f"\n{name} {len(content)}\n".encode())
        digest.update(content)
    return Recipe(profile, settings, base, code, digest.hexdigest())


def _base(settings: Settings) -> str:
    if settings.base == "auto":
        return "registry" if settings.registry_image else "closure"
    return settings.base


def _folder(settings: Settings) -> Path:
    return settings.state / "images"


def _read(path: Path) -> Record | None:
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _recorded(settings: Settings, content: str) -> Record | None:
    return _read(_folder(settings) / f"{content}.json")


def _inspect(engine: Engine, reference: str) -> dict[str, Any] | None:
    with calling("look for an image"):
        try:
            return dict(engine.api.inspect_image(reference))
        except docker.errors.ImageNotFound:
            return None


def _held(engine: Engine, profile: Profile, settings: Settings) -> Image | None:
    record = _recorded(settings, expected_content(profile, settings))
    found = _inspect(engine, record.id) if record else None
    if record is None or found is None:
        return None
    if wrong := _mismatches(record, found):
        raise SealError(f"{record.tag} is not what was built: {wrong[0]}; run `sandbox image build {profile.name}`")
    return record.image


def _mismatches(record: Record, found: dict[str, Any]) -> list[str]:
    """Engines count ids in different ways, so the configuration and the layers are what has to be the same."""
    pairs = [
        ("id", found["Id"], record.id),
        ("configuration", _settled(found), record.settled),
        ("layers", tuple(found["RootFS"]["Layers"]), record.layers),
    ]
    return [f"{name} is {actual}, recorded is {recorded}" for name, actual, recorded in pairs if actual != recorded]


def _settled(found: dict[str, Any]) -> str:
    """Return the digest of what an image's configuration means for a run; unset and empty mean the same."""
    names = ("User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Labels", "Volumes", "ExposedPorts", "Healthcheck")
    values = {name: found["Config"].get(name) or None for name in names}
    values |= {"Architecture": found["Architecture"], "Os": found["Os"]}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the lock that keeps two processes from building at once."""
    _folder(settings).mkdir(parents=True, exist_ok=True, mode=0o700)
    with (_folder(settings) / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _built(engine: Engine, profile: Profile, settings: Settings, say: Say) -> Image:
    recipe = _recipe(profile, settings)
    say(f"building {recipe.tag} (licence of its packages: {profile.licence})")
    with tempfile.TemporaryDirectory(dir=_folder(settings), prefix="building-") as work:
        _BASES[recipe.base].build(engine, recipe, Path(work), say)
    found = _inspect(engine, recipe.tag)
    if found is None:
        raise EngineError(f"the engine lost {recipe.tag} right after it was built; is something removing images?")
    record = _record(recipe, found)
    _write(settings, record)
    say(f"built {recipe.tag} ({record.size / 1e6:.0f} MB)")
    return record.image


def _record(recipe: Recipe, found: dict[str, Any]) -> Record:
    return Record(
        profile=recipe.profile.name,
        content=recipe.content,
        base=recipe.base,
        id=found["Id"],
        settled=_settled(found),
        layers=tuple(found["RootFS"]["Layers"]),
        size=found["Size"],
        built=datetime.now(UTC),
    )


def _write(settings: Settings, record: Record) -> None:
    target = _folder(settings) / f"{record.content}.json"
    partial = target.with_suffix(".partial")
    partial.write_text(record.model_dump_json(indent=1))
    partial.replace(target)
