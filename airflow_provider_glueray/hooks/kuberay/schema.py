"""What KubeRay's custom resources may have, as the API server publishes it: each release of KubeRay brings its own.

No clock and no I/O.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_glueray.hooks.kuberay.manifests.pods import GROUP, VERSION

#: Where the API server publishes it, for everybody who may log in (kubernetes.io, The Kubernetes API).
OPENAPI = f"/openapi/v3/apis/{GROUP}/{VERSION}"
#: Members that older releases have not, and without which a run is right all the same.
OPTIONAL: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "RayJob": (("spec", "preRunningDeadlineSeconds"), ("spec", "rayClusterSpec", "authOptions")),
    "RayCluster": (("spec", "authOptions"),),
}


def optional_members(manifest: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of what a manifest has and older releases have not."""
    for path in OPTIONAL[manifest["kind"]]:
        here: Any = manifest
        for name in path:
            here = here.get(name) if isinstance(here, Mapping) else None
        if here is not None:
            yield path


def without(manifest: Mapping[str, Any], *paths: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of a manifest without some members."""
    fitting = copy.deepcopy(dict(manifest))
    for *way, last in paths:
        here = fitting
        for name in way:
            here = here[name]
        del here[last]
    return fitting


def has_member(openapi: Mapping[str, Any], kind: str, path: tuple[str, ...]) -> bool:
    """Tell whether a custom resource may have a member.

    :param openapi: the document at :data:`OPENAPI`.
    """
    schemas = (openapi.get("components") or {}).get("schemas") or {}
    here: Any = next((each for each in schemas.values() if _is_of(each, kind)), {})
    for name in path:
        here = (here.get("properties") or {}).get(name)
        if here is None:
            return False
    return True


def _is_of(schema: Mapping[str, Any], kind: str) -> bool:
    known = {"group": GROUP, "version": VERSION, "kind": kind}
    return known in (schema.get("x-kubernetes-group-version-kind") or ())
