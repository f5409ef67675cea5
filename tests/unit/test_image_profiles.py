import re

import pytest

from sandgate.sandbox.image.profiles import BACKTESTING, BACKTRADER, CORE, PROFILES, named, profile_for
from sandgate.schemas.errors import PrerequisiteError, UsageError

ALL = frozenset(PROFILES)
REQUIREMENT = re.compile(r"^(?P<name>[a-z0-9-]+)==\S+(?: ; (?P<marker>[^\\]+))? \\$", re.MULTILINE)


@pytest.mark.parametrize("imports", [set(), {"numpy", "pandas", "talib"}, {"os", "no_such_package"}])
def test_core_unless_only_another_profile_has_an_import(imports):
    assert profile_for(imports, ALL) is CORE


@pytest.mark.parametrize(
    ("imports", "profile"),
    [({"numpy", "backtesting"}, BACKTESTING), ({"bokeh"}, BACKTESTING), ({"backtrader"}, BACKTRADER)],
)
def test_an_import_selects_its_profile(imports, profile):
    assert profile_for(imports, ALL) is profile


@pytest.mark.parametrize("profile", [BACKTESTING, BACKTRADER])
def test_a_copyleft_profile_must_be_asked_for(profile):
    with pytest.raises(PrerequisiteError) as raised:
        profile_for({profile.name}, ALL - {profile.name})
    message = str(raised.value)
    assert profile.licence in message
    assert f"`sandbox image build {profile.name}`" in message
    assert "\n" not in message


def test_no_image_holds_two_profiles():
    with pytest.raises(UsageError, match="backtesting and backtrader"):
        profile_for({"backtesting", "backtrader"}, ALL)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="core, backtesting, backtrader"):
        named("cor")


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_requirement_of_a_lock_is_pinned_with_hashes_and_names_no_host(profile):
    text = profile.lock.read_text()
    assert "://" not in text
    assert "index" not in text
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) >= 5
    for block in blocks:
        assert REQUIREMENT.match(block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_lock_serves_every_supported_python(profile):
    numpy = {match["marker"] for match in REQUIREMENT.finditer(profile.lock.read_text()) if match["name"] == "numpy"}
    assert numpy == {"python_full_version < '3.12'", "python_full_version >= '3.12'"}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_lock_holds_what_its_declaration_asks_for_and_what_core_holds(profile):
    def pins(path):
        return {match["name"] for match in REQUIREMENT.finditer(path.read_text())}

    asked = {line.lower() for line in profile.lock.with_suffix(".in").read_text().split()}
    assert asked | pins(CORE.lock) <= pins(profile.lock)
