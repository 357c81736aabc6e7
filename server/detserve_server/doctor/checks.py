"""What would stop a repository from being served on this machine: one small function for each question."""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from detserve_core.card import Card
from detserve_core.contract import CARD_PARAMETER
from detserve_core.errors import DetserveError
from detserve_core.machine.cores import cores
from detserve_core.machine.cpu import cpu_kind, cpuinfo
from detserve_core.machine.ports import LOOPBACK, is_free
from detserve_core.machine.sha256 import file_sha256
from detserve_core.repository.config_pbtxt import CONFIG, read_config
from detserve_core.repository.manifest import (
    MANIFEST,
    Manifest,
    changed_files,
    foreign_files,
    missing_folders,
    read_manifests,
)
from detserve_core.repository.plan_record import plan_files, read_record
from detserve_server.doctor.check import Check
from detserve_server.doctor.pipelines import check_pipelines, gpus_here
from detserve_server.doctor.plan_images import SERVING_IMAGE, VERSION_COMPATIBLE, obstacle, rebuild
from detserve_server.in_process.choice import Choice, choose
from detserve_server.triton.distribution import PYTHON_VERSION, find_distribution, libpython_dir
from detserve_server.triton.repository import NO_CACHE, ModelOutline, caching_models, read_repository
from detserve_server.triton.shared_memory import MIB, SHM_DIR, free_bytes, shm_size_bytes, start_bytes

_Answer = TypeVar("_Answer")

#: nvidia-pytriton is a manylinux_2_35 wheel.
GLIBC_NEEDED = (2, 35)


def run_checks(repository: Path, ports: Mapping[str, int], image: str = "") -> list[Check]:
    """Every check, in the order in which a server would meet what they look at.

    ``image`` is the container that is to serve the repository; "" is the embedded server of this machine.
    """
    if image:
        return _checks_for_image(repository, image)
    models = _asked("repository", lambda: read_repository(repository))
    manifests = _asked("manifests", lambda: read_manifests(repository))
    checks = [check_glibc(platform.libc_ver()[1]), check_tritonserver(), check_libpython()]
    if isinstance(models, Check):
        return [*checks, models]
    where = choose(models)
    checks += [check_models(repository, models), check_cache(models), check_place(where)]
    checks += check_pipelines(models, cores(), gpus=0)  # the embedded server uses none
    if not where.backend:
        checks.append(check_shared_memory(models, free_bytes()))
    if isinstance(manifests, Check):
        checks.append(manifests)
    else:
        for manifest in manifests:
            checks += [
                *_checks_of_build(repository, manifest, SERVING_IMAGE),
                check_package(manifest, "onnxruntime", _installed("onnxruntime")),
            ]
    return [*checks, *(check_port(purpose, port) for purpose, port in ports.items())]


def _checks_for_image(repository: Path, image: str) -> list[Check]:
    models = _asked("repository", lambda: read_repository(repository))
    manifests = _asked("manifests", lambda: read_manifests(repository))
    failed = [answer for answer in (models, manifests) if isinstance(answer, Check)]
    if isinstance(manifests, Check) or failed:
        return failed
    of_builds = [check for manifest in manifests for check in _checks_of_build(repository, manifest, image)]
    if isinstance(models, Check):
        return of_builds
    return [check_cache(models), *check_pipelines(models, cores(), gpus_here()), *of_builds]


def _checks_of_build(repository: Path, manifest: Manifest, image: str) -> list[Check]:
    """What is asked of every build, wherever it will be served."""
    return [
        check_layout(repository, manifest),
        check_hashes(repository, manifest),
        check_card(repository, manifest),
        check_foreign_files(repository, manifest),
        *check_cpu_kind(manifest, cpu_kind(cpuinfo())),
        *check_plans(repository, manifest, image),
    ]


def check_glibc(found: str) -> Check:
    """Whether the C library is new enough for the wheel."""
    needed = ".".join(map(str, GLIBC_NEEDED))
    if _numbers(found) >= GLIBC_NEEDED:
        return Check("C library", f"glibc {found}")
    return Check("C library", f"glibc {found or 'none'}", f"use a system with glibc {needed} or newer")


