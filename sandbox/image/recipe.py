"""What is to be built: a profile under the settings, named by the digest of everything that goes into it."""

from __future__ import annotations

from dataclasses import dataclass

from ...schemas.settings import Settings
from .profiles import Profile


@dataclass(frozen=True)
class Recipe:
    """One image to build.

    `base` is the kind of base (`closure` or `registry`), `code` our files for the inside by name, and `content` the
    digest of it all.
    """

    profile: Profile
    settings: Settings
    base: str
    code: dict[str, bytes]
    content: str

    @property
    def tag(self) -> str:
        """The name of the image for people."""
        return tag(self.profile.name, self.content)

    @property
    def labels(self) -> dict[str, str]:
        """What the image says of itself to those who list images. Nothing of ours believes it."""
        return {"sandgate.content": self.content, "sandgate.profile": self.profile.name}


def tag(profile: str, content: str) -> str:
    """Return the name that an image of `profile` has on an engine."""
    return f"sandgate/{profile}:{content[:12]}"
