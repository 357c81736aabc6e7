"""What ``detserve inspect`` and ``detserve build`` show of a card, its guesses and the names in a file."""

from __future__ import annotations

import json
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner, Result

from detserve_builder.build import build
from detserve_builder.card_sources import Source
from detserve_builder.checkpoint import load, load_checkpoint
from detserve_builder.commands import build as build_command
from detserve_builder.commands import inspect as inspect_command
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import read_card
from detserve_client import Card, CardError
from detserve_core.card import Resize
from detserve_core.errors import MissingExtra
from tests.builder.tiny_networks import save_linear_network, save_yolox

HEAD = {"output": [84, 8]}  # YOLOX, three classes
WIDE = {"COLUMNS": "200"}


def inspected(*arguments: object) -> Result:
    return CliRunner(env=WIDE).invoke(inspect_command.app, list(map(str, arguments)))


def named(path: Path, labels: list[str], batch: str | None = None) -> Path:
    """A YOLOX whose metadata hold its labels."""
    if batch:
        save_linear_network(path, HEAD, batch=batch)
    else:
        save_yolox(path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"names": json.dumps(dict(enumerate(labels)))})
    onnx.save(model, path)
    return path


def test_texts_of_the_graph_are_no_markup(tmp_path) -> None:
    result = inspected(named(tmp_path / "[b]x.onnx", ["[/b]", "[red]", ":car:"], batch="batch"))
    assert result.exit_code == 0, result.output
    assert "images FLOAT [batch,3,64,64]" in result.stdout
    assert "3: [/b], [red], :car:" in result.stdout
    assert "[b]x.onnx" in result.stdout.replace("\n", "")


def test_a_guess_says_what_else_it_could_be(tmp_path) -> None:
    path = named(tmp_path / "x.onnx", ["a", "b", "c"])
    result = inspected(path)
    lines = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("│ ")}
    card = read_card(load_checkpoint(str(path))).card
    others = [way.value for way in Resize if way is not card.preprocess.resize]
    assert f"or {' or '.join(others)} " in lines["preprocess.resize"]
    assert f"or {'rgb' if card.preprocess.color.value == 'bgr' else 'bgr'} " in lines["preprocess.color"]
    assert "metadata" in lines["labels"]
    assert "graph" in lines["input_wh"]


def built_card(folder: Path) -> Card:
    manifest = json.loads((folder / "detserve.json").read_text())
    return Card.model_validate_json(json.dumps(manifest["card"]))


def test_what_is_said_is_no_guess(tmp_path) -> None:
    path = save_linear_network(tmp_path / "x.onnx", HEAD)
    (tmp_path / "card.json").write_text('{"preprocess": {"resize": "stretch", "color": "rgb"}}')
    found = read_card(load_checkpoint(str(path)))
    assert found.sources["preprocess.color"] is Source.SAID
    assert found.sources["preprocess.scale"] is Source.GUESS
    assert found.card.preprocess.resize is Resize.STRETCH
    assert "preprocess.pad_value" not in found.sources  # nothing is padded
    assert "thresholds.score" not in found.sources  # ours, and no word of the file


def test_a_build_says_what_it_guessed(tmp_path) -> None:
    path = named(tmp_path / "x.onnx", ["a", "b", "c"])
    arguments = [str(path), "--name", "x", "--repository", str(tmp_path / "r")]
    result = CliRunner(env=WIDE).invoke(build_command.app, arguments)
    assert result.exit_code == 0, result.output
    guesses = [line for line in result.stderr.splitlines() if line.startswith("guess: ")]
    beginnings = [line.split()[1] for line in guesses]
    assert beginnings[:4] == [f"preprocess.{name}" for name in ("resize", "pad_value", "color", "scale")]
    color = built_card(tmp_path / "r/x").preprocess.color.value
    assert f"guess: preprocess.color {color}; or {'rgb' if color == 'bgr' else 'bgr'}" in guesses
    assert "guess" not in result.stdout
    sources = json.loads((tmp_path / "r/x/detserve.json").read_text())["card_sources"]
    assert (sources["preprocess.color"], sources["labels"]) == ("guess", "metadata")


def test_nothing_is_guessed_where_all_is_said(tmp_path) -> None:
    path = named(tmp_path / "x.onnx", ["a", "b", "c"])
    (tmp_path / "said.json").write_text(read_card(load_checkpoint(str(path))).card.to_json())
    built = build(str(path), name="x", repository=tmp_path / "r", card_path=tmp_path / "said.json")
    assert built.card.family == "yolox"
    assert not built.inferred.guesses


