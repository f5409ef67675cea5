from datetime import UTC, datetime
from time import perf_counter

import pytest

from sandgate.sandbox.image import store
from sandgate.sandbox.image.profiles import BACKTESTING, CORE, Profile
from sandgate.schemas.errors import UsageError
from sandgate.schemas.settings import Settings

PINNED = f"python@sha256:{'a' * 64}"


@pytest.fixture
def settings(tmp_path):
    return Settings(state=tmp_path / "state")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "warden.py").write_text("one")
    monkeypatch.setattr("sandgate.sandbox.image.packages.INSIDE", folder)
    return folder


def record(profile=CORE, content="c" * 64):
    return store.Record(
        profile=profile.name, content=content, base="closure", id=f"sha256:{'1' * 64}", settled="2" * 64,
        layers=("sha256:3",), size=4, built=datetime.now(UTC),
    )  # fmt: skip


def test_the_same_inputs_give_the_same_content(settings, inside):
    assert store.expected_content(CORE, settings) == store.expected_content(CORE, settings)


def test_wheels_and_state_do_not_change_the_content(settings, inside, tmp_path):
    elsewhere = Settings(state=tmp_path / "other", wheels=tmp_path)
    assert store.expected_content(CORE, elsewhere) == store.expected_content(CORE, settings)


def test_whatever_enters_an_image_changes_its_content(settings, inside, tmp_path, monkeypatch):
    def content(profile=CORE, settings=settings):
        return store.expected_content(profile, settings)

    seen = [content(), content(BACKTESTING), content(settings=Settings(state=tmp_path, registry_image=PINNED))]
    (inside / "warden.py").write_text("two")
    seen.append(content())
    (inside / "warden.py").rename(inside / "guard.py")
    seen.append(content())
    (inside / "more.py").write_text("")
    seen.append(content())
    lock = tmp_path / "core.lock"
    lock.write_bytes(CORE.lock.read_bytes() + b"\n")
    with monkeypatch.context() as patch:
        patch.setattr(Profile, "lock", lock)
        seen.append(content())
    with monkeypatch.context() as patch:
        patch.setattr(store, "FORMAT", store.FORMAT + 1)
        seen.append(content())
    monkeypatch.setattr("sys.version", "3.99.0 (another build)")
    seen.append(content())
    assert len(set(seen)) == len(seen)


def test_the_content_is_known_at_once(settings):
    store.expected_content(CORE, settings)
    started = perf_counter()
    for _ in range(10):
        store.expected_content(CORE, settings)
    assert (perf_counter() - started) / 10 < 0.01


def test_a_registry_base_without_an_image_says_what_to_set(tmp_path):
    with pytest.raises(UsageError, match="registry_image is not set"):
        store.expected_content(CORE, Settings(state=tmp_path, base="registry"))


def test_records_are_kept_and_name_what_was_asked_for(settings):
    assert store.opted_in(settings) == frozenset()
    with store._alone(settings):
        store._write(settings, record())
        store._write(settings, record(BACKTESTING, "d" * 64))
    assert store.opted_in(settings) == {"core", "backtesting"}
    assert store._recorded(settings, "c" * 64).tag == "sandgate/core:cccccccccccc"


def test_a_damaged_record_allows_nothing(settings):
    with store._alone(settings):
        store._write(settings, record())
    (settings.state / "images" / f"{'c' * 64}.json").write_text('{"profile": "core"}')
    assert store.records(settings) == []


FOUND = {
    "Id": "sha256:1",
    "Architecture": "amd64",
    "Os": "linux",
    "Config": {
        "User": "10001:10001",
        "Env": ["PATH=/usr/bin"],
        "Cmd": None,
        "WorkingDir": "/",
        "Labels": {"a": "b"},
    },
    "RootFS": {"Layers": ["sha256:3"]},
}


def test_an_engine_may_leave_out_what_is_unset():
    config = FOUND["Config"] | {"Entrypoint": [], "Volumes": {}, "Hostname": ""}
    assert store._settled(FOUND | {"Config": config}) == store._settled(FOUND)


@pytest.mark.parametrize(
    "change", [{"User": ""}, {"Env": ["LD_PRELOAD=/x"]}, {"Entrypoint": ["/x"]}, {"Volumes": {"/x": {}}}]
)
def test_a_changed_configuration_is_noticed(change):
    assert store._settled(FOUND | {"Config": FOUND["Config"] | change}) != store._settled(FOUND)
