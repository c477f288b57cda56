"""Sessions without a kernel: refusals, defaults, limits, lists, tags, forced states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.local.api.server import OWN_AGENT
from tests.local.conftest import refused

pytestmark = pytest.mark.usefixtures("held")


def request(**changes: Any) -> dict[str, Any]:
    return {"Id": "refused", "Role": local_client.ROLE_ARN, "Command": {"Name": "glueray"}, **changes}


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"Command": {"Name": "glueetl"}}, "InvalidInputException", "runs glueray sessions only"),
        ({"Command": {}}, "InvalidInputException", "runs glueray sessions only"),
        ({"WorkerType": "G.1X"}, "InvalidInputException", "Only [Z.2X] worker types are supported"),
        ({"NumberOfWorkers": 0}, "InvalidInputException", "Number of workers must be at least 1"),
        ({"MaxCapacity": 4.0}, "InvalidInputException", "Please do not set Max Capacity"),
        ({"GlueVersion": "3.0"}, "InvalidInputException", "GlueVersion 3.0 is not supported for glueray sessions"),
        ({"Connections": {"Connections": ["vpc"]}}, "InvalidInputException", "Connections are not supported"),
        ({"DefaultArguments": {"--min-workers": "9"}}, "InvalidInputException", "from 0 to 5"),
        ({"Role": "service-role/GlueRayRole"}, "ValidationException", "Value 'service-role/GlueRayRole' at 'role'"),
        ({"NumberOfWorkers": 26}, "ResourceNumberLimitExceededException", "52 requested, quota 50"),
    ],
)
def test_create_is_refused(glue: Any, changes: dict[str, Any], code: str, words: str) -> None:
    """The model or the rules of jobs refuse the request, and no session is stored."""
    seen, message = refused(glue.create_session, **request(**changes))
    assert (seen, words in message) == (code, True), message
    assert refused(glue.get_session, Id="refused")[0] == "EntityNotFoundException"


def test_a_closed_account(glue: Any, held: local_client.Endpoint) -> None:
    """The message is the one that the last Ray-capable kernel checks for."""
    held.faults(account_closed=True)
    words = "Account not allowed to submit Glue Ray session"
    assert refused(glue.create_session, **request()) == ("InvalidInputException", words)


def test_create_session_fills_in_defaults(glue: Any) -> None:
    """The last Ray-capable kernel sends only the members that the user has set."""
    shown = glue.create_session(**request(Id="bare"))["Session"]
    assert shown == glue.get_session(Id="bare")["Session"]
    expected = {
        "Id": "bare",
        "Status": "PROVISIONING",
        "Command": {"Name": "glueray", "PythonVersion": "3.9"},
        "WorkerType": "Z.2X",
        "NumberOfWorkers": 5,
        "MaxCapacity": 10.0,
        "GlueVersion": "4.0",
        "IdleTimeout": 2880,
        "ExecutionTime": 0.0,
        "DPUSeconds": 0.0,
    }
    assert {key: shown[key] for key in expected} == expected
    assert not {"CompletedOn", "ErrorMessage"} & set(shown)
    glue.delete_session(Id="bare")


def test_an_id_is_taken_until_it_is_deleted(
    glue: Any, make_session: Callable[..., str], session_becomes: Callable[..., dict[str, Any]]
) -> None:
    """The Id of an ended session is taken too."""
    session = make_session()
    assert refused(glue.create_session, **request(Id=session))[0] == "AlreadyExistsException"
    assert glue.stop_session(Id=session)["Id"] == session
    ended = session_becomes(session, "STOPPED")
    assert ended["CompletedOn"] >= ended["CreatedOn"]
    assert refused(glue.create_session, **request(Id=session))[0] == "AlreadyExistsException"
    glue.delete_session(Id=session)
    assert refused(glue.get_session, Id=session)[0] == "EntityNotFoundException"
    assert glue.create_session(**request(Id=session))["Session"]["CreatedOn"] > ended["CreatedOn"]


def test_unknown_names_are_not_found(glue: Any, make_session: Callable[..., str]) -> None:
    """Unknown sessions and statements give EntityNotFoundException."""
    for call in (glue.get_session, glue.stop_session, glue.delete_session):
        assert refused(call, Id="absent")[0] == "EntityNotFoundException"
    assert refused(glue.run_statement, SessionId="absent", Code="1")[0] == "EntityNotFoundException"
    assert refused(glue.list_statements, SessionId="absent")[0] == "EntityNotFoundException"
    session = make_session()
    for call in (glue.get_statement, glue.cancel_statement):
        assert refused(call, SessionId="absent", Id=0)[0] == "EntityNotFoundException"
        assert refused(call, SessionId=session, Id=0)[0] == "EntityNotFoundException"
        assert refused(call, SessionId=session, Id=-1)[0] == "EntityNotFoundException"


def test_sessions_are_kept_by_region(
    client: Callable[..., Any], make_session: Callable[..., str], regions: tuple[str, str]
) -> None:
    """A Region does not have the sessions of another Region."""
    session = make_session()
    elsewhere = client("glue", region=regions[1])
    assert refused(elsewhere.get_session, Id=session)[0] == "EntityNotFoundException"
    assert session not in elsewhere.list_sessions()["Ids"]


def test_illegal_states(
    glue: Any, make_session: Callable[..., str], session_becomes: Callable[..., dict[str, Any]]
) -> None:
    """A session takes no statement before READY or after its end, and takes one stop."""
    session = make_session()
    code, message = refused(glue.run_statement, SessionId=session, Code="1")
    assert (code, "PROVISIONING" in message) == ("IllegalSessionStateException", True)
    glue.stop_session(Id=session)
    session_becomes(session, "STOPPED")
    assert refused(glue.stop_session, Id=session)[0] == "IllegalSessionStateException"
    assert refused(glue.run_statement, SessionId=session, Code="1")[0] == "IllegalSessionStateException"
    assert glue.list_statements(SessionId=session)["Statements"] == []


def test_lists_and_tags(glue: Any, make_session: Callable[..., str]) -> None:
    """Lists are newest first, in pages, filtered by tags; the session's ARN allows changes of its tags."""
    sessions = [make_session(NumberOfWorkers=1, Tags={"team": "a", "n": str(n)}) for n in range(3)]
    assert glue.list_sessions(Tags={"team": "a"})["Ids"] == sessions[::-1]
    assert glue.list_sessions(Tags={"team": "a", "n": "1"})["Ids"] == [sessions[1]]
    first = glue.list_sessions(Tags={"team": "a"}, MaxResults=2)
    second = glue.list_sessions(Tags={"team": "a"}, MaxResults=2, NextToken=first["NextToken"])
    assert [session["Id"] for page in (first, second) for session in page["Sessions"]] == sessions[::-1]
    assert "NextToken" not in second

    arn = f"arn:aws:glue:{glue.meta.region_name}:123456789012:session/{sessions[0]}"
    glue.tag_resource(ResourceArn=arn, TagsToAdd={"more": "yes"})
    glue.untag_resource(ResourceArn=arn, TagsToRemove=["n"])
    assert glue.get_tags(ResourceArn=arn)["Tags"] == {"team": "a", "more": "yes"}
    assert (
        refused(glue.get_tags, ResourceArn=arn.replace(glue.meta.region_name, "sa-east-1"))[0]
        == "EntityNotFoundException"
    )