def check_tritonserver() -> Check:
    """Whether the server's wheel is here and fits the running Python."""
    found = _asked("tritonserver", find_distribution)
    if isinstance(found, Check):
        return found
    return Check("tritonserver", f"nvidia-pytriton {found.version}, stub for Python {PYTHON_VERSION}")


def check_libpython() -> Check:
    """Whether the stub will find the shared library of the running Python."""
    library = f"libpython{PYTHON_VERSION}.so.1.0"
    if folder := libpython_dir():
        return Check("libpython", f"{library} in {folder}")
    try:
        ctypes.CDLL(library)
    except OSError:
        return Check(
            "libpython", f"no {library}", f"install libpython{PYTHON_VERSION} with the system's packages"
        )
    return Check("libpython", f"{library} of the system")


def check_models(repository: Path, models: list[ModelOutline]) -> Check:
    """Whether the embedded server has a backend for every model, and every ensemble all of its steps."""
    names = {model.name for model in models}
    for model in models:
        missing = [step for step in model.steps if step not in names]
        if missing:
            return Check("models", f"{model.name} has no step {missing[0]}", "build the model again")
        if model.backend not in ("", "python"):
            fix = "build it with --target embedded, or serve it with docker-compose.yml"
            return Check("models", f"{model.name} wants the backend {model.backend!r}", fix)
        if model.backend == "python" and not list((repository / model.name).glob("*/model.py")):
            return Check("models", f"{model.name} has no model.py", "build the model again")
    ensembles = [model.name for model in models if not model.backend]
    return Check("models", f"{len(models)}, of them ensembles: {', '.join(ensembles) or 'none'}")


def check_cache(models: list[ModelOutline]) -> Check:
    """Whether Triton would answer for a detector from its response cache."""
    if caching := caching_models(models):
        return Check("response cache", f"on for {', '.join(caching)}", NO_CACHE)
    return Check("response cache", "off for every detector")


def check_place(where: Choice) -> Check:
    """Where the steps run; what this machine lacks to run them within the server's process can be fixed."""
    found, _, fix = str(where).partition("; ")
    return Check("steps", f"run {found}", fix, stops=False)


def check_shared_memory(models: list[ModelOutline], free: int) -> Check:
    """Whether ``/dev/shm`` holds what the python models need to start, and what they may come to need."""
    advised = shm_size_bytes(models)
    found = f"{free // MIB} MiB free in {SHM_DIR}, {advised // MIB} MiB advised"
    if free >= advised:
        return Check("shared memory", found)
    fix = f"enlarge it to {advised // MIB} MiB (docker run --shm-size={advised // MIB}m)"
    return Check("shared memory", found, fix, stops=free < start_bytes(models))


def check_layout(repository: Path, manifest: Manifest) -> Check:
    """Whether all models of the detector are there."""
    name = f"{manifest.name}: models"
    if missing := missing_folders(repository, manifest):
        return Check(name, f"no {', '.join(missing)}", "build the model again")
    steps = {file.partition("/")[0] for file in manifest.sha256} - {manifest.name}
    return Check(name, f"ensemble of {', '.join(sorted(steps))}, target {manifest.target}")


def check_hashes(repository: Path, manifest: Manifest) -> Check:
    """Whether the files are those the build wrote and measured."""
    name = f"{manifest.name}: files"
    if changed := changed_files(repository, manifest):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return Check(name, f"{changed[0]}{more} changed since the build", "build the model again")
    return Check(name, f"{len(manifest.sha256)} as built")


def check_card(repository: Path, manifest: Manifest) -> Check:
    """Whether the card that is served, the one in the configuration, is the one of the manifest."""
    name = f"{manifest.name}: card"

    def served() -> str:
        config = read_config(repository / manifest.name / CONFIG)
        return str(config.parameters[CARD_PARAMETER].string_value)

    text = _asked(name, served)
    if isinstance(text, Check):
        return text
    card = _asked(name, lambda: Card.from_json(text, where=CONFIG)) if text else manifest.card
    if isinstance(card, Check):
        return card
    if card != manifest.card:
        found = f"{MANIFEST} has another card than {CONFIG}, which is what is served"
        return Check(name, found, "put back what the build wrote, or build the model again")
    return Check(name, "as built")


