"""Serve one URL on loopback: the Glue APIs, a corrected FilterLogEvents, the control paths, and moto for the rest.

moto runs in the same process, without a proxy. An operation that neither this endpoint nor moto has gets an AWS error,
never a page of HTML.
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

from botocore.exceptions import UnknownRegionError
from botocore.loaders import create_loader
from botocore.regions import EndpointResolver
from werkzeug.serving import BaseWSGIServer, make_server

from airflow_provider_glueray.local.api import moto_parts
from airflow_provider_glueray.local.api.operations import Api
from airflow_provider_glueray.local.api.web_pages import Pages
from airflow_provider_glueray.local.client import REGION
from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.faults import Faults

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
#: The endpoint's own clients have this user agent; faults and counters ignore their requests.
OWN_AGENT = "glueray-local-internal"
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/(?P<region>[^/]+)/")
#: The known Regions, and the pattern of new Regions' names.
_REGIONS = EndpointResolver(create_loader().load_data("endpoints"))
_logger = logging.getLogger(__name__)


class QuietHandler(moto_parts.RequestHandler):
    """A request handler that logs server errors only."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log the request if its status is a server error."""
        if str(code).startswith("5"):
            super().log_request(code, size)


class Application:
    """The WSGI application."""

    def __init__(
        self,
        apis: Sequence[Api],
        faults: Faults,
        pages: Pages,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._apis, self._faults, self._pages, self._status = apis, faults, pages, status
        self._moto = moto_parts.make_application()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Dispatch one request on its path and `X-Amz-Target`."""
        if "HTTP_ORIGIN" in environ:
            # Without this, a web page could start jobs, hence code, on this machine; no AWS client sends Origin.
            return _send_error(start_response, GlueError("AccessDeniedException", "Not for web pages", 403))
        if environ.get("PATH_INFO", "").startswith("/_glueray/"):
            return self._control(environ, start_response)
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if service not in {"AWSGlue", "Logs_20140328"} or OWN_AGENT in environ.get("HTTP_USER_AGENT", ""):
            return self._moto_response(environ, start_response)
        body = _body(environ)
        fault = self._faults.check(operation, _region(environ))
        if fault.error is not None:
            return _send_error(start_response, fault.error)
        if fault.drop:
            self._respond(service, operation, body, environ, lambda *_: None)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("200 OK", [("Content-Length", "0")])  # werkzeug requires it, also for a closed socket
            return []
        return self._respond(service, operation, body, environ, start_response)

    def _respond(
        self, service: str, operation: str, body: bytes, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        request = _parse(body)
        if request is None:
            return _send_error(start_response, GlueError("SerializationException", "The body is not a JSON object"))
        if service == "Logs_20140328":
            if operation == "FilterLogEvents":
                return self._filter_log_events(request, environ, start_response)
            return self._moto_response(environ, start_response)
        api = next((api for api in self._apis if api.handles(operation, request)), None)
        if api is None:
            if not moto_parts.has_glue_operation(operation):
                message = f"{operation} is not supported by this local endpoint"
                return _send_error(start_response, GlueError("UnknownOperationException", message))
            return self._moto_response(environ, start_response)
        try:
            response = api.call(operation, request, _region(environ))
        except GlueError as error:
            return _send_error(start_response, error)
        except Exception:
            _logger.exception("%s failed", operation)
            return _send_error(start_response, GlueError("InternalServiceException", "See the endpoint's log", 500))
        return _send(start_response, 200, response)

    def _filter_log_events(
        self, request: dict[str, Any], environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Rewrite the request for moto, which ignores `logStreamNamePrefix` and sorts by time only if interleaved."""
        request["interleaved"] = True
        if "logGroupIdentifier" in request:  # a name or an ARN; moto accepts names only
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
        return self._moto_response(_with_body(environ, request), start_response)

    def _stream_names(self, group: Any, prefix: str, environ: Environ) -> list[str] | None:
        """Return the streams with a prefix; None if the group does not exist, which moto's response then reports."""
        names: list[str] = []
        token: dict[str, str] = {}
        while True:
            query = {"logGroupName": group, "logStreamNamePrefix": prefix, **token}
            inner = _with_body(environ, query) | {"HTTP_X_AMZ_TARGET": "Logs_20140328.DescribeLogStreams"}
            statuses: list[str] = []
            response = b"".join(self._moto_response(inner, lambda status, *_: statuses.append(status)))  # noqa: B023
            if not statuses[0].startswith("200"):
                return None
            page = json.loads(response)
            names += [stream["logStreamName"] for stream in page["logStreams"]]
            if not page.get("nextToken"):
                return names
            token = {"nextToken": page["nextToken"]}

    def _moto_response(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            response: Iterable[bytes] = self._moto(environ, start_response)
        except Exception as error:
            _logger.exception("moto failed on %s", environ.get("PATH_INFO"))
            code = "NotImplemented" if isinstance(error, NotImplementedError) else "InternalFailure"
            failure = GlueError(code, f"{type(error).__name__}: {error}", 501 if code[0] == "N" else 500)
            return _send_error(start_response, failure)
        return response

    def _control(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = _body(environ)
        path = environ["PATH_INFO"].removeprefix("/_glueray/")
        try:
            region = _query_region(environ) if path in {"calls", "faults"} else None
        except ValueError as error:
            return _send(start_response, 400, {"message": str(error)})
        match environ["REQUEST_METHOD"], path:
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
            case "GET", _ if (text := self._pages.page(path)) is not None:
                return _send(start_response, 200, text)
            case _:
                return _send(
                    start_response, 404, {"message": "only status, calls, faults, runs/<id>, sessions/<id> are here"}
                )


def make_endpoint(application: Application, port: int) -> BaseWSGIServer:
    """Bind the endpoint to 127.0.0.1:`port` (0: any free port); a taken port raises werkzeug's SystemExit."""
    return make_server("127.0.0.1", port, application, threaded=True, request_handler=QuietHandler)


def _region(environ: Environ) -> str:
    """Return the Region of a request's signature."""
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    return scope["region"] if scope else REGION


def _query_region(environ: Environ) -> str | None:
    """Return the Region in a control path's query; raises ValueError for an impossible one, which no client uses."""
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    region: str | None = query.pop("region", None)
    if query:
        raise ValueError(f"unknown parameter '{next(iter(query))}'; known is region")
    if region is not None:
        try:
            _REGIONS.get_partition_for_region(region)
        except UnknownRegionError:
            raise ValueError(f"'{region}' is not an AWS region") from None
    return region


def _body(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _parse(body: bytes) -> dict[str, Any] | None:
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return None
    return request if isinstance(request, dict) else None


def _with_body(environ: Environ, request: Mapping[str, Any]) -> Environ:
    body = json.dumps(request).encode()
    return {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def _send(
    start_response: StartResponse, status: int, response: Mapping[str, Any] | str, error: str = ""
) -> list[bytes]:
    text = response if isinstance(response, str) else json.dumps(response)
    body = text.encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8" if text is response else "application/x-amz-json-1.1"),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", secrets.token_hex(16)),
    ]
    if error:
        headers.append(("x-amzn-ErrorType", error))
    start_response(f"{status} {'OK' if status == 200 else 'Error'}", headers)
    return [body]


def _send_error(start_response: StartResponse, error: GlueError) -> list[bytes]:
    return _send(start_response, error.status, {"__type": error.code, "Message": error.message}, error.code)
