"""Settings come from the environment once, and a misspelt one is an error."""

from __future__ import annotations

import pytest

from jobs.errors import SettingsError
from jobs.settings import RoleSettings


def test_a_variable_sets_its_field():
    settings = RoleSettings.load({"PRINTWORKS_S3_BUCKET": "mine", "PRINTWORKS_RETENTION_S": "120"})

    assert (settings.s3_bucket, settings.retention_s) == ("mine", 120)


def test_the_plain_redis_url_is_read_and_ours_wins():
    assert RoleSettings.load({"REDIS_URL": "redis://a"}).redis_url == "redis://a"
    both = {"REDIS_URL": "redis://a", "PRINTWORKS_REDIS_URL": "redis://b"}
    assert RoleSettings.load(both).redis_url == "redis://b"


def test_a_misspelt_variable_is_refused_with_the_nearest_known_one():
    with pytest.raises(SettingsError, match=r"PRINTWORKS_S3_BUKET.*PRINTWORKS_S3_BUCKET"):
        RoleSettings.load({"PRINTWORKS_S3_BUKET": "mine"})


def test_an_impossible_value_is_refused_by_the_name_of_its_variable():
    with pytest.raises(SettingsError, match="PRINTWORKS_RETENTION_S"):
        RoleSettings.load({"PRINTWORKS_RETENTION_S": "soon"})


def test_a_secret_does_not_show():
    settings = RoleSettings.load({"PRINTWORKS_S3_SECRET_KEY": "hush"})

    assert "hush" not in repr(settings)


def test_faults_of_redis_are_waived_by_their_words():
    settings = RoleSettings.load({"PRINTWORKS_REDIS_WAIVE": "no-aof, eviction"})

    assert settings.waived >= {"no-aof", "eviction"}
    with pytest.raises(SettingsError, match="waivable: no-aof"):
        RoleSettings.load({"PRINTWORKS_REDIS_WAIVE": "no-oaf"})