def check_foreign_files(repository: Path, manifest: Manifest) -> Check:
    """Whether anything is in the detector's folders that no tool of ours has put there."""
    name = f"{manifest.name}: other files"
    foreign = foreign_files(repository, manifest)
    if not foreign:
        return Check(name, "none")
    more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    fix = "remove what you did not put there: Python imports a file beside model.py before its own packages"
    return Check(name, f"{foreign[0]}{more}", fix, stops=False)


def check_cpu_kind(manifest: Manifest, here: str) -> list[Check]:
    """Whether the precision was chosen by its speed on a CPU of the kind that is ``here``."""
    try:
        measured_on = manifest.measured["precision"]["machine"]["cpu_kind"]
    except (KeyError, TypeError):  # nothing was measured, or somebody has edited what was
        return []
    if manifest.target == "tensorrt" or measured_on is None:
        return []
    name, chosen = f"{manifest.name}: CPU", f"{manifest.precision} chosen on a CPU with {measured_on}"
    if here == measured_on:
        return [Check(name, f"{chosen}, as this one has")]
    fix = "another precision may be faster here: build it again on this machine, with --images to measure on"
    return [Check(name, f"{chosen}, this one has {here}", fix, stops=False)]


def check_plans(repository: Path, manifest: Manifest, image: str) -> list[Check]:
    """Whether ``image`` can load each TensorRT plan of the detector, and that there is one."""
    if manifest.target != "tensorrt":
        return []
    plans = plan_files(repository, manifest)
    if not plans:
        fix = rebuild(image).replace("build it again", "build one")
        return [Check(f"{manifest.name}: plans", "none", fix)]
    return [_check_plan(manifest, plan, image) for plan in plans]


def _check_plan(manifest: Manifest, plan: Path, image: str) -> Check:
    name = f"{manifest.name}: {plan.name}"
    record = _asked(name, lambda: read_record(plan))
    if isinstance(record, Check):
        return Check(name, record.found, rebuild(image))
    if record.plan_sha256 != file_sha256(plan):
        return Check(name, "not the plan its record describes", rebuild(image))
    if record.onnx_sha256 != file_sha256(plan.with_name("model.onnx")):
        return Check(name, "built from another model.onnx", rebuild(image))
    if stands_in_the_way := obstacle(record, image):
        return Check(name, *stands_in_the_way)
    condition = f" started with {VERSION_COMPATIBLE}" if record.version_compatible else ""
    return Check(name, f"TensorRT {record.tensorrt}, loads in {image}{condition}")


def check_signature(repository: Path, public_key: Path) -> Check:
    """Whether the repository is, to the last file, what the owner of the key signed."""
    from detserve_server.signing.keys import read_public_key
    from detserve_server.signing.repository import verify_repository

    signed = _asked("signature", lambda: verify_repository(repository, read_public_key(public_key)))
    if isinstance(signed, Check):
        return signed
    return Check("signature", f"{signed.files} files as signed with the key {signed.key}")


def check_package(manifest: Manifest, package: str, installed: str) -> Check:
    """Whether a package is not older than the one the detector was built with."""
    name, built_with = f"{manifest.name}: {package}", manifest.versions.get(package, "")
    if not installed:
        return Check(name, "not installed", "pip install 'detserve[server]'")
    if _numbers(installed) < _numbers(built_with):
        fix = f"pip install '{package}>={built_with}', with which it was built"
        return Check(name, installed, fix)
    return Check(name, installed)


def check_port(purpose: str, port: int) -> Check:
    """Whether a server could listen on this port."""
    name = f"{purpose} port"
    if is_free(port):
        return Check(name, f"{LOOPBACK}:{port} is free")
    option = f"--{purpose.lower()}-port"
    return Check(name, f"{LOOPBACK}:{port} is in use", f"stop what listens there or give another {option}")


def _asked(name: str, question: Callable[[], _Answer]) -> _Answer | Check:
    """The answer, or a failed check from the sentence of the error it raised (found; fix)."""
    try:
        return question()
    except DetserveError as error:
        found, _, fix = str(error).partition("; ")
        return Check(name, found, fix or found)
    except OSError as error:
        return Check(
            name,
            f"{error.filename or name} cannot be read ({error.strerror})",
            "fix that, or build it again",
        )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
