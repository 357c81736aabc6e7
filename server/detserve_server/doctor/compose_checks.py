"""What would stop docker-compose.yml from coming up on this machine, and the fix of each."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from detserve_core.errors import DetserveError
from detserve_server.doctor.check import Check
from detserve_server.doctor.checks import check_signature, run_checks
from detserve_server.doctor.compose import COMPOSE_NEEDED, ComposeProject, ask_docker, read_compose
from detserve_server.doctor.image_floors import check_floors
from detserve_server.errors import CertificateError
from detserve_server.gateway.certificates.expiry import expiries_of_lists, expiry_of
from detserve_server.gateway.certificates.revocation import DIRECTIVE, check_lists, read_lists
from detserve_server.gateway.keys.key import utc_now
from detserve_server.gateway.keys.store import read_keys
from detserve_server.gateway.prom_file import FILE as STATE
from detserve_server.gateway.prom_file import read_state
from detserve_server.gateway.shared_secret import read_secret
from detserve_server.triton.repository import read_repository
from detserve_server.triton.shared_memory import MIB, shm_size_bytes

_GIB = 2**30

#: NVIDIA's image unpacked; the others are small beside it.
IMAGE_BYTES = 25 * _GIB
_AS_ITS_OWNER = "look as the user who owns it, or as root"
_UNNAMED = "an image that the compose file does not name"
#: What the gateway's and the audit log may grow to in some weeks.
STATE_BYTES = 4 * _GIB


def run_compose_checks(file: Path, public_key: Path | None = None) -> list[Check]:
    """Every check of a compose file, from the engine to the models, signed if a key is given."""
    checks = [check_engine(), check_compose_version()]
    if any(check.stops and not check.passed for check in checks):
        return checks
    try:
        project = read_compose(file)
    except DetserveError as error:
        return [*checks, _failed("compose file", error)]
    checks.append(Check("compose file", f"{file}, project {project.name}"))
    return [*checks, *run_project_checks(project, public_key)]


def run_project_checks(project: ComposeProject, public_key: Path | None = None) -> list[Check]:
    """Every check of a compose file that docker could read."""
    questions: dict[str, Callable[[], Check]] = {
        "GPU": lambda: check_gpu(ask_docker("info", "--format", "{{json .Runtimes}}")),
        "images": lambda: check_images(project, _image_here),
        "known holes": lambda: check_floors(sorted(project.pulled_images().values())),
        "gateway port": lambda: check_gateway_port(project, _running(project)),
        "shared memory": lambda: check_shm_size(project),
        "certificate": lambda: check_certificate(project, utc_now()),
        "revoked": lambda: check_revoked(project, utc_now()),
        "API keys": lambda: check_keys(project),
        "gateway configuration": lambda: check_gateway_configuration(project),
        "folders": lambda: check_folders(project),
        "gateway": lambda: check_gateway_state(project),
        "disk": lambda: check_disk(project),
    }
    checks = [_answer(name, question) for name, question in questions.items()]
    serving_image = project.pulled_images()["triton-cpu"] or _UNNAMED
    checks += run_checks(project.repository, {}, serving_image)
    if public_key is not None:
        checks.append(check_signature(project.repository, public_key))
    return checks


def check_engine() -> Check:
    """Whether the engine answers."""
    try:
        return Check("docker engine", ask_docker("version", "--format", "{{.Server.Version}}"))
    except DetserveError as error:
        found = str(error)
        fix = (
            ""
            if "; " in found
            else "start it (systemctl start docker), or let this user ask it (group docker)"
        )
        return _failed("docker engine", error, fix)


def check_compose_version() -> Check:
    """Whether the compose plugin is new enough."""
    needed = ".".join(map(str, COMPOSE_NEEDED))
    fix = f"install the compose plugin {needed} or newer"
    try:
        found = ask_docker("compose", "version", "--short")
    except DetserveError as error:
        return Check("docker compose", str(error), fix)
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    return Check("docker compose", found, "" if numbers >= COMPOSE_NEEDED else fix)


def check_gpu(runtimes: str) -> Check:
    """Whether the engine can hand a GPU to a container."""
    if "nvidia" in runtimes.lower():
        return Check("GPU", "the engine knows NVIDIA's runtime")
    return Check(
        "GPU",
        "the engine knows none",
        "serve with --profile cpu, or install nvidia-container-toolkit",
        stops=False,
    )


def check_images(project: ComposeProject, is_here: Callable[[str], bool]) -> Check:
    """Whether each image has a fixed version, and which are still to be pulled."""
    images = sorted(set(project.pulled_images().values()) - {""})  # "" is built on what its Dockerfile says
    for image in images:
        tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            return Check("images", f"{image} has no fixed version", "name a version or a digest in .env")
    missing = [image for image in images if not is_here(image)]
    if not missing:
        return Check("images", f"{len(images)} here")
    fix = f"docker pull {missing[0]}; docker compose up does it too"
    return Check("images", f"not here yet: {', '.join(missing)}", fix, stops=False)


def check_gateway_port(project: ComposeProject, running: bool) -> Check:
    """Whether the gateway can be published where it is to be."""
    if not project.published:
        fix = 'give it ports: ["${GATEWAY_LISTEN:-127.0.0.1:8443}:8443"]'
        return Check("gateway port", "none is published: nobody could enter", fix, stops=False)
    for address, ports in project.published:
        if not running and not any(_is_free(address, port) for port in ports):
            fix = f"stop what listens there, or put GATEWAY_LISTEN={address}:OTHER into .env"
            return Check("gateway port", f"{_place(address, ports)} is in use, or not of this machine", fix)
    places = ", ".join(_place(address, ports) for address, ports in project.published)
    return Check("gateway port", f"{places}, {'held by this project' if running else 'free'}")


def check_shm_size(project: ComposeProject) -> Check:
    """Whether Triton's container has the shared memory that its models need."""
    needed = shm_size_bytes(read_repository(project.repository))
    given = project.triton.shm_size
    found = f"{given // MIB} MiB, {needed // MIB} MiB needed"
    fix = f"put TRITON_SHM_SIZE={needed // MIB}m into .env"
    return Check("shared memory", found, "" if given >= needed else fix)


