"""Note that a run has started, where it has not; end this process where it has.

This file is sent as text. Python 3.9, and boto3: pyarrow cannot write only where there is nothing.
"""

import contextlib
import os
import sys
import uuid


def note_start(uri: str) -> None:
    """Write a note that the run has started, only where there is none (``If-None-Match`` of S3).

    :raises SystemExit: there is one of another process: the run was submitted twice, the second time to a new head.
    """
    bucket, _, key = uri[len("s3://") :].partition("/")
    mine = uuid.uuid4().hex.encode()
    try:
        import boto3

        client = boto3.client("s3")
        # As a header, because older boto3 has no parameter for it.
        client.meta.events.register(
            "before-call.s3.PutObject", lambda params, **_: params["headers"].update({"If-None-Match": "*"})
        )
        try:
            client.put_object(Bucket=bucket, Key=key, Body=mine)
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            with contextlib.suppress(Exception):  # what cannot be read is taken for another's
                # boto3 repeats a request whose answer was lost.
                if client.get_object(Bucket=bucket, Key=key)["Body"].read() == mine:
                    return
            sys.exit(
                f"glueray: this run has started before ({uri} says so) and does not start a second time. Its first "
                "head was lost, or its RayCluster was deleted or suspended; a new try of the task is a new run."
            )
    except Exception as error:  # of boto3 and of S3; what cannot be noted is no reason not to run
        print(f"glueray: the start could not be noted, so a second one would not be refused: {error}", file=sys.stderr)


if __name__ == "__main__":
    note_start(os.environ["GLUERAY_STARTED"])
