"""The API server over plain HTTPS, in the words of its own documents: a path, a body, and JSON for an answer."""

from __future__ import annotations

import json
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import Any

import urllib3

from tests.kubernetes.layout import API_PORT, GATEWAY, Layout

MERGE = "application/merge-patch+json"
#: Merges lists of objects by the key that the API says, such as a pod's conditions by their type.
STRATEGIC = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API server has refused; ``status`` is HTTP's, ``reason`` and ``message`` are the API's."""

    def __init__(self, status: int, body: bytes) -> None:
        try:
            said = json.loads(body)
        except ValueError:
            said = {"message": body.decode(errors="replace")}
        self.status, self.reason, self.message = status, said.get("reason", ""), said.get("message", "")
        super().__init__(f"{status} {self.reason}: {self.message}")


class Api:
    """The API server, as somebody who may do everything, or as the bearer of a token."""

    def __init__(self, layout: Layout, token: str | None = None) -> None:
        pki = layout.pki
        self._pool = urllib3.HTTPSConnectionPool(
            GATEWAY,
            API_PORT,
            ca_certs=str(pki / "ca.crt"),
            cert_file=None if token else str(pki / "admin.crt"),
            key_file=None if token else str(pki / "admin.key"),
            maxsize=64,
            retries=False,
            timeout=60,
        )
        self._headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    def ask(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Return the answer to a request.

        :raises ApiError: it is refused.
        """
        return json.loads(self.ask_raw(method, path, body, content_type))

    def ask_raw(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> bytes:
        """Return the answer to a request as it is, such as a log.

        :raises ApiError: it is refused.
        """
        sent = None if body is None else json.dumps(body)
        headers = {**self._headers, "Content-Type": content_type}
        answer = self._pool.request(method, path, body=sent, headers=headers)
        if answer.status >= 400:
            raise ApiError(answer.status, answer.data)
        return answer.data

    def get(self, path: str) -> Any:
        """Return what is at a path."""
        return self.ask("GET", path)

    def find(self, path: str) -> Any:
        """Return what is at a path, or None if there is nothing."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def create(self, path: str, body: Any) -> Any:
        """Create an object in a collection, with every member checked."""
        return self.ask("POST", f"{path}?fieldValidation=Strict", body)

    def patch(self, path: str, body: Any, content_type: str = MERGE) -> Any:
        """Change members of an object."""
        return self.ask("PATCH", path, body, content_type)

    def delete(self, path: str, **options: Any) -> None:
        """Delete an object, if it is there still."""
        try:
            self.ask("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def follow(self, path: str, **query: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what is in a collection and what becomes of it: a word and an object, or ``("LISTED", {})``.

        The words are those of a watch. It ends when the API server ends it, or is not there any more.
        """
        listed = self.get(f"{path}?{urllib.parse.urlencode(query)}")
        for each in listed["items"]:
            yield "ADDED", each
        yield "LISTED", {}
        query |= {"watch": "1", "timeoutSeconds": "300", "resourceVersion": listed["metadata"]["resourceVersion"]}
        timeout = urllib3.Timeout(connect=10, read=330)
        asked = f"{path}?{urllib.parse.urlencode(query)}"
        answer = self._pool.request("GET", asked, preload_content=False, headers=self._headers, timeout=timeout)
        rest = b""
        try:
            for chunk in answer.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return
                    yield event["type"], event["object"]
        finally:
            answer.close()


#: What the API server, or the way to it, says while it is not there.
AWAY = (urllib3.exceptions.HTTPError, ssl.SSLError, ConnectionError)