def check_certificate(project: ComposeProject, now: datetime) -> Check:
    """Whether the gateway's certificate is there and will last."""
    folder = project.mounted("gateway", "/etc/detserve/tls")
    tls = folder.parent
    for path in (folder / "server.crt", folder / "server.key"):
        if not path.is_file():
            fix = f"detserve certs init --tls {tls}; detserve certs issue server --host NAME --tls {tls}"
            return Check("certificate", *_absent(path, fix))
    try:
        expiry = expiry_of(folder / "server.crt", now)
    except (CertificateError, ValueError) as error:
        fix = f"issue it again: detserve certs issue server --host NAME --tls {tls}"
        return Check("certificate", str(error), fix)
    found = f"for {', '.join(expiry.hosts)} until {expiry.expires:%Y-%m-%d}"
    if expiry.state == "valid":
        return Check("certificate", found)
    return Check("certificate", found, f"detserve certs rotate --tls {tls}", stops=expiry.state == "expired")


def check_revoked(project: ComposeProject, now: datetime) -> Check:
    """Whether nginx asks, of every authority whose client certificates it accepts, which were revoked."""
    tls = project.mounted("gateway", "/etc/detserve/tls")
    crl, directive = tls / "clients.crl", tls / "clients.crl.conf"
    configuration = project.mounted("gateway", "/etc/detserve/gateway") / "nginx.conf"
    rendered = configuration.read_text(errors="replace") if configuration.is_file() else ""
    if "ssl_client_certificate" not in rendered:
        return Check("revoked", "no client certificates are wanted")
    if "ssl_session_cache off" not in rendered:
        fix = "detserve gateway render --require-client-certificate, and the other options as before"
        return Check("revoked", f"{configuration} is of an earlier version and looks for no {crl.name}", fix)
    if not crl.exists() and not directive.exists():
        return Check("revoked", "no client certificate")
    try:
        check_lists(tls / "clients.crt", crl, now)
        lists = expiries_of_lists(crl, now)
    except CertificateError as error:
        return _failed("revoked", error)
    if not directive.exists():
        fix = f"echo '{DIRECTIVE.decode().strip()}' > {directive}"
        return Check("revoked", f"nginx does not look for {crl} without {directive}", fix)
    first = min(lists, key=lambda each: each.expires, default=None)
    if first is None or first.state == "valid":
        return Check("revoked", f"{sum(map(len, read_lists(crl)))} client certificates")
    found = f"the list {first.name} ends {first.expires:%Y-%m-%d %H:%M} UTC, then all its clients are refused"
    return Check("revoked", found, f"put a new one into {crl}", stops=first.state == "expired")


def check_keys(project: ComposeProject) -> Check:
    """Whether anybody has a key, and only the containers' user may read what is kept of it."""
    file = project.mounted("gateway", "/etc/detserve/keys") / "keys.json"
    create = f"detserve keys create --keys {file} --client NAME"
    if not file.is_file():
        return Check("API keys", *_absent(file, create))
    now = utc_now()
    valid = [key for key in read_keys(file).keys if key.state(now) == "valid"]
    if not valid:
        return Check("API keys", f"no valid one in {file}: nobody could enter", create)
    return Check("API keys", f"{len(valid)} valid, of {len({key.client for key in valid})} clients")


def check_gateway_configuration(project: ComposeProject) -> Check:
    """Whether nginx's configuration is there, and Triton wants the secret that nginx shows."""
    folder = project.mounted("gateway", "/etc/detserve/gateway")
    fix = f"detserve gateway render --output {folder} --triton triton"
    for name in ("nginx.conf", "secret.conf", "triton.env"):
        if not (folder / name).is_file():
            return Check("gateway configuration", *_absent(folder / name, fix))
    if read_secret(folder / "triton.env").encode() not in (folder / "secret.conf").read_bytes():
        return Check("gateway configuration", "secret.conf and triton.env hold different secrets", fix)
    return Check("gateway configuration", f"in {folder}")