def test_a_dropped_response_hides_a_created_session(glue: Any, held: local_client.Endpoint) -> None:
    """A second CreateSession with the same Id gives AlreadyExistsException."""
    held.faults(drop_next={"CreateSession": 1})
    with pytest.raises(ConnectionClosedError):
        glue.create_session(**request(Id="dropped"))
    assert refused(glue.create_session, **request(Id="dropped"))[0] == "AlreadyExistsException"
    glue.delete_session(Id="dropped")


def test_every_state_can_be_forced(
    glue: Any,
    held: local_client.Endpoint,
    make_session: Callable[..., str],
    session_becomes: Callable[..., dict[str, Any]],
) -> None:
    """A forced state changes the shown state only; a forced end state ends the session."""
    session = make_session()
    held.faults(force_state={session: "READY"})
    session_becomes(session, "READY")
    assert refused(glue.run_statement, SessionId=session, Code="1")[0] == "IllegalSessionStateException"
    held.faults(force_state={session: "TIMEOUT"})
    session_becomes(session, "TIMEOUT")
    assert refused(glue.run_statement, SessionId=session, Code="1")[0] == "InvalidInputException"


def test_the_page_of_a_session_with_any_name(glue: Any, held: local_client.Endpoint) -> None:
    """An Id may have slashes, blanks and any letters, and the suffix of another page."""
    for session in ("é/ü ß", "é/ü ß/log"):
        glue.create_session(**request(Id=session, NumberOfWorkers=1))
        shown = httpx.get(f"{held.url}/_glueray/sessions/{quote(session)}")
        assert f"  {session}\n" in shown.text
    assert httpx.get(f"{held.url}/_glueray/sessions/{quote('é/ü ß/log/log')}").text == "Nothing was logged so far.\n"
    for session in ("é/ü ß", "é/ü ß/log"):
        glue.delete_session(Id=session)


def test_calls_are_counted_and_moto_sees_none_of_them(
    held: local_client.Endpoint, make_session: Callable[..., str]
) -> None:
    """A client whose requests go to moto finds no session there."""
    session = make_session()
    assert held.calls() == {"CreateSession": 1}
    assert held.status()["sessions"]["PROVISIONING"] >= 1
    moto = boto3.client(
        "glue",
        region_name=held.region,
        endpoint_url=held.url,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(user_agent_extra=OWN_AGENT, retries={"total_max_attempts": 1}),
    )
    assert session not in moto.list_sessions().get("Ids", [])
