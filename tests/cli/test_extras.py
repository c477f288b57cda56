"""A command whose extra is not installed names it, in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        (("sessions", "list"), "botocore", "aws"),
        (("sessions", "stop", "one"), "botocore", "aws"),
        (("clusters", "list", "--conn-id", "k"), "kubernetes", "kuberay"),
        (("clusters", "delete", "--all", "--conn-id", "k"), "kubernetes", "kuberay"),
    ],
)
def test_it_is_named(tmp_path, command, missing, extra):
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        f"from airflow_provider_glueray.cli.main import main\nsys.exit(main({list(command)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 1
    assert done.stdout == ""
    assert f"pip install 'airflow-provider-glueray[{extra}]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
