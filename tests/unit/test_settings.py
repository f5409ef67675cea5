"""Settings: sources, their order, and that what is not understood stops everything (E04, E08)."""

import pytest

from sandgate import Isolation, Limits, Settings, UsageError, load_settings
from sandgate.schemas.limits import CEILINGS


def test_the_environment_goes_over_the_file(tmp_path):
    (tmp_path / "sandbox.toml").write_text('isolation = "gvisor"\n[limits]\nmemory = "1g"\ntimeout = 5\n')

    settings = load_settings(tmp_path, {"SANDBOX_LIMITS__TIMEOUT": "9", "HOME": "/x"})

    assert settings.isolation is Isolation.GVISOR
    assert settings.limits.memory == 2**30
    assert settings.limits.timeout == 9


def test_pyproject_has_a_table(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.sandbox]\nstate = "/x/y"\n[tool.other]\nz = 1\n')

    assert str(load_settings(tmp_path, {}).state) == "/x/y"


def test_nothing_configured_means_the_defaults(tmp_path):
    assert load_settings(tmp_path, {}) == Settings()


def test_the_nearest_file_above_holds(tmp_path):
    (tmp_path / "sandbox.toml").write_text('strict = true\nstate = "here"')
    below = tmp_path / "a/b"
    below.mkdir(parents=True)

    assert load_settings(below, {}).strict
    assert load_settings(below, {}).state == tmp_path / "here"
    (tmp_path / "a/pyproject.toml").write_text("[tool.other]")
    assert load_settings(below, {}).strict, "a project without our table says nothing"
    (tmp_path / "a/pyproject.toml").write_text("[tool.sandbox]")
    assert not load_settings(below, {}).strict


def test_a_ceiling_lowers_itself_and_the_defaults_above_it_and_nothing_else(tmp_path):
    (tmp_path / "sandbox.toml").write_text('[ceilings]\nmemory = "256m"')

    settings = load_settings(tmp_path, {})

    assert settings.ceilings == CEILINGS.model_copy(update={"memory": 256 * 2**20, "disk": 256 * 2**20})
    assert settings.limits == Limits(memory=256 * 2**20)


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("limit = 1", {}, "limit"),
        ("[limits]\nmemroy = 1", {}, "memroy"),
        ("[limits]\nmemory = 'much'", {}, "limits.memory"),
        ("[limits]\nmemory = 0", {}, "limits.memory"),
        ("state = ''", {}, "state"),
        ("state = '/a'\nstate = '/b'", {}, "TOML"),
        ("strict = 'perhaps'", {}, "strict"),
        ("registry_image = 'python:3.11'", {}, "registry_image"),
        ("user = 'root'", {}, "user"),
        ("", {"SANDBOX_TIMOUT": "1"}, "timout"),
        ("", {"SANDBOX_STATE": ""}, "state"),
        ("", {"SANDBOX_LIMITS": "1", "SANDBOX_LIMITS__PIDS": "9"}, "LIMITS"),
        ("[ceilings]\nmemory = '1t'", {}, "ceilings"),
        ("[ceilings]\nmemory = '512g'", {}, "ceilings"),
        ("[ceilings]\nmemory = '64m'\n[limits]\nmemory = '128m'", {}, "ceiling of 64m"),
        ("limits = 5", {}, "limits"),
        ("ceilings = 5", {}, "ceilings"),
        ("data = ''", {}, "data"),
        ("state = '~no-such-user-here/x'", {}, "no-such-user"),
    ],
)
def test_e04_what_is_not_understood_is_one_clear_line(tmp_path, text, environ, named):
    (tmp_path / "sandbox.toml").write_text(text)

    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path, environ)

    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
