"""Tests in this folder run real containers on a real engine. Without one they fail: they never skip."""

import os
from pathlib import Path

import pytest

from sandgate import Limits, Run, Settings
from sandgate.patchflow.exercise import Exercise, Request, exercise
from sandgate.sandbox import reaper
from sandgate.sandbox.backend import DockerBackend
from sandgate.sandbox.engine import connect
from sandgate.sandbox.image import profiles, store
from sandgate.sandbox.job import new_run_id
from sandgate.validation.source import from_bytes

from ..conftest import ROOT

STATE = Path(os.environ.get("SANDBOX_STATE", ROOT / ".sandbox"))


@pytest.fixture(scope="session")
def settings():
    """Settings with the state folder that the set-up made: its engine, if it had to start one, and its images."""
    return Settings(state=STATE)


@pytest.fixture(scope="session")
def engine(settings):
    return connect(settings)


@pytest.fixture(scope="session")
def image(engine, settings):
    return store.ensure(engine, profiles.CORE, settings, print)


@pytest.fixture
def execute(image, settings):
    """Run code as `sandbox run` does and return the evidence; keyword arguments are limits."""

    def execute(code: str | bytes, **limits: object) -> Run:
        return full(code, **limits).run

    def full(code: str | bytes, **limits: object) -> Exercise:
        source = from_bytes("candidate.py", code.encode() if isinstance(code, str) else code)
        request = Request(source=source, limits=Limits(**limits))
        return exercise(request, settings, DockerBackend(settings, print), lambda *_: None, new_run_id())

    execute.full = full
    return execute


@pytest.fixture(autouse=True)
def _nothing_left(engine, settings):
    """After every test: no container that this process owns is left, running or dead."""
    yield
    filters = {"label": [f"{reaper.OWNER_LABEL}={reaper.owner_label()}"]}
    assert engine.api.containers(all=True, filters=filters) == []