def check_gateway_state(project: ComposeProject) -> Check:
    """Whether the gateway runs with what it was last given, and nothing kills its workers."""
    state = read_state(project.mounted("gateway", "/var/log/detserve") / STATE)
    if state.get("detserve_gateway_change_refused"):
        fix = "docker compose logs gateway says which change and why"
        return Check("gateway", "a change of its files is refused, the old ones are in force", fix)
    if lost := int(state.get("detserve_gateway_workers_lost_total", 0)):
        fix = "give it more GATEWAY_MEMORY if the kernel's log names it; a client's 429 ended by itself"
        return Check("gateway", f"{lost} workers of nginx were killed since its start", fix, stops=False)
    return Check("gateway", "says nothing is wrong" if state else "has not run yet")


def check_folders(project: ComposeProject) -> Check:
    """Whether the containers' user owns the folders and the secret files, which nobody else may read."""
    state = project.mounted("gateway", "/var/log/detserve").parent
    written = [
        project.mounted("gateway", "/var/log/detserve"),
        project.mounted("audit", "/var/lib/detserve/audit"),
        project.mounted("audit", "/etc/detserve/audit"),
    ]
    for folder in written:
        if not folder.is_dir():
            return Check("folders", *_absent(folder, f"mkdir -p {' '.join(map(str, written))}"))
    secret = [
        project.mounted("gateway", "/etc/detserve/tls") / "server.key",
        project.mounted("gateway", "/etc/detserve/gateway") / "secret.conf",
        project.mounted("gateway", "/etc/detserve/gateway") / "triton.env",
        project.mounted("gateway", "/etc/detserve/keys") / "keys.json",
        project.mounted("gateway", "/etc/detserve/keys") / "keys.conf",
    ]
    for path in [*written, *filter(Path.exists, secret)]:
        owner = path.stat().st_uid
        if owner != project.user_id:
            fix = f"put DETSERVE_USER={owner}:{path.stat().st_gid} into .env, or "
            fix += f"chown -R {project.user_id} {state}"
            return Check(
                "folders", f"{path} is of user {owner}, the containers run as {project.user_id}", fix
            )
        if path in secret and path.stat().st_mode & 0o077:
            return Check("folders", f"{path} can be read by others", f"chmod 600 {path}")
    return Check("folders", f"in {state}, of user {project.user_id}")


def check_disk(project: ComposeProject) -> Check:
    """Whether the images and what is written will find room."""
    root = Path(ask_docker("info", "--format", "{{.DockerRootDir}}"))
    state = project.mounted("gateway", "/var/log/detserve").parent
    pulled = all(map(_image_here, project.pulled_images().values()))
    for path, needed in ((root, 0 if pulled else IMAGE_BYTES), (state, STATE_BYTES)):
        free = shutil.disk_usage(_existing(path)).free
        if free < needed:
            found = f"{free / _GIB:.1f} GiB free in {path}, {needed // _GIB} wanted"
            return Check(
                "disk", found, "docker system prune, or move it to a larger disk", stops=path == root
            )
    return Check("disk", f"{shutil.disk_usage(_existing(state)).free / _GIB:.0f} GiB free in {state}")


def _answer(name: str, question: Callable[[], Check]) -> Check:
    """The answer; a question that cannot be answered fails with its reason."""
    try:
        return question()
    except DetserveError as error:
        return _failed(name, error)
    except OSError as error:
        return Check(name, f"{error.filename or name} cannot be read ({error.strerror})", _AS_ITS_OWNER)


def _absent(path: Path, fix: str) -> tuple[str, str]:
    """Found and fix of a file or folder that is not there, or is the other of the two."""
    if not path.exists():
        return f"no {path}", fix
    kind = "a folder" if path.is_dir() else "not a folder"
    return f"{path} is {kind}", f"move it away; then {fix}"


def _place(address: str, ports: range) -> str:
    last = f"-{ports[-1]}" if len(ports) > 1 else ""
    return f"{address}:{ports[0]}{last}"


def _failed(name: str, error: Exception, fix: str = "") -> Check:
    found, _, said = str(error).partition("; ")
    return Check(name, found, fix or said or "fix what it names")


def _image_here(image: str) -> bool:
    try:
        return bool(ask_docker("image", "inspect", "--format", "{{.Id}}", image))
    except DetserveError:
        return False


def _running(project: ComposeProject) -> bool:
    label = f"label=com.docker.compose.project={project.name}"
    service = "label=com.docker.compose.service=gateway"
    return bool(ask_docker("ps", "--quiet", "--filter", label, "--filter", service))


def _is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError:
            return True  # below 1024: the engine may
        except (OSError, OverflowError):  # a port beyond 65535
            return False
    return True


def _existing(path: Path) -> Path:
    """The path or the nearest folder above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())
