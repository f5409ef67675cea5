"""The record of runs on disk."""

import os

from sandgate import Run
from sandgate.state.runs import Runs

RECORD = {
    "id": "20260101-000000-aa",
    "file": "x.py",
    "source": "0" * 64,
    "status": "OK",
    "reason": "it ended by itself with 0",
    "usage": {"wall_seconds": 1.0},
    "limits": {},
    "image": {"profile": "core", "id": "sha256:1", "content": "1" * 64},
    "isolation": "default",
    "runtime": "crun",
    "started": "2026-01-01T00:00:00Z",
    "finished": "2026-01-01T00:00:01Z",
}


def run_of(run_id: str) -> Run:
    return Run.model_validate({**RECORD, "id": run_id})


def keep(runs: Runs, run_id: str) -> None:
    with runs.claim(run_id):
        runs.record(run_of(run_id))


def test_a_claim_without_a_record_leaves_nothing(tmp_path):
    runs = Runs(tmp_path / "runs")
    with runs.claim("a") as folder:
        assert folder.is_dir()
        assert runs.prune(0) == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_a_dead_owner_left_is_pruned_at_once(tmp_path):
    runs = Runs(tmp_path / "runs")
    (tmp_path / "runs/dead/artifacts").mkdir(parents=True)
    keep(runs, "done")
    with runs.claim("alive") as folder:
        (folder / "artifacts").mkdir()
        assert runs.prune(30) == ["dead"]
        assert folder.exists()
    assert [run.id for run in runs.recent(5)] == ["done"]


def test_the_newest_come_first_and_what_cannot_be_read_is_left_out(tmp_path):
    runs = Runs(tmp_path / "runs")
    assert runs.recent(5) == []
    for number in range(4):
        keep(runs, f"20260101-00000{number}-aa")
    (tmp_path / "runs/20260101-000003-aa/run.json").write_text("{")
    (tmp_path / "runs/20260101-000009-in-flight").mkdir()

    assert [run.id for run in runs.recent(2)] == ["20260101-000002-aa", "20260101-000001-aa"]


def test_only_old_runs_are_pruned(tmp_path):
    runs = Runs(tmp_path / "runs")
    for name in ("old", "new"):
        keep(runs, name)
    os.utime(tmp_path / "runs/old", (0, 0))

    assert runs.prune(1) == ["old"]
    assert [run.id for run in runs.recent(5)] == ["new"]
    assert Runs(tmp_path / "nothing").prune(1) == []
