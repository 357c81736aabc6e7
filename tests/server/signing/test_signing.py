"""A signed repository is served as it was signed, to the last file, or not at all."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detserve_core.errors import OutputError
from detserve_server.doctor.checks import check_signature
from detserve_server.errors import SignatureError, SigningKeyError
from detserve_server.signing.keys import create_key, read_private_key, read_public_key
from detserve_server.signing.repository import SIGNATURE, sign_repository, verified_copy, verify_repository

COMMITTED = Path(__file__).parents[3] / "model_repository"
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed codes_ssd, signed. Tests change copies of it."""
    folder = tmp_path_factory.mktemp("signed") / "repository"
    for model in COMMITTED.glob("codes_ssd*"):
        shutil.copytree(model, folder / model.name, ignore=shutil.ignore_patterns("__pycache__"))
    sign_repository(folder, KEY)
    return folder


@pytest.fixture
def repository(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "repository"))


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_an_untouched_repository_verifies_and_the_copy_is_the_same(repository: Path, tmp_path: Path) -> None:
    verified = verify_repository(repository, PUBLIC, tmp_path / "copy")
    assert verified.files == len(_tree(repository)) - 1
    assert _tree(tmp_path / "copy") == {k: v for k, v in _tree(repository).items() if k != SIGNATURE}


@pytest.mark.parametrize(
    "where", [".", "copy", "codes_ssd/copy", "../repository/copy", "../link/copy", "codes_ssd/1/../x"]
)
def test_a_copy_within_the_repository_is_refused(repository: Path, where: str) -> None:
    (repository.parent / "link").symlink_to(repository)
    before = sorted(repository.rglob("*"))
    with pytest.raises(SignatureError, match="is in the repository|exists already"):
        verify_repository(repository, PUBLIC, repository / where)
    assert sorted(repository.rglob("*")) == before


def test_a_copy_over_what_exists_is_refused(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "into").symlink_to(repository / "copy")
    for taken in (repository, repository.parent, tmp_path / "full", tmp_path / "dangling", tmp_path / "into"):
        with pytest.raises(SignatureError, match="exists already; give a new folder"):
            verify_repository(repository, PUBLIC, taken)
    assert (tmp_path / "full/kept").exists()
    assert not (tmp_path / "nowhere").exists()
    verify_repository(repository, PUBLIC)


def test_a_repository_that_is_a_link_to_itself_is_said(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SignatureError, match="loop"):
        sign_repository(tmp_path / "loop", KEY)


def test_a_signature_that_is_a_pipe_is_not_waited_for(repository: Path) -> None:
    (repository / SIGNATURE).unlink()
    os.mkfifo(repository / SIGNATURE)
    with pytest.raises(SignatureError, match="is not a file"):
        verify_repository(repository, PUBLIC)


def test_signing_again_signs_the_same_files_and_names_those_of_no_build(repository: Path) -> None:
    assert sign_repository(repository, KEY).unbuilt == ()
    (repository / "codes_ssd_pipeline/1/model_89.plan").write_bytes(b"plan")
    (repository / "codes_ssd_pipeline/1/__pycache__").mkdir()
    (repository / "codes_ssd_pipeline/1/__pycache__/model.pyc").write_bytes(b"compiled")
    assert sign_repository(repository, KEY).unbuilt == ("codes_ssd_pipeline/1/model_89.plan",)
    verify_repository(repository, PUBLIC)


def _config(repository: Path) -> None:
    path = repository / "codes_ssd/config.pbtxt"
    path.write_text(path.read_text().replace("0.", "1.", 1))


def _extra_model(repository: Path) -> None:
    (repository / "mole/1").mkdir(parents=True)
    (repository / "mole/config.pbtxt").write_text('backend: "python"')


def _planted_pyc(repository: Path) -> None:
    folder = repository / "codes_ssd_pipeline/1/__pycache__"
    folder.mkdir()
    (folder / "detserve_preprocess.cpython-311.pyc").write_bytes(b"anything")


