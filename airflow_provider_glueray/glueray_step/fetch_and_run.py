"""Fetch a script from a store, and replace this process with it: ``__main__`` and tracebacks are the script's own.

This file is sent as text, since ``glueray_step`` is not on every cluster. Python 3.9, and pyarrow.
"""

import base64
import json
import os
import signal
import sys
import tempfile
from urllib.parse import quote


def fetch(uri: str) -> str:
    """Copy a file of a store to this machine; return its path."""
    from pyarrow.fs import FileSystem

    store, path = FileSystem.from_uri(quote(uri, safe=":/"))
    script = os.path.join(tempfile.mkdtemp(), os.path.basename(path))
    with store.open_input_stream(path) as source, open(script, "wb") as target:
        target.write(source.read())
    return script


def main() -> None:
    """Run the script of the command line with the arguments after it, or that of the environment."""
    if sys.argv[1:]:
        script, words = fetch(sys.argv[1]), sys.argv[2:]
    else:
        if "GLUERAY_RUN" in os.environ:  # base64 of the environment of one run in a shared cluster
            run = json.loads(base64.b64decode(os.environ["GLUERAY_RUN"]))
            os.environ.update(run)
            signal.alarm(int(run["GLUERAY_SECONDS"]))  # outlives execv
        script, arguments = fetch(os.environ["GLUERAY_SCRIPT"]), json.loads(os.environ["GLUERAY_ARGUMENTS"])
        exec(os.environ.get("GLUERAY_NOTE_START", ""), {"__name__": "__main__"})
        os.environ.update(arguments)
        words = [word for name, text in arguments.items() for word in ("--" + name, text)]
    os.execv(sys.executable, [sys.executable, script, *words])


if __name__ == "__main__":
    main()
