"""Define the error that all APIs of the endpoint respond with."""

from __future__ import annotations


class GlueError(Exception):
    """An error as the service sends it: `code`, with the suffix Exception, and a message."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
