"""The shell command of KubeRay's submitter, run by a real shell and Ray's own command line.

Its form is that of kuberay/…/common/job.go (v1.7.0): a script's arguments pass YAML, JSON, Go's quotes, bash, Ray's
command line and the shell of Ray's job supervisor before they arrive.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import boto3
import httpx
import pytest
import yaml

from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.kuberay.manifests.rayjob import to_rayjob
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings

ODD = "$HOME ${HOME} $(id) `id` 'one' \"two\" \\n \\\\ ü €uro #no !x *.py 100% yes: 1e-5"
SOURCE = "import json, os, sys\nprint('SAW ' + json.dumps([os.environ['odd'], sys.argv[1:]]))\n"


@pytest.mark.only("kuberay", local=True)
def test_arguments_pass_all_shells(place, connected):
    """In a shared cluster, where they travel in the runtime environment."""
    s3 = boto3.client(
        "s3", endpoint_url=connected.url, region_name=connected.region, aws_access_key_id="x", aws_secret_access_key="x"
    )
    s3.put_object(Bucket="glueray-local", Key="contract/odd.py", Body=SOURCE.encode())
    spec = RayJobSpec(
        name="odd", script="s3://glueray-local/contract/odd.py", arguments={"odd": ODD, "b": "2"}, cluster="etl/shared"
    )
    settings = RayJobSettings.of({"image": "ours/ray:2.60.0"}, namespace="etl")
    rayjob = to_rayjob(spec, uuid4().hex, arguments={}, settings=settings, deadline_seconds=None)
    ray, submission_id = connected.ray(), uuid4().hex
    runtime_env = json.dumps(yaml.safe_load(rayjob["spec"]["runtimeEnvYAML"]), ensure_ascii=False)
    words = ["ray", "job", "submit", "--address", ray["dashboard"], "--no-wait"]
    # Go's strconv.Quote leaves what can be printed as it is, as this does.
    words += ["--runtime-env-json", json.dumps(runtime_env, ensure_ascii=False), "--submission-id", submission_id]
    command = " ".join([*words, "--", rayjob["spec"]["entrypoint"].strip(), ";"])
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": ray["token"],
    }
    done = subprocess.run(
        ["bash", "-ce", command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    with httpx.Client(base_url=ray["dashboard"], headers={"Authorization": f"Bearer {ray['token']}"}) as client:
        end = time.monotonic() + 60
        while client.get(f"/api/jobs/{submission_id}").json()["status"] not in ("SUCCEEDED", "FAILED"):
            assert time.monotonic() < end
            time.sleep(0.2)
        log = client.get(f"/api/jobs/{submission_id}/logs").json()["logs"]
    (line,) = (line for line in log.splitlines() if line.startswith("SAW "))
    assert json.loads(line.removeprefix("SAW ")) == [ODD, ["--odd", ODD, "--b", "2"]]
