"""Three hundred damaged files: each is built and proved, or refused in one sentence; never a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.build import build
from detserve_client import DetserveError
from tests.builder.families.harness import save_network
from tests.builder.families.nms_network import save_nms_network
from tests.builder.families.test_recognition import CASES
from tests.builder.families.test_ssd import network as save_ssd
from tests.builder.tiny_networks import save_yolox

ROUNDS, IN_A_ROUND = 10, 30


def drop_a_node(model: onnx.ModelProto, chance: random.Random) -> None:
    del model.graph.node[chance.randrange(len(model.graph.node))]


def swap_two_outputs(model: onnx.ModelProto, chance: random.Random) -> None:
    """Names stay, values change places."""
    made = [name for node in model.graph.node for name in node.output]
    one, other = chance.choice(made), chance.choice(made)
    for node in model.graph.node:
        node.output[:] = [{one: other, other: one}.get(name, name) for name in node.output]


def read_another_tensor(model: onnx.ModelProto, chance: random.Random) -> None:
    node = chance.choice([node for node in model.graph.node if node.input])
    known = [tensor.name for tensor in model.graph.initializer]
    known += [name for other in model.graph.node for name in other.output]
    node.input[chance.randrange(len(node.input))] = chance.choice(known)


def reshape_a_weight(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    value = numpy_helper.to_array(tensor)
    shape = list(value.shape) or [1]
    shape[chance.randrange(len(shape))] += chance.choice([-1, 1, 3])
    tensor.CopyFrom(numpy_helper.from_array(np.resize(value, [max(n, 0) for n in shape]), tensor.name))


def retype_a_weight(model: onnx.ModelProto, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    dtype = chance.choice([np.float16, np.float64, np.int32, np.int64, np.uint8, np.bool_])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))


def spoil_a_weight(model: onnx.ModelProto, chance: random.Random) -> None:
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    tensor = chance.choice(floats)
    value = numpy_helper.to_array(tensor).copy()
    value.flat[: max(1, value.size // 10)] = chance.choice([np.nan, np.inf, 1e30, 0])
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def declare_another_shape(model: onnx.ModelProto, chance: random.Random) -> None:
    value = chance.choice([*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    if len(dims):
        dim = chance.choice(dims)
        if chance.random() < 0.3:
            dim.dim_param = chance.choice(["batch", "n", "height"])
        else:
            dim.dim_value = chance.choice([0, 1, 2, 3, 4, 6, 85, 640])
    if chance.random() < 0.2:
        dims.add().dim_value = 1


def declare_another_type(model: onnx.ModelProto, chance: random.Random) -> None:
    value = chance.choice([*model.graph.input, *model.graph.output])
    value.type.tensor_type.elem_type = chance.choice([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 16])


def change_an_attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    attribute = chance.choice(chance.choice(nodes).attribute)
    if attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] += chance.choice([-1, 1, 7])
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i += chance.choice([-2, -1, 1, 2])
    else:
        attribute.name += "_unknown"


def rename_an_operator(model: onnx.ModelProto, chance: random.Random) -> None:
    chance.choice(model.graph.node).op_type = chance.choice(["Relu", "Exp", "MatMul", "Custom", "Softmax"])


def take_an_output_away(model: onnx.ModelProto, chance: random.Random) -> None:
    del model.graph.output[chance.randrange(len(model.graph.output))]


def give_an_inner_tensor_too(model: onnx.ModelProto, chance: random.Random) -> None:
    name = chance.choice([name for node in model.graph.node for name in node.output])
    shape = [1, chance.choice([4, 20, 84]), chance.choice([4, 6, 84])]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def ask_for_another_input(model: onnx.ModelProto, chance: random.Random) -> None:
    name = chance.choice(["scale_factor", "orig_target_sizes", "prompt", "pixel_mask"])
    dtype = chance.choice([TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING])
    model.graph.input.append(helper.make_tensor_value_info(name, dtype, chance.choice([[1, 2], [1], []])))


def say_another_opset(model: onnx.ModelProto, chance: random.Random) -> None:
    model.opset_import[0].version = chance.choice([1, 7, 9, 11, 15, 18, 21, 25, 28, 40])


def write_strange_metadata(model: onnx.ModelProto, chance: random.Random) -> None:
    texts = ["", "{", "{0: 1}", "[[1]]", "detect", "pose", "[64, 64]", "[0]", "{'a': 'b'}", "[/b]", "1e999"]
    keys = ["names", "task", "imgsz", "kpt_shape", "end2end", "channels", "stride"]
    helper.set_model_props(model, {key: chance.choice(texts) for key in chance.sample(keys, 4)})


MUTATIONS: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    drop_a_node,
    swap_two_outputs,
    read_another_tensor,
    reshape_a_weight,
    retype_a_weight,
    spoil_a_weight,
    declare_another_shape,
    declare_another_type,
    change_an_attribute,
    rename_an_operator,
    take_an_output_away,
    give_an_inner_tensor_too,
    ask_for_another_input,
    say_another_opset,
    write_strange_metadata,
]


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory) -> list[tuple[Path, dict]]:
    """A file of every family, and what its user would say."""
    folder = tmp_path_factory.mktemp("whole")
    files = []
    for index, case in enumerate(CASES.values()):
        (folder / str(index)).mkdir()
        files.append((save_network(folder / str(index), case.heads, case.tail)[0], case.said))
    files += [(save_yolox(folder / "yolox.onnx"), {})] * len(
        files
    )  # half of them, as its values are a detector's
    files.append((save_ssd(folder / "ssd.onnx", activation="Softmax", decoded=True), {}))
    files.append((save_nms_network(folder / "nms.onnx", score_threshold=0.1), {}))
    return files


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_damaged_file_is_built_or_refused_in_one_sentence(tmp_path, whole_files, round_) -> None:
    refused = 0
    for number in range(round_ * IN_A_ROUND, (round_ + 1) * IN_A_ROUND):
        chance = random.Random(number)  # noqa: S311 - for damage, not for secrets
        path, said = chance.choice(whole_files)
        model = onnx.load(path)
        mutations = chance.sample(MUTATIONS, chance.choice([1, 1, 2]))
        for mutate in mutations:
            mutate(model, chance)
        damaged = tmp_path / f"damaged_{number}.onnx"
        damaged.write_bytes(model.SerializeToString())
        (tmp_path / "said.json").write_text(json.dumps(said))
        names = [mutate.__name__ for mutate in mutations]
        refusal = _refusal_of(damaged, tmp_path, f"file {number}, {path.parent.name} after {names}")
        assert "\n" not in refusal, (number, refusal)
        refused += bool(refusal)
    assert 0 < refused < IN_A_ROUND  # some of them are as good as new


def _refusal_of(damaged: Path, folder: Path, what: str) -> str:
    """The sentence that the file is refused with, empty where it was built."""
    try:
        build(str(damaged), name="d", repository=folder / "r", card_path=folder / "said.json")
    except DetserveError as refusal:
        return str(refusal)
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    return ""
