"""Files in every form that exporters write give the picture the same detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.graph.running import run
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.tiny_networks import pictures, save_linear_network

HEAD = {"output0": [7, 84]}


def detections(path: Path) -> dict[str, np.ndarray]:
    checkpoint = load_checkpoint(str(path))
    prepared = prepare(checkpoint, infer_card(checkpoint), pictures(2))
    return run(prepared.model, pictures(1))


def edited(path: Path, edit) -> Path:
    """A tiny YOLOv8 after ``edit(model)``, beside itself as it was."""
    save_linear_network(path, HEAD)
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path.with_name("edited.onnx"))
    return path.with_name("edited.onnx")


def in_front(op: str, dtype: int, shape: list, **attributes):
    """The input has another form, and the first node brings it into the usual one."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node(op, ["given"], ["images"], "front", **attributes))
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("given", dtype, shape))

    return edit


def floats_as(dtype: int):
    """All weights and tensors of half or double precision, as converters make them."""

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                value = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = dtype

    return edit


def weights_as_constants(model: onnx.ModelProto) -> None:
    """Constant nodes, the last ones behind an Identity."""
    nodes = []
    for tensor in model.graph.initializer:
        nodes.append(helper.make_node("Constant", [], [f"{tensor.name}_raw"], value=tensor))
        nodes.append(helper.make_node("Identity", [f"{tensor.name}_raw"], [tensor.name]))
    nodes += model.graph.node
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def clashing_names(model: onnx.ModelProto) -> None:
    """Inner tensors with the names of the prepared network's own."""
    new = {"images": "picture", "features": "images", "flat": "boxes", "pooled": "network_boxes"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    model.graph.input[0].name = "picture"


def listed_weights(model: onnx.ModelProto) -> None:
    """IR 3: every weight is an input too."""
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)


FORMS = {
    "bytes": in_front("Cast", TensorProto.UINT8, [1, 3, 64, 64], to=TensorProto.FLOAT),
    "channels last": in_front("Transpose", TensorProto.FLOAT, [1, 64, 64, 3], perm=[0, 3, 1, 2]),
    "half": floats_as(TensorProto.FLOAT16),
    "half input": in_front("Cast", TensorProto.FLOAT16, [1, 3, 64, 64], to=TensorProto.FLOAT),
    "double input": in_front("Cast", TensorProto.DOUBLE, [1, 3, 64, 64], to=TensorProto.FLOAT),
    "constants": weights_as_constants,
    "unsorted": unsorted,
    "clashing names": clashing_names,
    "weights among the inputs": listed_weights,
}
LOOSE = {"half": 0.5, "half input": 0.5}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_detections(tmp_path, form) -> None:
    path = edited(tmp_path / "net.onnx", FORMS[form])
    usual, found = detections(tmp_path / "net.onnx"), detections(path)
    if form == "bytes":  # the network takes 0..255: it is not divided for it
        assert infer_card(load_checkpoint(str(path))).preprocess.scale == 1
        return
    spread = np.abs(usual["boxes"]).max()
    np.testing.assert_allclose(found["scores"], usual["scores"], atol=LOOSE.get(form, 1e-4) * 0.1)
    np.testing.assert_allclose(
        np.sort(found["boxes"].ravel()), np.sort(usual["boxes"].ravel()), atol=LOOSE.get(form, 1e-4) * spread
    )


def test_grey_is_made_in_the_graph(tmp_path) -> None:
    def grey(model: onnx.ModelProto) -> None:
        nodes = [helper.make_node("Concat", ["grey"] * 3, ["images"], "spread", axis=1), *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("grey", TensorProto.FLOAT, [1, 1, 64, 64])
        )

    path = edited(tmp_path / "net.onnx", grey)
    checkpoint = load_checkpoint(str(path))
    prepared = prepare(checkpoint, infer_card(checkpoint), pictures(2))
    colour = pictures(1)
    as_grey = np.repeat((colour @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1)
    usual = load_checkpoint(str(tmp_path / "net.onnx"))
    expected = run(prepare(usual, infer_card(usual), pictures(2)).model, np.rint(as_grey).astype(np.uint8))
    found = run(prepared.model, colour)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=2e-3)


def open_size(model: onnx.ModelProto) -> None:
    for index, symbol in enumerate(("n", "c", "h", "w")):
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_param = symbol


def test_an_open_size_is_taken_from_the_metadata_or_asked_for(tmp_path) -> None:
    def with_imgsz(model: onnx.ModelProto) -> None:
        open_size(model)
        helper.set_model_props(model, {"imgsz": "[64, 64]"})

    assert infer_card(load_checkpoint(str(edited(tmp_path / "net.onnx", with_imgsz)))).input_wh == (64, 64)
    path = edited(tmp_path / "net.onnx", open_size)
    with pytest.raises(BuildError, match="say it with --input-size WIDTHxHEIGHT"):
        infer_card(load_checkpoint(str(path)))
    (tmp_path / "said.json").write_text('{"input_wh": [64, 64]}')
    assert infer_card(load_checkpoint(str(path)), said=tmp_path / "said.json").input_wh == (64, 64)


def test_a_known_second_input_is_fed_and_an_unknown_one_named(tmp_path) -> None:
    def second(name: str):
        def edit(model: onnx.ModelProto) -> None:
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]))
            model.graph.node[-1].output[0] = "unscaled"
            model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
            model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
            model.graph.node.append(helper.make_node("Gather", [name, "first"], ["one"], axis=1))
            model.graph.node.append(helper.make_node("Unsqueeze", ["one", "axis"], ["factor"]))
            model.graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], ["output0"]))

        return edit

    fed = detections(edited(tmp_path / "net.onnx", second("scale_factor")))
    np.testing.assert_allclose(fed["scores"], detections(tmp_path / "net.onnx")["scores"], rtol=1e-5)
    with pytest.raises(BuildError, match=r"the input prompt FLOAT \[1,2\] beside the picture is not known"):
        load_checkpoint(str(edited(tmp_path / "net.onnx", second("prompt"))))
    with pytest.raises(BuildError, match=r"input_ids FLOAT \[1,2\] is a text that the detector looks for"):
        load_checkpoint(str(edited(tmp_path / "net.onnx", second("input_ids"))))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([8, 3, 64, 64], "is fixed at batch 8; export with batch 1"),
        ([1, 4, 64, 64], r"has 4 channels, expected 3 \(colour\) or 1 \(grey\)"),
        ([1, 64], "no input is a picture"),
    ],
)
def test_an_input_that_is_no_picture_is_one_sentence(tmp_path, shape, words) -> None:
    path = edited(tmp_path / "net.onnx", lambda model: None)
    model = onnx.load(path)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", TensorProto.FLOAT, shape))
    onnx.save(model, path)
    with pytest.raises(BuildError, match=words):
        load_checkpoint(str(path))
