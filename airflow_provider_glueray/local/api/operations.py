"""What the APIs of jobs and of sessions have in common: dispatch, pages and tags."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from botocore import xform_name

from airflow_provider_glueray.local.api.request_validation import check_input, service_model
from airflow_provider_glueray.local.engine import rules
from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.state import ACCOUNT, State

Request = Mapping[str, Any]
Response = dict[str, Any]
_T = TypeVar("_T")
_TAG_OPERATIONS = frozenset({"TagResource", "UntagResource", "GetTags"})


class Api:
    """The operations of one kind of resource: `CreateJob` is the method `_create_job`."""

    #: The kind, as an ARN names it.
    kind: ClassVar[str]

    def __init__(self, state: State, faults: Faults) -> None:
        self._state, self._faults = state, faults

    def handles(self, operation: str, request: Request) -> bool:
        """Return whether this API has the operation; of tag requests, it has those for ARNs of its kind."""
        if operation in _TAG_OPERATIONS:
            return f":{self.kind}/" in str(request.get("ResourceArn", ""))
        return operation in service_model().operation_names and hasattr(self, f"_{xform_name(operation)}")

    def call(self, operation: str, request: Request, region: str) -> Response:
        """Return the response to one request; raises GlueError."""
        check_input(operation, request)
        with self._state.lock:
            response: Response = getattr(self, f"_{xform_name(operation)}")(request, region)
            return response

    def _tags(self, region: str, name: str) -> dict[str, str]:
        """Return a resource's own, mutable tags."""
        raise NotImplementedError

    def _tagged(self, request: Request, region: str) -> dict[str, str]:
        arn, _, name = request["ResourceArn"].partition(f":{self.kind}/")
        if arn.split(":")[2:] != ["glue", region, ACCOUNT]:
            raise GlueError("EntityNotFoundException", f"Resource {request['ResourceArn']} not found.")
        return self._tags(region, name)

    def _tag_resource(self, request: Request, region: str) -> Response:
        self._tagged(request, region).update(request["TagsToAdd"])
        return {}

    def _untag_resource(self, request: Request, region: str) -> Response:
        tags = self._tagged(request, region)
        for key in request["TagsToRemove"]:
            tags.pop(key, None)
        return {}

    def _get_tags(self, request: Request, region: str) -> Response:
        return {"Tags": dict(self._tagged(request, region))}


def page(items: list[_T], request: Request, default: int) -> tuple[list[_T], dict[str, str]]:
    """Return the items of one page, and {"NextToken": ...} if more items follow."""
    start = 0
    if request.get("NextToken"):
        try:
            start = int(base64.urlsafe_b64decode(request["NextToken"]))
        except (ValueError, binascii.Error):
            raise rules.invalid("Invalid NextToken") from None
    end = start + request.get("MaxResults", default)
    more = {"NextToken": base64.urlsafe_b64encode(str(end).encode()).decode()} if end < len(items) else {}
    return items[start:end], more
