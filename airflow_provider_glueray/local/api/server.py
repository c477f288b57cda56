"""Serve one URL on loopback: our Glue face, a corrected FilterLogEvents, a control path, moto for the rest.

All in one process, so nothing is proxied. An operation neither we nor moto have is answered with an AWS
error, never with a page of HTML.
"""

from __future__ import annotations

import io
import json
import logging
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import moto.glue.responses
from botocore import xform_name
from botocore.exceptions import UnknownRegionError
from botocore.loaders import create_loader
from botocore.regions import EndpointResolver
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from airflow_provider_glueray.local.api.jobs import GlueApi
from airflow_provider_glueray.local.api.sessions import SessionApi
from airflow_provider_glueray.local.api.web_pages import Pages
from airflow_provider_glueray.local.client import REGION
from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.faults import Faults

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
#: The user agent of this endpoint's own clients: faults and counters leave it alone.
OWN_AGENT = "glueray-local-internal"
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/(?P<region>[^/]+)/")
#: The Regions there are, and what the names of new ones look like.
_PLACES = EndpointResolver(create_loader().load_data("endpoints"))
_logger = logging.getLogger(__name__)


class QuietHandler(MotoRequestHandler):
    """Leaves successful requests out of the log."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log server errors only."""
        if str(code).startswith("5"):
            super().log_request(code, size)


