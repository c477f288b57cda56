"""How long to wait: one policy, that of the deployment, in the worker and in the trigger."""

from __future__ import annotations

import json

import pytest

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.follow import FollowPolicy, Waits
from airflow_provider_glueray.hooks import settings


def test_only_what_differs_travels():
    """The policy lies in Airflow's database for every deferred task; one without waits is read, too."""
    policy = FollowPolicy(waits=Waits(quiet=0.5))
    sent = json.loads(json.dumps(policy.to_json()))

    assert sent["waits"] == {"quiet": 0.5}
    assert FollowPolicy.from_json(sent) == policy
    del sent["waits"]
    assert FollowPolicy.from_json(sent).waits == Waits()


def test_the_setting_of_a_deployment(monkeypatch):
    """What it does not name keeps its default."""
    monkeypatch.setenv("AIRFLOW__GLUERAY__WAITS", '{"lost": 60}')
    assert settings.waits() == Waits(lost=60)
    monkeypatch.setenv("AIRFLOW__GLUERAY__WAITS", "")
    assert settings.waits() == Waits()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting property name"),
        ("[1]", "a JSON object of seconds"),
        ('{"patience": 1}', "there is no wait 'patience'; there are least_poll, "),
        ('{"quiet": "1"}', "'quiet' is a number of seconds, not '1'"),
        ('{"quiet": true}', "'quiet' is a number of seconds"),
        ('{"quiet": -1}', "'quiet' is a number of seconds"),
        ('{"quiet": Infinity}', "'quiet' is a number of seconds"),
        ('{"quiet": NaN}', "'quiet' is a number of seconds"),
    ],
)
def test_a_setting_that_cannot_be_read(monkeypatch, text, words):
    """It is named with what is wrong, before anything is started."""
    monkeypatch.setenv("AIRFLOW__GLUERAY__WAITS", text)
    with pytest.raises(SpecError, match=r"\[glueray\] waits") as caught:
        settings.waits()
    assert words in str(caught.value)


def test_a_task_is_refused_for_it(monkeypatch, life_of):
    """For good: a retry cannot help."""
    one = life_of("script", retries=3)
    monkeypatch.setenv("AIRFLOW__GLUERAY__WAITS", '{"quit": 1}')
    result = one.run()

    assert result.state == "failed"
    assert "there is no wait 'quit'" in str(result.error)
    assert one.states() == []


def test_it_reaches_the_trigger(life_of, set_waits):
    """It travels with the task: a triggerer has perhaps another configuration."""
    one = life_of("script, deferred")
    set_waits(quiet=0.7)
    deferred = one.task.run()

    assert FollowPolicy.from_json(deferred.message.trigger_kwargs["policy"]).waits.quiet == 0.7