def _link_out(repository: Path) -> None:
    path = repository / "codes_ssd_pipeline/1/model.onnx"
    elsewhere = repository.parent / "elsewhere.onnx"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)  # the same bytes, until somebody changes them


def _sign_with_another_key(repository: Path) -> None:
    sign_repository(repository, Ed25519PrivateKey.generate())


def _edit_signature(repository: Path) -> None:
    """Change a file and put its true hash into the signature file."""
    import hashlib

    path = repository / "codes_ssd_pipeline/1/model.py"
    path.write_bytes(path.read_bytes() + b"\nimport os\n")
    content = json.loads((repository / SIGNATURE).read_text())
    content["files"]["codes_ssd_pipeline/1/model.py"] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (repository / SIGNATURE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (_config, r"codes_ssd/config\.pbtxt is not the file that was signed"),
        (_extra_model, r"mole/config\.pbtxt was not signed; remove it"),
        (lambda r: (r / "codes_ssd_pipeline/1/numpy.py").touch(), r"1/numpy\.py was not signed"),
        (lambda r: (r / "codes_ssd/.hidden").touch(), r"\.hidden was not signed"),
        (lambda r: (r / "codes_ssd/2").mkdir(), r"codes_ssd/2 is a folder that was not signed"),
        (lambda r: (r / "codes_ssd/1/.keep").unlink(), r"\.keep was signed and is missing"),
        (_planted_pyc, r"__pycache__ could be run in the place of the signed Python files"),
        (lambda r: (r / "__pycache__").write_bytes(b""), r"__pycache__ could be run"),
        (_link_out, r"model\.onnx is a symbolic link"),
        (lambda r: (r / "codes_ssd_pipeline/3").symlink_to(r / "codes_ssd_pipeline/1"), "a symbolic link"),
        (lambda r: os.mkfifo(r / "codes_ssd/pipe"), "neither file nor folder"),
        (lambda r: (r / "codes_ssd/\x1b[2J").touch(), r"cannot be printed: 'codes_ssd/\\x1b\[2J'"),
        (lambda r: (Path(os.fsdecode(bytes(r / "codes_ssd") + b"/\xff"))).touch(), "cannot be printed"),
        (_sign_with_another_key, r"is not signed with the key [0-9a-f]{16}, it names the key"),
        (_edit_signature, r"is not signed with the key"),
        (lambda r: (r / SIGNATURE).unlink(), r"is not signed .*; sign it with: detserve sign"),
        (lambda r: (r / SIGNATURE).write_text("[" * 2_000), r"is not a signature"),
        (lambda r: (r / SIGNATURE).write_text('{"key": 1, "signature": [], "files": {}}'), "not signed with"),
        (lambda r: (r / SIGNATURE).write_text('{"key": 1, "signature": 0, "files": {"a": 1}}'), r"files\.a"),
    ],
)
def test_a_tampered_repository_is_refused(
    repository: Path, tmp_path: Path, attack: Callable[[Path], object], said: str
) -> None:
    attack(repository)
    with pytest.raises(SignatureError, match=said):
        verify_repository(repository, PUBLIC, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_refused(signed: Path, tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(name for name in _tree(signed) if not name.endswith(".onnx"))))
    path = signed / name
    before = path.read_bytes()
    if not before:
        return
    place = data.draw(st.integers(0, len(before) - 1))
    changed = before[:place] + bytes([before[place] ^ data.draw(st.integers(1, 255))]) + before[place + 1 :]
    path.write_bytes(changed)
    try:
        if name == SIGNATURE and _same_statement(changed, before):
            return  # white space, or the name of the key, of which nothing is believed
        with pytest.raises(SignatureError):
            verify_repository(signed, PUBLIC)
    finally:
        path.write_bytes(before)


def _same_statement(changed: bytes, before: bytes) -> bool:
    try:
        return {**json.loads(changed), "key": ""} == {**json.loads(before), "key": ""}
    except ValueError:
        return False


