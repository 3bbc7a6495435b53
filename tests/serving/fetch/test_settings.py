"""Settings of a fetch from the environment."""

import pytest

from serving.environment import SettingsError
from serving.fetch.settings import FetchSettings, environment_names, read_settings


def test_defaults_without_variables():
    assert read_settings({}) == FetchSettings()


def test_variables_are_read():
    read = read_settings(
        {"SLIPWAY_FETCH_STREAMS": "4", "STORAGE_EMULATOR_HOST": "http://x", "SLIPWAY_FETCH_RETRIES": ""}
    )
    assert (read.streams, read.gcs_emulator, read.retries) == (4, "http://x", FetchSettings().retries)


@pytest.mark.parametrize(("field", "value"), [("streams", "0"), ("range_mib", "x"), ("stall_seconds", "nan")])
def test_a_bad_value_is_told_with_its_variable(field, value):
    variable = environment_names()[field]
    with pytest.raises(SettingsError, match=f"{variable} = '{value}'"):
        read_settings({variable: value})


def test_authorities_of_s3_go_before_those_of_everything(tmp_path):
    (tmp_path / "cabundle.crt").write_text("all")
    (tmp_path / "s3.pem").write_text("s3")
    settings = FetchSettings(s3_authorities=str(tmp_path / "s3.pem"), authorities_mount=str(tmp_path))
    assert (settings.authorities("s3"), settings.authorities("gs")) == ("s3", "all")
    assert FetchSettings().authorities("s3") is None


def test_authorities_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(SettingsError, match=r"CA_BUNDLE_VOLUME_MOUNT_POINT: .*cabundle\.crt cannot be read"):
        FetchSettings(authorities_mount=str(tmp_path)).authorities("https")
