"""The environment of a container, from all that its spec may name."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

from tests.kubernetes.api import Api
from tests.kubernetes.layout import API_PORT, GATEWAY, IMAGE

_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)")
#: Every container has them. Ray's autoscaler reads KUBERNETES_SERVICE_PORT_HTTPS. gRPC has a resolver of its own, which
#: does not trust a hosts file alone.
_OF_IMAGE = {
    "PATH": f"{IMAGE}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp/home",
    "LANG": "C.UTF-8",
    "GRPC_DNS_RESOLVER": "native",
    "KUBERNETES_SERVICE_HOST": GATEWAY,
    "KUBERNETES_SERVICE_PORT": str(API_PORT),
    "KUBERNETES_SERVICE_PORT_HTTPS": str(API_PORT),
}


class ConfigMissing(Exception):
    """A container names an object, or a key of one, that is not there."""


def amount(quantity: object) -> float:
    """Read a quantity such as 500m or 2Gi."""
    found = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", str(quantity))
    return float(found[1]) * _UNITS.get(found[2], 1.0) if found else 0.0


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by what the environment has; ``$$`` is a dollar."""
    return _REFERENCE.sub(
        lambda found: "$" if found[0] == "$$" else environment.get(found[1], found[0]),
        text,
    )


def field_of(pod: Mapping[str, Any], path: str, address: str) -> str:
    """Return a field of a pod as the downward API has it."""
    metadata, spec = pod["metadata"], pod["spec"]
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    known = {
        "status.podIP": address,
        "status.hostIP": GATEWAY,
        "spec.nodeName": spec["nodeName"],
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
    }
    return str(known.get(path, metadata.get(path.rpartition(".")[2], "")))


class Values:
    """What a namespace's config maps and secrets hold."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._namespace = api, namespace

    def of_config_map(self, reference: Mapping[str, Any]) -> dict[str, bytes]:
        """Return all of a config map.

        :raises ConfigMissing: it is not there, and not optional.
        """
        found = self._find("configmaps", "configmap", reference)
        texts = {key: text.encode() for key, text in (found.get("data") or {}).items()}
        return texts | {key: base64.b64decode(data) for key, data in (found.get("binaryData") or {}).items()}

    def of_secret(self, reference: Mapping[str, Any]) -> dict[str, bytes]:
        """Return all of a secret.

        :raises ConfigMissing: it is not there, and not optional.
        """
        found = self._find("secrets", "secret", {"name": reference.get("secretName"), **reference})
        return {key: base64.b64decode(data) for key, data in (found.get("data") or {}).items()}

    def _find(self, plural: str, kind: str, reference: Mapping[str, Any]) -> dict[str, Any]:
        name = reference["name"]
        found = self._api.find(f"/api/v1/namespaces/{self._namespace}/{plural}/{name}")
        if found is None and not reference.get("optional"):
            raise ConfigMissing(f'{kind} "{name}" not found')
        return found or {}


def environment_of(
    container: Mapping[str, Any], pod: Mapping[str, Any], address: str, values: Values
) -> dict[str, str]:
    """Return the environment of a container.

    :raises ConfigMissing: it names what is not there.
    """
    environment = {**_OF_IMAGE, "HOSTNAME": pod["metadata"]["name"]}
    for each in container.get("envFrom") or ():
        prefix = each.get("prefix", "")
        data = values.of_config_map(each["configMapRef"]) if "configMapRef" in each else {}
        data |= values.of_secret(each["secretRef"]) if "secretRef" in each else {}
        environment |= {f"{prefix}{key}": text.decode() for key, text in data.items()}
    for each in container.get("env") or ():
        if "valueFrom" not in each:
            environment[each["name"]] = expand(each.get("value", ""), environment)
            continue
        text = _value_from(each["valueFrom"], container, pod, address, values)
        if text is not None:
            environment[each["name"]] = text
    return environment


def _value_from(
    source: Mapping[str, Any], container: Mapping[str, Any], pod: Mapping[str, Any], address: str, values: Values
) -> str | None:
    """Return a value from somewhere else; None for an optional one that is not there."""
    if "fieldRef" in source:
        return field_of(pod, source["fieldRef"]["fieldPath"], address)
    if "resourceFieldRef" in source:
        return _resource(source["resourceFieldRef"], container)
    kind, read = ("ConfigMap", values.of_config_map) if "configMapKeyRef" in source else ("Secret", values.of_secret)
    reference = source["configMapKeyRef" if kind == "ConfigMap" else "secretKeyRef"]
    data = read(reference)
    if reference["key"] not in data:
        if reference.get("optional"):
            return None
        where = f"{pod['metadata']['namespace']}/{reference['name']}"
        raise ConfigMissing(f"couldn't find key {reference['key']} in {kind} {where}")
    return data[reference["key"]].decode()


def _resource(reference: Mapping[str, Any], container: Mapping[str, Any]) -> str:
    """Return a request or a limit of a container, in the units that are asked for."""
    kind, _, name = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    of = (resources.get(kind) or resources.get("limits") or {}).get(name, "0")
    return str(math.ceil(amount(of) / (amount(reference.get("divisor") or "1") or 1.0)))