def test_a_written_card_leaves_its_guesses_to_be_guessed_again(tmp_path) -> None:
    path = named(tmp_path / "x.onnx", ["a", "b", "c"])
    first = inspected(path, "--output", tmp_path / "written.json")
    assert "written.json, without what is guessed: preprocess.resize" in first.stdout
    written = json.loads((tmp_path / "written.json").read_text())
    assert (written["labels"], "color" in written["preprocess"]) == (["a", "b", "c"], False)
    again = read_card(load_checkpoint(str(path)), said=tmp_path / "written.json")
    assert again.sources["preprocess.color"] is Source.GUESS


def test_an_open_size_is_said_on_the_command_line(tmp_path) -> None:
    path = save_linear_network(tmp_path / "x.onnx", HEAD)
    assert inspected(path, "--input-size", "64x64").exit_code == 0
    other = inspected(path, "--input-size", "640x480")
    assert isinstance(other.exception, CardError)
    assert "input_wh: got [640, 480], but the graph takes [64, 64]" in str(other.exception)
    wrong = inspected(path, "--input-size", "640")
    assert isinstance(wrong.exception, BuildError)
    assert "got '640', expected WIDTHxHEIGHT" in str(wrong.exception)


def test_labels_without_pictures(tmp_path) -> None:
    result = inspected(save_linear_network(tmp_path / "x.onnx", HEAD), "--evaluate", tmp_path)
    assert "name the folder with --images" in str(result.exception)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"preprocess": {"resize": "crop"}},
            "preprocess.resize: input should be 'letterbox_center', 'letter",
        ),
        (
            {"preprocess": {"colour": "rgb"}},
            "preprocess.colour: no such field; did you mean color? there are",
        ),
        ({"head": {"stride": [8]}}, "head.stride: no such field; did you mean strides? there are strides"),
        ({"family": "ssd9"}, "family: got 'ssd9', expected one of yolox"),
        ({"labels": ["a"]}, "labels: got 1, but the graph's output output has 3 classes"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "build"])
def test_a_mistake_in_a_card_names_its_file_and_field(tmp_path, said, words, command) -> None:
    path, card = save_linear_network(tmp_path / "x.onnx", HEAD), tmp_path / "mine.json"
    card.write_text(json.dumps(said))
    if command == "inspect":
        error = inspected(path, "--card", card).exception
    else:
        with pytest.raises(CardError) as caught:
            build(str(path), name="x", repository=tmp_path / "r", card_path=card)
        error = caught.value
    assert str(error).startswith(f"{card}: {words}")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("card", "others", "used", "said"),
    [
        ({"labels": ["a", "b", "c"]}, [], True, "card fields are read from"),
        ({"name": "x"}, ["y.onnx"], True, "card fields are read from"),
        ({"origin": {"source": "models/x.onnx"}}, ["y.onnx"], True, "card fields are read from"),
        ({"origin": {"sha256": "THIS"}}, ["y.onnx"], True, "card fields are read from"),
        ({"labels": ["a", "b", "c"]}, ["y.onnx"], False, "does not say whether it is for x.onnx or y.onnx"),
        ({"origin": {"source": "y.onnx", "sha256": "0" * 64}}, [], False, "its origin is y.onnx"),
    ],
)
def test_a_card_beside_is_used_only_if_it_is_for_the_file(tmp_path, card, others, used, said) -> None:
    path = save_linear_network(tmp_path / "x.onnx", HEAD)
    text = json.dumps(card).replace("THIS", sha256(path.read_bytes()).hexdigest())
    (tmp_path / "card.json").write_text(text)
    for other in others:
        (tmp_path / other).touch()
    assert (load_checkpoint(str(path)).card_path is not None) is used
    assert said in inspected(path).stdout.replace("\n", " ")


def test_pytorch_weights_are_to_be_exported(tmp_path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(BuildError, match=f"yolo export model={path} format=onnx"):
        load_checkpoint(str(path))


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        load, "find_spec", lambda name: None if name == "onnx_graphsurgeon" else find_spec(name)
    )
    with pytest.raises(MissingExtra, match=r"onnx-graphsurgeon is not installed.*detserve\[builder\]"):
        load_checkpoint("codes_yolo")