class Application:
    """The WSGI application."""

    def __init__(
        self,
        faces: Sequence[GlueApi | SessionApi],
        faults: Faults,
        pages: Pages,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._faces, self._faults, self._pages, self._status = faces, faults, pages, status
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Dispatch one request on its path and `X-Amz-Target`."""
        if "HTTP_ORIGIN" in environ:
            # A web page could otherwise start jobs, hence code, on this machine; no AWS client sends Origin.
            return _send_error(start_response, GlueError("AccessDeniedException", "Not for web pages", 403))
        if environ.get("PATH_INFO", "").startswith("/_glueray/"):
            return self._control(environ, start_response)
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if service not in {"AWSGlue", "Logs_20140328"} or OWN_AGENT in environ.get("HTTP_USER_AGENT", ""):
            return self._ask_moto(environ, start_response)
        body = _body(environ)
        verdict = self._faults.judge(operation, _region(environ))
        if verdict.error is not None:
            return _send_error(start_response, verdict.error)
        if verdict.drop:
            self._answer(service, operation, body, environ, lambda *_: None)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("200 OK", [("Content-Length", "0")])  # goes nowhere; werkzeug insists on it
            return []
        return self._answer(service, operation, body, environ, start_response)

    def _answer(
        self, service: str, operation: str, body: bytes, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        request = _parsed(body)
        if request is None:
            return _send_error(start_response, GlueError("SerializationException", "The body is not a JSON object"))
        if service == "Logs_20140328":
            if operation == "FilterLogEvents":
                return self._filter_log_events(request, environ, start_response)
            return self._ask_moto(environ, start_response)
        face = next((face for face in self._faces if face.handles(operation, request)), None)
        if face is None:
            if not hasattr(moto.glue.responses.GlueResponse, xform_name(operation)):
                message = f"{operation} is not supported by this local endpoint"
                return _send_error(start_response, GlueError("UnknownOperationException", message))
            return self._ask_moto(environ, start_response)
        try:
            answer = face.call(operation, request, _region(environ))
        except GlueError as error:
            return _send_error(start_response, error)
        except Exception:
            _logger.exception("%s failed", operation)
            return _send_error(start_response, GlueError("InternalServiceException", "See the endpoint's log", 500))
        return _send(start_response, 200, answer)

    def _filter_log_events(
        self, request: dict[str, Any], environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Give moto what it knows: it ignores `logStreamNamePrefix` and sorts by time only when told to."""
        request["interleaved"] = True
        if "logGroupIdentifier" in request:  # a name or an ARN; moto knows names only
            identifier = str(request.pop("logGroupIdentifier"))
            request["logGroupName"] = identifier.rpartition(":log-group:")[2].removesuffix(":*")
        prefix = request.pop("logStreamNamePrefix", None)
        if prefix is not None and request.get("logStreamNames"):
            message = "logStreamNames and logStreamNamePrefix cannot be given together"
            return _send_error(start_response, GlueError("InvalidParameterException", message))
        if prefix is not None:
            names = self._stream_names(request.get("logGroupName"), prefix, environ)
            if names == []:
                return _send(start_response, 200, {"events": [], "searchedLogStreams": []})
            request["logStreamNames"] = names or []
        return self._ask_moto(_with_body(environ, request), start_response)

    def _stream_names(self, group: Any, prefix: str, environ: Environ) -> list[str] | None:
        """List the streams with a prefix; None when there is no such group, which moto says itself."""
        names: list[str] = []
        token: dict[str, str] = {}
        while True:
            ask = {"logGroupName": group, "logStreamNamePrefix": prefix, **token}
            inner = _with_body(environ, ask) | {"HTTP_X_AMZ_TARGET": "Logs_20140328.DescribeLogStreams"}
            statuses: list[str] = []
            answer = b"".join(self._ask_moto(inner, lambda status, *_: statuses.append(status)))  # noqa: B023
            if not statuses[0].startswith("200"):
                return None
            page = json.loads(answer)
            names += [stream["logStreamName"] for stream in page["logStreams"]]
            if not page.get("nextToken"):
                return names
            token = {"nextToken": page["nextToken"]}

    def _ask_moto(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            answer: Iterable[bytes] = self._moto(environ, start_response)
        except Exception as error:
            _logger.exception("moto failed on %s", environ.get("PATH_INFO"))
            code = "NotImplemented" if isinstance(error, NotImplementedError) else "InternalFailure"
            failure = GlueError(code, f"{type(error).__name__}: {error}", 501 if code[0] == "N" else 500)
            return _send_error(start_response, failure)
        return answer

    def _control(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = _body(environ)
        asked = environ["PATH_INFO"].removeprefix("/_glueray/")
        try:
            region = _asked_region(environ) if asked in {"calls", "faults"} else None
        except ValueError as error:
            return _send(start_response, 400, {"message": str(error)})
        match environ["REQUEST_METHOD"], asked:
            case "GET", "status":
                return _send(start_response, 200, dict(self._status()))
            case "GET", "calls":
                return _send(start_response, 200, self._faults.calls(region))
            case "DELETE", "calls":
                self._faults.reset_calls(region)
                return _send(start_response, 200, {})
            case "GET", "faults":
                return _send(start_response, 200, self._faults.values(region))
            case "DELETE", "faults":
                self._faults.reset(region)
                return _send(start_response, 200, self._faults.values(region))
            case "PUT", "faults":
                try:
                    changes = json.loads(body)
                    self._faults.put(changes, region)
                except (ValueError, AttributeError) as error:
                    return _send(start_response, 400, {"message": str(error)})
                return _send(start_response, 200, self._faults.values(region))
            case "GET", path if (text := self._pages.page(path)) is not None:
                return _send_text(start_response, text)
            case _:
                return _send(
                    start_response, 404, {"message": "only status, calls, faults, runs/<id>, sessions/<id> are here"}
                )


def make_endpoint(application: Application, port: int) -> BaseWSGIServer:
    """Bind the endpoint to 127.0.0.1:`port` (0: any free port); SystemExit, as werkzeug has it, when it is taken."""
    return make_server(
        "127.0.0.1",
        port,
        application,
        threaded=True,
        request_handler=QuietHandler,
    )


def _region(environ: Environ) -> str:
    """Return the Region that a request was signed for."""
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    return scope["region"] if scope else REGION


def _asked_region(environ: Environ) -> str | None:
    """Return the Region that a control path names; ValueError for one that cannot be: its faults would hit nobody."""
    asked = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    region: str | None = asked.pop("region", None)
    if asked:
        raise ValueError(f"unknown parameter '{next(iter(asked))}'; known is region")
    if region is not None:
        try:
            _PLACES.get_partition_for_region(region)
        except UnknownRegionError:
            raise ValueError(f"'{region}' is not an AWS region") from None
    return region


def _body(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return None
    return request if isinstance(request, dict) else None


def _with_body(environ: Environ, request: Mapping[str, Any]) -> Environ:
    body = json.dumps(request).encode()
    return {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def _send(start_response: StartResponse, status: int, answer: Mapping[str, Any], error: str = "") -> list[bytes]:
    body = json.dumps(answer).encode()
    headers = [
        ("Content-Type", "application/x-amz-json-1.1"),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", secrets.token_hex(16)),
    ]
    if error:
        headers.append(("x-amzn-ErrorType", error))
    start_response(f"{status} {'OK' if status == 200 else 'Error'}", headers)
    return [body]


def _send_text(start_response: StartResponse, text: str) -> list[bytes]:
    body = text.encode()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


def _send_error(start_response: StartResponse, error: GlueError) -> list[bytes]:
    return _send(start_response, error.status, {"__type": error.code, "Message": error.message}, error.code)
