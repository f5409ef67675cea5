"""What the doctor makes of versions as engines report them, and of machines that lack something."""

from dataclasses import dataclass

import pytest

from sandgate.sandbox import prerequisites
from sandgate.sandbox.daemon import last_complaint
from sandgate.sandbox.versions import HOLES, Runtime, judge, no_package, parse, runtimes
from sandgate.schemas.settings import Settings

# Captured from engines: Debian 12 with crun and with runc, Docker's own packages, Ubuntu 24.04, Podman, Fedora.
DEBIAN_CRUN = {
    "Components": [
        {"Name": "Engine", "Version": "20.10.24+dfsg1"},
        {"Name": "containerd", "Version": "1.6.20~ds1", "Details": {"GitCommit": "1.6.20~ds1-1+deb12u3"}},
        {"Name": "crun", "Version": "1.8.1", "Details": {"GitCommit": "f8a096be060b22ccd3d5f3ebe44108517fbf6c30"}},
        {"Name": "docker-init", "Version": "0.19.0", "Details": {"GitCommit": ""}},
    ]
}
DEBIAN_RUNC = {"Components": [{"Name": "runc", "Version": "1.1.5+ds1", "Details": {"GitCommit": "1.1.5+ds1-1"}}]}
DOCKER_OLD = {"Components": [{"Name": "runc", "Version": "1.1.11", "Details": {"GitCommit": "v1.1.11-0-g4bccb38"}}]}
DOCKER_NEW = {"Components": [{"Name": "runc", "Version": "1.3.6", "Details": {"GitCommit": "v1.3.6-0-g5fd4c4d"}}]}
UBUNTU = {"Components": [{"Name": "runc", "Version": "1.1.12-0ubuntu3.1"}]}
PODMAN = {"Components": [{"Name": "OCI Runtime (crun)", "Version": "crun version 1.14.1\ncommit: de537a7\nrundir: /"}]}
NO_RUNTIME = {"Components": [{"Name": "Engine", "Version": "29.0.0"}]}


@pytest.mark.parametrize(
    ("name", "version", "cves"),
    [
        ("runc", "1.1.11", {"CVE-2024-21626", "CVE-2024-45310", "CVE-2025-31133", "CVE-2026-41579"}),
        ("runc", "1.1.12", {"CVE-2024-45310", "CVE-2025-31133", "CVE-2026-41579"}),
        ("runc", "1.1.15", {"CVE-2025-31133", "CVE-2026-41579"}),
        ("runc", "1.2.0-rc.2", {"CVE-2024-45310", "CVE-2025-31133", "CVE-2026-41579"}),
        ("runc", "1.2.7", {"CVE-2025-31133", "CVE-2026-41579"}),
        ("runc", "1.2.8", {"CVE-2026-41579"}),
        ("runc", "1.3.2", {"CVE-2025-31133", "CVE-2026-41579"}),
        ("runc", "1.3.3", {"CVE-2026-41579"}),
        ("runc", "1.3.6", set()),
        ("runc", "1.4.0-rc.2", {"CVE-2025-31133", "CVE-2026-41579"}),
        ("runc", "1.4.0-rc.3", {"CVE-2026-41579"}),
        ("runc", "1.4.3", set()),
        ("runc", "1.5.0-rc.2", {"CVE-2026-41579"}),
        ("runc", "1.5.0", set()),
        ("runc", "2.0.0", set()),
        ("crun", "1.4.3", {"CVE-2022-27650", "CVE-2025-24965", "CVE-2026-30892", "CVE-2026-47766"}),
        ("crun", "1.19.1", {"CVE-2025-24965", "CVE-2026-30892", "CVE-2026-47766"}),
        ("crun", "1.20", {"CVE-2026-30892", "CVE-2026-47766"}),
        ("crun", "1.27.1", {"CVE-2026-47766"}),
        ("crun", "1.28", set()),
        ("runsc", "release-20260101.0", set()),
    ],
)
def test_holes_by_version(name, version, cves):
    """Each floor has a version on either side of it; the first CVE of an entry stands for the entry."""
    assert {hole.cves[0] for hole in Runtime(name, version).holes} == cves


@pytest.mark.parametrize(
    ("version", "package", "level", "strict"),
    [
        (DEBIAN_CRUN, "1.8.1-1+deb12u1", "warn", "fail"),
        (DEBIAN_CRUN, "1.20-1", "fail", "fail"),  # installed beside the package: not the one that the engine runs
        (DEBIAN_CRUN, None, "fail", "fail"),
        (DEBIAN_RUNC, None, "warn", "fail"),
        (DOCKER_OLD, None, "fail", "fail"),
        (DOCKER_NEW, None, "ok", "ok"),
        (UBUNTU, None, "warn", "fail"),
        (PODMAN, "1.14.1-1.fc40", "warn", "fail"),
        (NO_RUNTIME, None, "fail", "fail"),
        ({}, None, "fail", "fail"),
        ({"Components": [{"Name": "runc", "Version": "unknown"}]}, None, "fail", "fail"),
        ({"Components": [{"Name": "crun", "Version": ""}]}, "1.28-1", "fail", "fail"),
        ({"Components": [{"Name": "crun", "Version": "UNKNOWN"}]}, "UNKNOWN", "fail", "fail"),
        ({"Components": [{"Name": "crun", "Version": "1.26"}]}, None, "warn", "fail"),  # rated low: a warning
        ({"Components": [{"Name": "runsc", "Version": "release-20260101.0"}]}, None, "ok", "ok"),
    ],
)
def test_verdict_on_an_engine(version, package, level, strict):
    found = runtimes(version, lambda _: package)
    assert [verdict.level for verdict in judge(found, strict=False)] == [level]
    assert [verdict.level for verdict in judge(found, strict=True)] == [strict]


