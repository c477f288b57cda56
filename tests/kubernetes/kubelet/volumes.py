"""The volumes of a pod, as folders that are mounted into its containers."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kubernetes.api import Api
from tests.kubernetes.kubelet.environment import Values, amount, field_of

#: The most that a volume in memory may take here, whatever a pod asks for.
_MOST_MEMORY = 3 * 2**30


class Volumes:
    """The volumes of one pod.

    :ivar folder: has a folder of each, by its name.
    """

    def __init__(self, folder: Path, pod: Mapping[str, Any], address: str, api: Api) -> None:
        self.folder, self._pod, self._address, self._api = folder, pod, address, api
        self._values = Values(api, pod["metadata"]["namespace"])
        self._mounted: list[Path] = []

    def make(self) -> None:
        """Make all that are not made.

        :raises ConfigMissing: one of them is of an object that is not there.
        """
        for volume in self._pod["spec"].get("volumes") or ():
            folder = self.folder / volume["name"]
            if not folder.exists():
                files = self._files(volume)
                folder.mkdir(parents=True)
                self._mount(volume.get("emptyDir"), folder)
                for name, content in files.items():
                    file = folder / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content)

    def remove(self) -> None:
        """Unmount what is in memory."""
        for folder in self._mounted:
            with contextlib.suppress(subprocess.CalledProcessError):
                subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)

    def mounts_of(self, container: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return from where to where the volumes of a container are mounted, outer folders first."""
        found = []
        for mount in container.get("volumeMounts") or ():
            source = self.folder / mount["name"] / mount.get("subPath", "")
            if not source.exists():
                source.mkdir(parents=True)
            found.append((str(source), mount["mountPath"]))
        return sorted(found, key=lambda pair: len(pair[1]))

    def _mount(self, empty: Mapping[str, Any] | None, folder: Path) -> None:
        if empty is not None and empty.get("medium") == "Memory":
            size = min(amount(empty.get("sizeLimit") or "1Gi"), _MOST_MEMORY)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size:.0f}", "tmpfs", str(folder)], check=True)
            self._mounted.append(folder)
        folder.chmod(0o777)

    def _files(self, volume: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the files of a volume by their paths; none, if it is an empty folder."""
        sources = (volume.get("projected") or {}).get("sources") or [volume]
        files: dict[str, bytes] = {}
        for source in sources:
            if source.get("serviceAccountToken"):
                files |= self._token(source["serviceAccountToken"])
            if source.get("configMap"):
                files |= _chosen(self._values.of_config_map(source["configMap"]), source["configMap"])
            if source.get("secret"):
                files |= _chosen(self._values.of_secret(source["secret"]), source["secret"])
            for item in (source.get("downwardAPI") or {}).get("items") or ():
                files[item["path"]] = field_of(self._pod, item["fieldRef"]["fieldPath"], self._address).encode()
        return files

    def _token(self, wanted: Mapping[str, Any]) -> dict[str, bytes]:
        metadata = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName", "default")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        spec: dict[str, Any] = {"expirationSeconds": 3600, "boundObjectRef": bound}
        if wanted.get("audience"):
            spec["audiences"] = [wanted["audience"]]
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
        made = self._api.ask("POST", path, {"spec": spec})
        return {wanted["path"]: made["status"]["token"].encode()}


def _chosen(data: Mapping[str, bytes], source: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the keys that a source names, under the paths that it gives them; all if it names none."""
    items = source.get("items")
    return {item["path"]: data[item["key"]] for item in items if item["key"] in data} if items else dict(data)
