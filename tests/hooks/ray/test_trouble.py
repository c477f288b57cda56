"""The Ray hook when something is wrong: what stands before the cluster, who may use it, and a cluster that dies."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_glueray.core.drivers import run_sync
from airflow_provider_glueray.core.errors import (
    AccessDenied,
    ConnectionConfigError,
    RunLost,
    SpecError,
    SubmitError,
    SubmitOutcomeUnknown,
    failure_of,
)
from airflow_provider_glueray.core.follow import FollowPolicy, follow
from airflow_provider_glueray.core.runs import RunState
from airflow_provider_glueray.hooks.ray.jobs import RayJobsHook
from tests.gates import waits_for

PAGE = b"<!doctype html><html><head><title>Bad Gateway</title></head><body>nginx</body></html>"


def test_who_may_not(new_cluster, at, make_spec):
    """No token, and a wrong one, which Ray says by 403."""
    without = at(**{**new_cluster, "password": None})
    with pytest.raises(AccessDenied, match=r"^No token, or a wrong one, for Ray at \S+: 401 Unauthorized: Missing"):
        without.prepare(make_spec())
    wrong = at(**{**new_cluster, "password": "wrong"})
    with pytest.raises(AccessDenied, match=r"^Not allowed to use Ray at \S+: 403 Forbidden: Invalid .* password of"):
        wrong.prepare(make_spec())
    assert wrong.test_connection()[0] is False


def test_the_button_says_which_ray(hook):
    import ray

    assert hook.test_connection() in ((True, f"Ray {ray.__version__}"), (True, "Ray 2.9.3"))


def test_nobody_there(at, monkeypatch, make_spec):
    with pytest.raises(SubmitError, match=r"Cannot connect to Ray at http://127.0.0.1:9"):
        at(host="127.0.0.1", port=9).prepare(make_spec())
    monkeypatch.delenv("AIRFLOW_CONN_RAY_DEFAULT")
    with pytest.raises(ConnectionConfigError, match="no connection 'ray_default'"):
        RayJobsHook().prepare(make_spec())


@pytest.mark.parametrize(
    ("status", "content", "headers", "error", "words"),
    [
        (200, b'{"version": "4", "ray_version": "2.4.0"}', {}, ConnectionConfigError, r"has Ray 2\.4\.0; 2\.9 is"),
        (404, PAGE, {}, ConnectionConfigError, "is no Ray Jobs API: 404 Not Found, a page for people$"),
        (200, PAGE, {}, SubmitError, "^What answers at .* is not Ray: 200 OK, a page for people$"),
        (200, b"pong", {}, SubmitError, "^What answers at .* is not Ray: 200 pong$"),
        (502, PAGE, {"Content_Type": "text/html"}, SubmitOutcomeUnknown, "^No answer .*: 502 Bad Gateway, a page"),
        (503, b"", {}, SubmitOutcomeUnknown, "^No answer of Ray at .*: 503 Service Unavailable$"),
        (302, b"", {"Location": "https://login.example/"}, AccessDenied, r"\(302 to https://login\S+\), such as"),
    ],
)  # fmt: skip
def test_what_is_not_ray(answering, reply, at, make_spec, status, content, headers, error, words):
    """Too old, or something else that answers at the address; in short words, never as a page."""
    hook = at(host=answering(lambda handler: reply(handler, status, content, **headers)))
    with pytest.raises(error, match=words) as caught:
        hook.prepare(make_spec())
    assert "<" not in str(caught.value)


def test_plain_http_where_tls_is_spoken_of(answering, at, make_spec):
    """A handshake that fails is no way to Ray, in words."""
    url = answering(lambda handler: handler.send_error(404))
    with pytest.raises(SubmitError, match="Cannot connect to Ray at https://"):
        at(host=urlsplit(url).hostname, port=urlsplit(url).port, schema="https").prepare(make_spec())
    with pytest.raises(SpecError, match="not the path of a CA"):
        at(host=url, extra={"verify": "/nowhere.pem"}).prepare(make_spec())


def test_tls(answering, forward, reply, new_cluster, at, make_spec, start, follow_to_end, tmp_path):
    """A run over TLS with a CA that is named; without its name it is not trusted, unless nothing is verified."""

    def pass_on(handler):
        answer = forward(handler)
        reply(handler, answer.status_code, answer.content)

    authority, tls = certified(tmp_path)
    fields = {**new_cluster, "host": answering(pass_on, tls)}
    outcome, lines = follow_to_end(hook := at(**fields, extra={"verify": str(authority)}), start(hook, make_spec()))
    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert "hello" in lines
    with pytest.raises(SubmitError, match=r"certificate of https://\S+ is not trusted .* name its CA as 'verify'"):
        at(**fields).prepare(make_spec())
    for given, trusts in ((False, True), ("False", True), ("", False), (None, False), ("true", False)):
        assert at(**fields, extra={"verify": given}).test_connection()[0] is trusts, given


def certified(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a CA; return the path of its certificate, and what serves with one that it has signed for 127.0.0.1."""
    now, keys = (
        datetime.datetime.now(datetime.timezone.utc),
        [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)],
    )
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("An authority", "A cluster")]
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        ca = number == 0
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        certificate = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), False)
            .sign(keys[0], hashes.SHA256())
        )
        (folder / f"{number}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "1.pem", folder / "key.pem")
    return folder / "0.pem", tls


@pytest.mark.parametrize("loses", ["the answer", "it to a gateway"])
def test_a_lost_answer_starts_nothing_twice(
    loses, answering, forward, reply, new_cluster, at, make_spec, start, follow_to_end
):
    """The request is sent again, and Ray knows its id."""
    starts = []

    def lossy(handler):
        answer = forward(handler)
        if (handler.command, handler.path) == ("POST", "/api/jobs/"):
            starts.append(answer.status_code)
            if len(starts) == 1 and loses == "the answer":
                handler.close_connection = True
                return
            if len(starts) == 1:
                reply(handler, 504, PAGE)
                return
        reply(handler, answer.status_code, answer.content)

    hook = at(host=answering(lossy), password=new_cluster["password"], extra={"headers": {"X-Team": "etl"}})
    ref = start(hook, make_spec())

    assert starts[0] == 200
    assert len(starts) == 2
    assert follow_to_end(hook, ref)[0].snapshot.state is RunState.SUCCEEDED


#: What a poll meets, and the words for it: a token that is refused, else the status of a gateway's page.
TROUBLES = {
    "token": "Not allowed to use Ray",
    502: "502 Bad Gateway, a page",
    302: "leads elsewhere",
    404: "answered 404 Not Found, a page",
    200: "is not Ray",
}


def test_trouble_while_a_run_goes_on(
    answering, forward, reply, new_cluster, at, make_spec, start, follow_to_end, told, tmp_path
):
    """Polls fail in words, the run does not; even a gateway's own 404 is not a run that is lost."""
    gate, seen = tmp_path / "gate", 0

    def sometimes(handler):
        nonlocal seen
        if handler.command == "GET" and "/api/jobs/glueray-" in handler.path:
            failed = sum("failed, trying again" in line for line in told)
            # The poll after a failed one is answered, so that each failure is the first of its kind.
            trouble = list(TROUBLES)[failed] if failed == seen and failed < len(TROUBLES) else None
            seen = failed
            if trouble == "token":
                handler.headers.replace_header("Authorization", "Bearer wrong")
            elif trouble is not None:
                reply(handler, trouble, PAGE, Content_Type="text/html", Location="https://login.example/")
                return
            elif failed == len(TROUBLES):
                gate.touch()
        answer = forward(handler)
        reply(handler, answer.status_code, answer.content)

    hook = at(host=answering(sometimes), password=new_cluster["password"])
    outcome, lines = follow_to_end(hook, start(hook, make_spec(f"{waits_for(gate)}\nprint('done')\n")))

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert "done" in lines
    failed = [line for line in told if "failed, trying again" in line]
    assert len(failed) == len(TROUBLES), told
    for line, words in zip(failed, TROUBLES.values(), strict=True):
        assert words in line
    assert not any("<html" in line for line in told)


@pytest.mark.parametrize("version", ["newest", "2.9"])
def test_a_cluster_that_dies_and_comes_back_without_the_run(version, make_head, at, make_spec, start, set_clock):
    """While it is away polls fail; started anew it does not know the run, which after a while counts as lost."""
    head = make_head(version)
    head.start()
    hook = at(**head.connection())
    ref = wait_for_agent(lambda: start(hook, make_spec("import time\ntime.sleep(600)\n")))
    now, told = SimpleNamespace(time=1_772_330_400.0, away=0), []

    def sleep(seconds: float) -> None:
        now.time += seconds
        time.sleep(0.2)
        if not now.away and any("is RUNNING" in line for line in told):
            head.kill()
        if any("is RUNNING" in line for line in told):
            now.away += 1
        if now.away == 4:
            head.start()

    writer = SimpleNamespace(log=lambda level, text, *values: told.append(text % values))
    steps = follow(ref, FollowPolicy(deadline=now.time + 86_400.0))
    set_clock(lambda: now.time, sleep)
    outcome = run_sync(steps, hook, ref, writer)

    # The first poll may still have a connection, which breaks.
    assert any(
        line.startswith("Poll 1 of") and ("Cannot connect to Ray" in line or "Ray at http" in line) for line in told
    ), told
    assert outcome.snapshot.state is RunState.LOST, told
    failure = failure_of(outcome, hook.url(ref))
    assert isinstance(failure, RunLost)
    assert "was it started anew?" in str(failure)
    assert json.dumps(outcome.to_json())


def wait_for_agent(act):
    """Do something that takes an agent, which a head has a moment after it answers."""
    for _ in range(600):
        try:
            return act()
        except SubmitError as error:
            if "No available agent" not in str(error):
                raise
            time.sleep(0.2)
    raise AssertionError("the head has no agent")