@pytest.mark.parametrize("kind", ["PUBLIC KEY", "PRIVATE KEY"])
def test_a_key_of_an_unknown_algorithm_is_said(tmp_path: Path, kind: str) -> None:
    unknown = bytes.fromhex("300a300506032a0304030100")  # the algorithm 1.2.3.4
    if kind == "PRIVATE KEY":
        unknown = bytes.fromhex("300e020100300506032a030404020400")
    pem = f"-----BEGIN {kind}-----\n{base64.b64encode(unknown).decode()}\n-----END {kind}-----\n"
    (tmp_path / "key.pem").write_text(pem)
    read = read_public_key if kind == "PUBLIC KEY" else read_private_key
    with pytest.raises(SigningKeyError, match="has no"):
        read(tmp_path / "key.pem")


def test_a_file_exchanged_after_the_check_does_not_reach_the_copy(repository: Path) -> None:
    path = repository / "codes_ssd_pipeline/1/model.py"
    good = path.read_bytes()
    with verified_copy(repository, PUBLIC) as copy:
        path.write_bytes(b"raise SystemExit")
        assert (copy / "codes_ssd_pipeline/1/model.py").read_bytes() == good
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert not copy.exists()


def test_a_file_exchanged_during_the_check_is_refused_or_copied_as_signed(repository: Path) -> None:
    path = repository / "codes_ssd_pipeline/1/model.py"
    good, going = path.read_bytes(), True

    def flicker() -> None:
        while going:
            for content in (b"raise SystemExit", good):
                other = path.parent.parent.parent.parent / "other"
                other.write_bytes(content)
                other.replace(path)

    thread = threading.Thread(target=flicker)
    thread.start()
    refused = 0
    try:
        for _ in range(60):
            try:
                with verified_copy(repository, PUBLIC) as copy:
                    assert (copy / "codes_ssd_pipeline/1/model.py").read_bytes() == good
            except SignatureError:
                refused += 1
    finally:
        going = False
        thread.join()
    assert refused > 0


def test_what_is_not_as_built_is_not_signed(repository: Path) -> None:
    _config(repository)
    (repository / SIGNATURE).unlink()
    with pytest.raises(SignatureError, match="is not what the build of codes_ssd wrote"):
        sign_repository(repository, KEY)
    assert not (repository / SIGNATURE).exists()


def test_an_empty_folder_or_none_is_not_signed(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="has no file to sign"):
        sign_repository(tmp_path, KEY)
    with pytest.raises(SignatureError, match="No such file"):
        sign_repository(tmp_path / "none", KEY)
    with pytest.raises(SignatureError, match="is not signed"):
        verify_repository(tmp_path / "none", PUBLIC)


def test_doctor_tells(repository: Path, tmp_path: Path) -> None:
    public = create_key(tmp_path / "key.pem")
    sign_repository(repository, read_private_key(tmp_path / "key.pem"))
    assert check_signature(repository, public).passed
    _extra_model(repository)
    failed = check_signature(repository, public)
    assert (failed.stops, failed.fix) == (True, "remove it, or sign again")
    assert failed.found.endswith("mole/config.pbtxt was not signed")


def test_keys_are_private_whole_and_of_the_right_kind(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    public = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private_key(path).public_key() == read_public_key(public)
    with pytest.raises(SigningKeyError, match="exists already"):
        create_key(path)
    with pytest.raises(SigningKeyError, match="has no Ed25519 public key"):
        read_public_key(path)
    with pytest.raises(SigningKeyError, match="has no unencrypted Ed25519 private key"):
        read_private_key(public)
    path.chmod(0o644)
    with pytest.raises(SigningKeyError, match="chmod 600"):
        read_private_key(path)
    with pytest.raises(SigningKeyError, match="cannot be read"):
        read_public_key(tmp_path / "none")


def test_a_signature_that_cannot_be_written_leaves_the_old_one(repository: Path) -> None:
    before = (repository / SIGNATURE).read_bytes()
    (repository / SIGNATURE).unlink()
    (repository / SIGNATURE).mkdir()
    with pytest.raises((OutputError, SignatureError)):
        sign_repository(repository, KEY)
    assert before
    assert not list(repository.glob(".*.part"))
