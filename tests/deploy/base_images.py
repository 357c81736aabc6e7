"""Images that stand in for those of docker-compose.yml where none can be pulled, made from Debian's packages.

The shipped compose file and Dockerfiles take them through their image variables; nothing else is exchanged.
Grafana is in no registry at hand, so it has no stand-in and is not started.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
PREFIX = "detserve-test"
DEBIAN = f"{PREFIX}/debian"
PACKAGES = ("ca-certificates", "python3", "python3-pip", "libpython3.11")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def why_no_engine() -> str:
    """What stands in the way of running containers here; "" where nothing does."""
    for command in (["docker", "info"], ["docker", "compose", "version"], ["docker", "buildx", "version"]):
        if shutil.which("docker") is None:
            return "docker is not installed"
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:] or 'fails'}"
    if not _exists(_debian()) and (os.geteuid() != 0 or shutil.which("debootstrap") is None):
        return "the base image is made by debootstrap, as root"
    return ""


def base_images() -> dict[str, str]:
    """The image variables of docker-compose.yml; builds what is not there yet."""
    if not _exists(_debian()):
        _bootstrap()
    subprocess.run(["docker", "tag", _debian(), DEBIAN], check=True)
    stages = ("triton", "nginx", "python", "prometheus")
    for stage in stages:
        _quietly(
            "docker",
            "build",
            "--quiet",
            "--target",
            stage,
            "--tag",
            f"{PREFIX}/{stage}:bookworm",
            str(IMAGES),
        )
    return {f"{stage.upper()}_IMAGE": f"{PREFIX}/{stage}:bookworm" for stage in stages}


def _debian() -> str:
    recipe = hashlib.sha256(" ".join(PACKAGES).encode() + CERTIFICATES.read_bytes()).hexdigest()[:12]
    return f"{DEBIAN}:{recipe}"


def _bootstrap() -> None:
    """Debian with this machine's authorities, so that containers reach what it reaches."""
    with tempfile.TemporaryDirectory(prefix="detserve-debian-") as folder:
        root = Path(folder) / "root"
        _quietly("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", str(root))
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        (root / "etc/pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["docker", "import", "-", _debian()], stdin=tar.stdout, check=True, capture_output=True
            )


def _exists(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0


def _quietly(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-3000:]}")
