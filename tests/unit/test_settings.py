"""Settings: sources, their order, and that what is not understood stops everything (E04, E08)."""

import pytest

from sandgate import Isolation, Settings, UsageError, load_settings


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
    ],
)
def test_e04_what_is_not_understood_is_one_clear_line(tmp_path, text, environ, named):
    (tmp_path / "sandbox.toml").write_text(text)

    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path, environ)

    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
