from __future__ import annotations

import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.errors import ConfigError

pytestmark = pytest.mark.kernel


def test_arguments_win_over_the_environment_and_it_over_defaults(monkeypatch):
    assert load_settings().max_slots == 32
    monkeypatch.setenv("LLMAPI_KIT_MAX_SLOTS", "5")
    assert load_settings().max_slots == 5
    assert load_settings(max_slots=None).max_slots == 5
    assert load_settings(max_slots=7).max_slots == 7


def test_a_bad_value_names_the_setting_and_where_it_came_from(monkeypatch):
    with pytest.raises(ConfigError, match="max_slots is 0"):
        load_settings(max_slots=0)
    monkeypatch.setenv("LLMAPI_KIT_DRAIN_S", "soon")
    with pytest.raises(ConfigError, match="LLMAPI_KIT_DRAIN_S"):
        load_settings()


def test_an_unknown_setting_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"'max_slot'.*max_slots"):
        load_settings(max_slot=3)


def test_the_state_folder_is_private_and_a_file_in_its_place_is_an_error(tmp_path):
    settings = load_settings(home=tmp_path / "new")
    assert settings.folder("servers").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="LLMAPI_KIT_HOME"):
        load_settings(home=tmp_path / "file").folder("servers")
