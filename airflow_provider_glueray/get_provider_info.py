"""What Airflow's provider discovery asks for. Validated in tests against both of Airflow's schemas."""

from __future__ import annotations

from typing import Any

_GLUE_FOR_RAY = "AWS Glue for Ray"
_RAY = "Ray"
_KUBERAY = "KubeRay"
_RAY_DOCS = "https://docs.ray.io/en/latest/cluster"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata in the shape of ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-glueray",
        "name": "Glue Ray",
        "description": "Distributed Python ETL as Ray steps: AWS Glue for Ray, and the same API on a laptop.",
        "integrations": [
            {"integration-name": name, "external-doc-url": page, "tags": [tag]}
            for name, page, tag in (
                (_GLUE_FOR_RAY, "https://docs.aws.amazon.com/glue/latest/dg/ray-jobs-section.html", "aws"),
                (_RAY, f"{_RAY_DOCS}/running-applications/job-submission/rest.html", "service"),
                (_KUBERAY, f"{_RAY_DOCS}/kubernetes/getting-started/rayjob-quick-start.html", "service"),
            )
        ],
        "connection-types": [
            {
                "connection-type": "ray",
                "hook-name": "Ray cluster",
                "hook-class-name": "airflow_provider_glueray.hooks.ray.jobs.RayJobsHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["login"],
                    "relabeling": {"password": "Token", "schema": "Scheme (http or https)"},
                    "placeholders": {"host": "ray-head.internal, or a whole URL", "port": "8265", "schema": "http"},
                },
                "conn-fields": {
                    "headers": {
                        "label": "Headers",
                        "description": "Sent with each request, as a JSON object.",
                        "schema": {"type": ["object", "null"]},
                    },
                    "verify": {
                        "label": "Verify TLS",
                        "description": "Empty to verify, false to trust any certificate, or the path of a CA's.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "aws_conn_id": {
                        "label": "AWS connection",
                        "description": "By which functions and notebooks pass through S3.",
                        "schema": {"type": ["string", "null"], "default": "aws_default"},
                    },
                },
            }
        ],
        "operators": [
            _modules(
                _GLUE_FOR_RAY,
                *("operators.glue_jobs", "operators.glue_sessions", "operators.session_group", "operators.notebooks"),
            ),
            _modules(_KUBERAY, "operators.ray_clusters", "operators.cluster_group"),
        ],
        "sensors": [_modules(_GLUE_FOR_RAY, "sensors.glue_jobs", "sensors.glue_sessions")],
        "hooks": [
            _modules(_GLUE_FOR_RAY, "hooks.glue.jobs", "hooks.glue.sessions"),
            _modules(_RAY, "hooks.ray.jobs"),
            _modules(_KUBERAY, "hooks.kuberay.jobs", "hooks.kuberay.clusters"),
        ],
        "triggers": [_modules(_GLUE_FOR_RAY, "triggers.runs")],
        "task-decorators": [
            {"name": "glue_ray", "class-name": "airflow_provider_glueray.decorators.glue_ray.glue_ray_task"}
        ],
        "extra-links": [
            "airflow_provider_glueray.links.runs.GlueRayRunLink",
            "airflow_provider_glueray.links.runs.GlueRayLogsLink",
        ],
        "config": {
            "glueray": {
                "description": "Settings of airflow-provider-glueray.",
                "options": {
                    "conn_id": _option(
                        "The connection by which jobs run, unless a task names another: of type aws for AWS Glue, "
                        "of type ray for a Ray cluster, of type kubernetes for KubeRay.",
                        default="aws_default",
                        example="ray_default",
                    ),
                    "price_per_mdpu_hour": _option(
                        "US dollars per M-DPU-hour, for the estimated cost of a run. The default is a rate of 2024-11 "
                        "for interactive sessions in eu-west-1; that jobs cost the same is assumed.",
                        kind="float",
                        default="0.44",
                    ),
                    "price_per_vcpu_hour": _option(
                        "US dollars for an hour of one vCPU that a pod requests, for the estimated cost of a run on "
                        "KubeRay. Without this and the next one nothing is estimated there.",
                        kind="float",
                        example="0.03",
                    ),
                    "price_per_gib_hour": _option(
                        "US dollars for an hour of one GiB of memory that a pod requests, likewise.",
                        kind="float",
                        example="0.004",
                    ),
                    "deployment": _option(
                        "Name of this Airflow deployment, the same on all of its machines. It is part of what a run is "
                        "found by; deployments that run the same DAGs on the same service need different names. [api] "
                        "base_url if it is empty.",
                        example="production",
                    ),
                    "waits": _option(
                        "Pauses and patience in seconds, as JSON; what is not named keeps its default, which fits a "
                        "real service. The names are the fields of airflow_provider_glueray.core.follow.Waits.",
                        example='{"quiet": 0.1, "least_poll": 0.2}',
                    ),
                },
            }
        },
    }


def _modules(integration: str, *modules: str) -> dict[str, Any]:
    return {
        "integration-name": integration,
        "python-modules": [f"airflow_provider_glueray.{module}" for module in modules],
    }


def _option(
    description: str, *, kind: str = "string", default: str = "", example: str | None = None
) -> dict[str, str | None]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": example,
        "default": default,
    }
