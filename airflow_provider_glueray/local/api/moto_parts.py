"""What this endpoint uses of moto that moto does not call public: all of it is here, for the day on which it moves.

Needed are a WSGI application that serves every service of moto by the request's host and headers, the operations of
Glue that moto has, and, where there is one, the request handler that keeps the names of headers with underscores.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from botocore import xform_name
from werkzeug.serving import WSGIRequestHandler

try:
    from moto.glue.responses import GlueResponse
    from moto.moto_server import werkzeug_app
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
except ImportError as error:
    raise ImportError(
        f"moto {importlib.metadata.version('moto')} lacks what the endpoint is built on ({error}); it was tried with "
        "5.1.10 to 5.2.5"
    ) from error

if TYPE_CHECKING:
    RequestHandler = WSGIRequestHandler
else:
    #: Not in every moto that was tried.
    RequestHandler = getattr(werkzeug_app, "MotoRequestHandler", WSGIRequestHandler)


def make_application() -> Any:
    """Return moto as one WSGI application."""
    return DomainDispatcherApplication(create_backend_app)


def has_glue_operation(operation: str) -> bool:
    """Tell whether moto knows an operation of Glue."""
    return hasattr(GlueResponse, xform_name(operation))