def test_warning_names_the_package_and_every_hole():
    (verdict,) = judge(runtimes(DEBIAN_CRUN, lambda _: "1.8.1-1+deb12u1"), strict=False)
    assert "crun 1.8.1-1+deb12u1" in verdict.reason
    for cve in ("CVE-2025-24965", "CVE-2026-30892", "CVE-2026-47766"):
        assert cve in verdict.reason


def test_every_floor_can_be_read_and_has_a_source():
    for holes in HOLES.values():
        for hole in holes:
            assert all(parse(fix) for fix in hole.fixed)
            assert hole.source.startswith("https://github.com/")


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.4.0-rc.2", "1.4.0-rc.3"),
        ("1.4.0-rc.3", "1.4.0"),
        ("1.9", "1.10"),
        ("1.2.0-rc95", "1.2.0"),
        ("1.20", "1.20.1"),
    ],
)
def test_versions_compare(older, newer):
    assert parse(older) < parse(newer)


@pytest.mark.parametrize("text", ["", "unknown", "v", "12", "f8a096be060b22ccd3d5f3ebe44108517fbf6c30"])
def test_no_version(text):
    assert parse(text) is None


@dataclass
class Answer:
    """An engine's answer about its versions, without the engine."""

    answer: dict
    is_local: bool = False

    def version(self):
        return self.answer


def test_holes_refuse_and_say_what_to_do():
    assert prerequisites.holes(Answer(DOCKER_NEW), strict=True) == []
    assert prerequisites.holes(Answer(DEBIAN_RUNC), strict=False) == []
    (line,) = prerequisites.holes(Answer(DOCKER_OLD), strict=False)
    assert "CVE-2024-21626" in line
    assert "upgrade runc to 1.3.6 or 1.4.3 or 1.5.0-rc.3" in line


def test_another_machines_packages_are_not_asked():
    (runtime,) = runtimes(DEBIAN_CRUN, no_package)
    assert not runtime.is_packaged


@pytest.mark.parametrize(
    ("runtimes", "level", "reason"),
    [
        ({}, "warn", "not registered"),
        ({"runsc": {"path": "runsc"}}, "warn", "without --network=none (its runs fail)"),
        ({"runsc": {"path": "runsc", "runtimeArgs": ["-network=none"]}}, "ok", "can be used"),
    ],
)
def test_gvisor_is_usable_only_with_its_arguments(runtimes, level, reason):
    (check,) = [check for check in prerequisites.capabilities({"Runtimes": runtimes}) if check.name == "gvisor"]
    assert check.level == level
    assert reason in check.finding
    assert bool(check.advice) == (level != "ok")


def test_doctor_without_an_engine_still_looks_at_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    checks = {check.name: check for check in prerequisites.examine(Settings(state=tmp_path / "not" / "there"))}
    assert checks["engine"].level == "fail"
    assert "sandbox engine up" in checks["engine"].advice
    assert {"python", "own engine", "cgroup", "seccomp", "landlock", "overlayfs", "disk", "git"} <= checks.keys()
    assert checks["own engine"].finding == "is not running"


def test_whatever_is_not_ok_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("PATH", "/nonexistent")
    checks = prerequisites.examine(Settings(state=tmp_path))
    assert {check.name for check in checks if check.level == "fail"} >= {"engine", "git"}
    assert all(check.advice for check in checks if check.level != "ok")


def test_state_folder_is_measured_where_it_will_be(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    kept = prerequisites.examine(Settings(state=tmp_path / "later"))
    (disk,) = [check for check in kept if check.name == "disk"]
    assert "GiB free" in disk.finding
    assert not (tmp_path / "later").exists()


def test_landlock_is_asked_of_the_kernel():
    """The probe must ask, not create: a descriptor instead of a version would leak one file at each call."""
    assert 0 <= prerequisites.landlock_abi() < 100
    assert prerequisites.landlock_abi() == prerequisites.landlock_abi()


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ("", "it wrote nothing to its log"),
        ("mount: /run/sandgate: permission denied.\n", "mount: /run/sandgate: permission denied."),
        (
            'time="…" level=warning msg="old"\nfailed to start daemon: Devices cgroup isn\'t mounted\n\n',
            "failed to start daemon: Devices cgroup isn't mounted",
        ),
        (
            'time="…" level=error msg="no space left"\ntime="…" level=warning msg="x"\n',
            'time="…" level=error msg="no space left"',
        ),
    ],
)
def test_reason_that_a_daemon_gave(log, complaint):
    assert last_complaint(log) == complaint
