"""Note that a run has started, where it has not; end this process where it has.

This file is sent as text. Python 3.9, and boto3: pyarrow cannot write only where there is nothing.
"""

import os
import sys


def note_start(uri: str) -> None:
    """Write a note that the run has started, only where there is none (``If-None-Match`` of S3).

    :raises SystemExit: there is one: the run was submitted twice, to a new head that knows nothing of the first time.
    """
    bucket, _, key = uri[len("s3://") :].partition("/")
    try:
        import boto3

        client = boto3.client("s3")
        # As a header, because older boto3 has no parameter for it.
        client.meta.events.register(
            "before-call.s3.PutObject", lambda params, **_: params["headers"].update({"If-None-Match": "*"})
        )
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    except Exception as error:  # of boto3 and of S3; what cannot be noted is no reason not to run
        answer = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        if answer in ("PreconditionFailed", "ConditionalRequestConflict"):
            sys.exit(
                f"glueray: this run has started before ({uri} says so) and does not start a second time. Its first "
                "head was lost, or its RayCluster was deleted or suspended; a new try of the task is a new run."
            )
        print(f"glueray: the start could not be noted, so a second one would not be refused: {error}", file=sys.stderr)


if __name__ == "__main__":
    note_start(os.environ["GLUERAY_STARTED"])
