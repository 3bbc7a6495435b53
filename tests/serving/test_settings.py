"""Settings and where they come from."""

from __future__ import annotations

import pytest

from serving.environment import SettingsError
from serving.settings import Settings, environment_names, read_settings


def test_flags_go_before_the_environment_and_that_before_the_defaults() -> None:
    environment = {"PORT": "9000", "HOST": "0.0.0.0", "SLIPWAY_MAX_WAITING": "0", "SLIPWAY_THREADS": ""}
    settings = read_settings(environment, port=9001, host=None)
    assert (settings.port, settings.host, settings.max_waiting, settings.threads) == (9001, "0.0.0.0", 0, 0)
    assert settings.max_running == Settings().max_running


def test_by_default_only_this_machine_is_served() -> None:
    assert Settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "http", "valid integer"),
        ("SLIPWAY_LOG_LEVEL", "loud", "'DEBUG', 'INFO'"),
        ("SLIPWAY_MAX_BODY_BYTES", "-1", "greater than or equal to 1024"),
        ("SLIPWAY_ENGINE_URL", "http://10.0.0.7:8081", "should match pattern"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(variable: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} = '{value}': .*{words}"):
        read_settings({variable: value})


def test_every_setting_has_a_variable_and_a_sentence() -> None:
    assert all(name in ("HOST", "PORT") or name.startswith("SLIPWAY_") for name in environment_names().values())
    assert all(field.description for field in Settings.model_fields.values())
