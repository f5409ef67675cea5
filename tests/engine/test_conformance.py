"""The real back ends against the conformance suite."""

import os

import pytest

from sandgate import Isolation, PrerequisiteError
from sandgate.sandbox.backend import DockerBackend

from ..conformance import PROGRAMS, answer_of, check


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("name", PROGRAMS)
def test_conformance(settings, image, engine, tmp_path, name, isolation):
    backend = DockerBackend(settings, print)
    if isolation is Isolation.GVISOR and not os.environ.get("CI") and "runsc" not in engine.info()["Runtimes"]:
        with pytest.raises(PrerequisiteError, match="runsc"):
            answer_of(backend, PROGRAMS[name], isolation, tmp_path)
        return
    check(backend, PROGRAMS[name], isolation, tmp_path)
