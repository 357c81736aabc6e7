"""``NAME.plan.json``: what a TensorRT plan was built by, for and from, beside the plan."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detserve_core.errors import RepositoryError
from detserve_core.repository.manifest import Manifest


class PlanRecord(BaseModel):
    """One plan.

    Attributes:
        tensorrt: the version that built it; a plan loads in that one.
        image: the release of NVIDIA's image it was built in ("26.11"; "" for none).
        batch: least, usual and largest batch of its optimisation profile.
        onnx_sha256: of the graph it was built from.
        plan_sha256: of the plan.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    tensorrt: str = Field(pattern=r"^\d+\.")
    image: str
    cuda: str
    gpu: str
    compute_capability: str
    version_compatible: bool
    hardware_compatible: bool
    sparse_weights: bool
    batch: tuple[int, int, int]
    onnx_sha256: str
    plan_sha256: str

    @property
    def major(self) -> int:
        """Major version of the TensorRT that built it."""
        return int(self.tensorrt.split(".")[0])

    def to_json(self) -> str:
        """Text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def record_path(plan: Path) -> Path:
    """Where the record of a plan is."""
    return plan.with_name(plan.name + ".json")


def plan_files(repository: Path, manifest: Manifest) -> list[Path]:
    """The plans of a detector, in order of name."""
    return sorted((repository / f"{manifest.name}_detector").glob("*/*.plan"))


def read_record(plan: Path) -> PlanRecord:
    """The record of a plan; raises :class:`RepositoryError` where it is absent or not valid."""
    path = record_path(plan)
    try:
        return PlanRecord.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        said = f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        said = repr(error)
    raise RepositoryError(f"{path.name} does not say what built the plan ({said})")
