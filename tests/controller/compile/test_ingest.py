"""Ingest: what a user can get wrong, and what becomes of what is right."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_contract.artifact import InputTransform
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest.model import ingest
from edgefleet_controller.compile.protocol import IngestAnswer, IngestRequest, SamplesFile

Ask = Callable[..., IngestAnswer]


@pytest.fixture
def ask(tmp_path: Path, make_classifier: Callable[..., onnx.ModelProto], good_arrays: dict[str, Any]) -> Ask:
    """Run ingest in this process with the good files, or with what the test gives instead."""

    def run(
        *,
        source: Any = None,
        samples: Any = None,
        calibration: Any = None,
        preprocess: Any = None,
        top1: bool = True,
        dynamic: Any = None,
        **names: Any,
    ) -> IngestAnswer:
        model = make_classifier() if source is None else source
        (tmp_path / "m.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        for name, content in (("s.npz", good_arrays if samples is None else samples), ("c.npz", calibration)):
            if isinstance(content, bytes):
                (tmp_path / name).write_bytes(content)
            elif content is not None:
                np.savez(tmp_path / name, **content)
        return ingest(
            IngestRequest(
                model="tiny",
                source=str(tmp_path / "m.onnx"),
                source_shown_as="m.onnx",
                samples=SamplesFile(path=str(tmp_path / "s.npz"), shown_as="s.npz", **names),
                calibration=None
                if calibration is None
                else SamplesFile(path=str(tmp_path / "c.npz"), shown_as="c.npz"),
                preprocess=preprocess or {},
                dynamic=dynamic or {},
                top1=top1,
                out_dir=str(tmp_path),
            )
        )

    return run


def refused(ask: Ask, what: str, *words: str, **files: Any) -> CompileFaultError:
    with pytest.raises(CompileFaultError) as caught:
        ask(**files)
    fault = caught.value
    assert fault.what == what
    for word in words:
        assert word in fault.message, fault.message
    return fault


def test_a_sound_model_is_described_as_it_is(ask: Ask) -> None:
    answer = ask()
    assert [spec.name for spec in answer.model.inputs] == ["x"]
    assert answer.model.outputs[0].shape == ("batch", 3)
    assert (answer.model.opset, answer.model.nodes_n, answer.model.parameters_n) == (17, 2, 12)
    assert answer.model.batch_is_dynamic
    assert answer.model.operators == {"Gemm": 1, "Relu": 1}


def test_weights_in_constant_nodes_count_as_parameters(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto]
) -> None:
    model = make_classifier()
    weights = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weights"], value=weights))
    assert ask(source=model).model.parameters_n == 12


def test_initializers_listed_as_inputs_are_not_inputs(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto]
) -> None:
    model = make_classifier(ir_version=3, opset=11)
    model.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [4, 3]))
    assert [spec.name for spec in ask(source=model).model.inputs] == ["x"]


@pytest.mark.parametrize("size", [-1, None])
def test_a_size_that_is_not_known_becomes_a_named_axis(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto], size: int | None
) -> None:
    model = make_classifier()
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    if size is not None:
        dim.dim_value = size
    assert ask(source=model).model.inputs[0].shape == ("dim0", 4)


def test_an_empty_source_is_refused(ask: Ask) -> None:
    refused(ask, "source", "is empty", source=b"")


@pytest.mark.parametrize(
    "data", [b"hello, this is text", b"\x00" * 64, bytes(range(256)) * 4, b"<html></html>", b"\x08\x08"]
)
def test_bytes_that_are_no_model_are_refused(ask: Ask, data: bytes) -> None:
    refused(ask, "source", "not an ONNX model", source=data)


def test_a_zip_archive_is_refused_as_such(ask: Ask) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", b"x")
    refused(ask, "source", "zip archive", source=buffer.getvalue())


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_model_is_refused(ask: Ask, make_classifier: Callable[..., onnx.ModelProto], share: float) -> None:
    data = make_classifier().SerializeToString()
    refused(ask, "source", source=data[: int(len(data) * share)])


def test_a_damaged_name_is_refused_and_not_a_crash(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    for name in (b"logits", b"hidden", b"Relu"):
        data = make_classifier().SerializeToString().replace(name, b"\xff\xfe" + name[2:])
        refused(ask, "source", "no text", source=data)


def test_a_missing_source_is_refused(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(CompileFaultError, match="cannot be read"):
        ingest(
            IngestRequest(
                model="tiny",
                source=str(tmp_path / "none.onnx"),
                source_shown_as="none.onnx",
                samples=SamplesFile(path="s", shown_as="s"),
                top1=True,
                out_dir=str(tmp_path),
            )
        )


@pytest.mark.parametrize("opset", [1, 6, 99])
def test_an_opset_outside_what_is_known_is_refused_with_what_is_allowed(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto], opset: int
) -> None:
    refused(ask, "source", f"opset {opset}", "knows 7 to", source=make_classifier(opset=opset))


def test_an_unknown_format_version_is_refused(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    refused(ask, "source", "IR version 99", source=make_classifier(ir_version=99))


def test_a_custom_operator_is_refused_with_its_node(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    source = make_classifier(op_type="MyRelu", domain="my.company")
    refused(ask, "source", "'last'", "'MyRelu'", "my.company", source=source)


def test_an_operator_that_onnx_does_not_have_is_refused_with_its_node(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto]
) -> None:
    refused(ask, "source", "'last'", "'Relux'", "unknown in opset 17", source=make_classifier(op_type="Relux"))


def test_an_operator_of_a_known_domain_that_the_runtime_lacks_is_refused(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto]
) -> None:
    source = make_classifier(op_type="NoSuchThing", domain="com.microsoft")
    refused(ask, "source", "NoSuchThing", source=source)


def test_a_graph_without_nodes_is_refused(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    model = make_classifier()
    del model.graph.node[:]
    refused(ask, "source", "without any node", source=model)


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
def test_weights_in_another_file_are_refused_and_never_read(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto], location: str
) -> None:
    model = make_classifier()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    refused(ask, "source", "'weights'", "another file", location, source=model)


def test_text_inputs_are_refused(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    refused(ask, "source", "'x'", "string", source=make_classifier(input_type=TensorProto.STRING))


def test_sequence_inputs_are_refused(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    model = make_classifier()
    model.graph.input.append(helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, [1]))
    refused(ask, "source", "'more'", "sequence", source=model)


def test_a_missing_array_names_what_is_there_and_what_was_meant(ask: Ask, good_arrays: dict[str, Any]) -> None:
    samples = {"xx": good_arrays["x"]}
    refused(ask, "samples", "no array 'x'", "'xx'", "did you mean 'xx'", samples=samples)


def test_an_array_of_another_name_can_be_mapped(ask: Ask, good_arrays: dict[str, Any], tmp_path: Path) -> None:
    ask(samples={"pictures": good_arrays["x"], "y": good_arrays["labels"]}, inputs={"x": "pictures"}, labels="y")
    assert set(npz.read(tmp_path / "samples.npz")) == {"x", "labels"}


def test_a_mapping_of_an_input_the_model_lacks_is_refused(ask: Ask) -> None:
    refused(ask, "samples", "maps input 'xs'", "did you mean 'x'", inputs={"xs": "x"})


def test_a_label_array_that_is_not_there_is_refused(ask: Ask) -> None:
    refused(ask, "labels", "no array 'label'", "did you mean 'labels'", labels="label")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((80, 5), "got [80, 5], the model wants [batch, 4]"),
        ((80,), "got rank 1"),
        ((80, 1, 1, 4), "got rank 4"),
    ],
)
def test_samples_of_another_shape_are_refused_with_both_shapes(ask: Ask, shape: tuple[int, ...], words: str) -> None:
    refused(ask, "samples", "'x'", words, samples={"x": np.zeros(shape, np.float32)})


def test_bytes_for_a_float_input_need_a_declared_conversion(ask: Ask, good_arrays: dict[str, Any]) -> None:
    samples = {"x": np.ones((80, 4), np.uint8)}
    refused(ask, "samples", "got uint8, the model wants float32", "preprocess", samples=samples)
    assert ask(samples=samples, preprocess={"x": InputTransform(scale=0.5)}).samples.given_n == 80


def test_doubles_are_narrowed_to_the_inputs_own_width(ask: Ask, tmp_path: Path) -> None:
    ask(samples={"x": np.ones((5, 4), np.float64)})
    assert npz.read(tmp_path / "samples.npz")["x"].dtype == np.float32


def test_doubles_that_do_not_fit_are_refused(ask: Ask) -> None:
    refused(ask, "samples", "float32 holds", samples={"x": np.full((5, 4), 1e300)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_the_first_sample(ask: Ask, bad: float) -> None:
    array = np.zeros((9, 4), np.float32)
    array[3, 1] = array[7, 0] = bad
    refused(ask, "samples", "2 of 9 samples, first in sample 3", samples={"x": array})


def test_no_samples_are_refused(ask: Ask) -> None:
    refused(ask, "samples", "no samples", samples={"x": np.zeros((0, 4), np.float32)})


def test_labels_of_another_length_are_refused(ask: Ask, good_arrays: dict[str, Any]) -> None:
    samples = {"x": good_arrays["x"], "labels": np.zeros(79, np.int64)}
    refused(ask, "labels", "79 labels for 80 samples", samples=samples)


@pytest.mark.parametrize("labels", [np.zeros(80), np.zeros((80, 3), np.int64), np.array(["a"] * 80)])
def test_labels_that_are_no_class_numbers_are_refused(ask: Ask, good_arrays: dict[str, Any], labels: Any) -> None:
    refused(ask, "labels", "class number", samples={"x": good_arrays["x"], "labels": labels})


def test_labels_beyond_the_models_classes_are_refused(ask: Ask, good_arrays: dict[str, Any]) -> None:
    samples = {"x": good_arrays["x"], "labels": np.full(80, 3)}
    refused(ask, "labels", "from 3 to 3", "classes 0 to 2", samples=samples)


def test_labels_of_another_task_are_left_out(ask: Ask, good_arrays: dict[str, Any], tmp_path: Path) -> None:
    ask(samples={"x": good_arrays["x"], "labels": np.zeros(80)}, top1=False)
    assert set(npz.read(tmp_path / "samples.npz")) == {"x"}


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 and no more"])
def test_a_samples_file_that_is_no_npz_is_refused(ask: Ask, data: bytes) -> None:
    refused(ask, "samples", "not an .npz", samples=data)


def test_a_preprocess_for_an_input_the_model_lacks_is_refused(ask: Ask) -> None:
    refused(ask, "preprocess", "'y'", "'x'", preprocess={"y": InputTransform()})


def test_calibration_samples_are_checked_like_samples(ask: Ask) -> None:
    refused(ask, "calibration", "got [9, 7]", calibration={"x": np.zeros((9, 7), np.float32)})


def test_calibration_and_golden_samples_are_kept_apart(ask: Ask, tmp_path: Path, good_arrays: dict[str, Any]) -> None:
    answer = ask()
    golden, calibration = (npz.read(Path(tmp_path, name))["x"] for name in ("samples.npz", "calibration.npz"))
    assert (len(golden), len(calibration)) == (40, 40)
    assert not answer.samples.calibration_overlaps
    assert not {row.tobytes() for row in golden} & {row.tobytes() for row in calibration}


def test_few_samples_serve_for_both_and_it_is_said(ask: Ask) -> None:
    answer = ask(samples={"x": np.ones((10, 4), np.float32)})
    assert answer.samples.calibration_overlaps
    assert (answer.samples.golden_n, answer.samples.calibration_n) == (10, 10)


def test_given_calibration_samples_leave_all_samples_golden(ask: Ask) -> None:
    answer = ask(calibration={"x": np.eye(7, 4, dtype=np.float32)})
    assert (answer.samples.golden_n, answer.samples.calibration_n) == (80, 7)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.5, 0.5, "one value 0.5"), (0.0, 255.0 * 100, "ranges measured"), (0.0, 1e-6, "ranges measured")],
)
def test_calibration_of_another_scale_than_the_samples_is_refused(
    ask: Ask, low: float, high: float, words: str
) -> None:
    values = np.linspace(low, high, 36).reshape(9, 4)
    refused(ask, "calibration", "'x'", words, calibration={"x": values.astype(np.float32)})


def simple(nodes: list[Any], weights: Any = (), outputs: Any = None, opset: int = 17) -> onnx.ModelProto:
    """Return a model `x` f32[n, 4] → outputs."""
    graph = helper.make_graph(
        nodes,
        "simple",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        outputs or [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k"])],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


@pytest.mark.parametrize("kind", ["RandomNormalLike", "RandomUniformLike"])
def test_a_model_that_draws_at_random_is_refused_with_the_node(ask: Ask, kind: str) -> None:
    nodes = [helper.make_node(kind, ["x"], ["r"], name="noise"), helper.make_node("Add", ["x", "r"], ["y"])]
    fault = refused(ask, "source", "nondeterministic", "'noise'", kind, source=simple(nodes))
    assert "make the random tensor an input" in str(fault.next_step)


def test_random_numbers_that_reach_no_output_are_no_fault(ask: Ask) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"], name="noise"),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    assert ask(source=simple(nodes)).model.nodes_n == 3


def test_an_output_whose_shape_depends_on_the_data_is_refused(ask: Ask) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, [2, "found"])]
    refused(ask, "source", "depends on the data", "'y'", "node 'y' (NonZero)", source=simple(nodes, outputs=outputs))


def test_a_shape_that_changes_for_zeros_alone_is_refused(ask: Ask) -> None:
    """What the graph does not tell (branches of unlike sizes) is seen by running zeros."""
    sizes = [onnx.numpy_helper.from_array(np.zeros(n, np.float32), "c") for n in (3, 5)]
    then, other = (
        helper.make_graph(
            [helper.make_node("Constant", [], [name], value=size)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, size in zip(("a", "b"), sizes, strict=True)
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["abs"]),
        helper.make_node("ReduceSum", ["abs"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["some"], to=TensorProto.BOOL),
        helper.make_node("If", ["some"], ["y"], then_branch=then, else_branch=other),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]
    refused(ask, "source", "depends on the data", "for zeros", source=simple(nodes, outputs=outputs))


def test_a_model_that_gives_nothing_but_nan_is_refused(ask: Ask) -> None:
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["y"]),
    ]
    refused(ask, "source", "nothing but NaN", "'y'", source=simple(nodes))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("in_constant", [True, False])
def test_weights_that_are_not_finite_are_refused_with_tensor_and_node(ask: Ask, bad: float, in_constant: bool) -> None:
    values = np.ones((4, 3), np.float32)
    values[1, 1] = bad
    tensor = onnx.numpy_helper.from_array(values, "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    if in_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    source = simple(nodes, () if in_constant else [tensor])
    refused(ask, "source", "1 of 12 values", "'w'", "'product' (MatMul)", source=source)


def test_a_mask_of_minus_infinity_is_no_fault(ask: Ask) -> None:
    mask = onnx.numpy_helper.from_array(np.array([0, -np.inf, 0, 0], np.float32), "mask")
    nodes = [helper.make_node("Add", ["x", "mask"], ["m"]), helper.make_node("Softmax", ["m"], ["y"], axis=-1)]
    assert ask(source=simple(nodes, [mask])).model.nodes_n == 2


@pytest.mark.parametrize("name", ["../in put:0", "/etc/passwd", "a;b", "..", "labels/x.y:0", "ümlaut"])
def test_any_name_a_model_has_is_only_a_name(ask: Ask, tmp_path: Path, name: str) -> None:
    model = simple([helper.make_node("Relu", [name], ["y"])])
    model.graph.input[0].name = name
    ask(source=model, samples={name: np.ones((5, 4), np.float32)})
    assert set(npz.read(tmp_path / "samples.npz")) == {name}
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "s.npz", "samples.npz", "calibration.npz"}


def test_an_output_without_a_shape_gets_the_one_that_follows(ask: Ask) -> None:
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    answer = ask(source=simple([helper.make_node("Relu", ["x"], ["y"])], outputs=outputs))
    assert answer.model.outputs[0].shape == ("n", 4)


def test_an_input_without_a_shape_is_refused_by_name(ask: Ask) -> None:
    model = simple([helper.make_node("Relu", ["x"], ["y"])])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    refused(ask, "source", "input 'x' without a shape", source=model)


def test_sequence_outputs_are_refused(ask: Ask) -> None:
    outputs = [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1])]
    refused(
        ask,
        "source",
        "'y'",
        "sequence",
        source=simple([helper.make_node("SequenceConstruct", ["x"], ["y"])], outputs=outputs),
    )


def test_map_outputs_are_refused(ask: Ask) -> None:
    value = onnx.ValueInfoProto(name="y")
    value.type.map_type.key_type = TensorProto.INT64
    value.type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    refused(ask, "source", "'y'", source=simple([helper.make_node("Relu", ["x"], ["y"])], outputs=[value]))


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        ({"y": {"batch": (1, 1, 8)}}, "names input 'y'"),
        ({"x": {"bach": (1, 1, 8)}}, "did you mean 'batch'"),
        ({"x": {"batch": (2, 4, 8)}}, "sizes 2 to 8; samples have 1"),
    ],
)
def test_dynamic_sizes_must_name_axes_and_hold_the_samples(ask: Ask, dynamic: Any, words: str) -> None:
    refused(ask, "dynamic", words, dynamic=dynamic)


def test_dynamic_sizes_that_hold_the_samples_are_accepted(ask: Ask) -> None:
    assert ask(dynamic={"x": {"batch": (1, 1, 8)}}).samples.given_n == 80


def test_the_same_files_give_the_same_bytes(ask: Ask, tmp_path: Path) -> None:
    ask()
    first = (tmp_path / "samples.npz").read_bytes(), (tmp_path / "calibration.npz").read_bytes()
    ask()
    assert first == ((tmp_path / "samples.npz").read_bytes(), (tmp_path / "calibration.npz").read_bytes())


def test_an_input_without_batch_axis_takes_whole_samples(
    ask: Ask, make_classifier: Callable[..., onnx.ModelProto]
) -> None:
    model = make_classifier()
    model.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.INT64, []))
    samples = {"x": np.ones((5, 4), np.float32), "rate": np.full(5, 16000)}
    assert ask(source=model, samples=samples).samples.given_n == 5


def test_a_fixed_batch_above_one_is_refused(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    refused(ask, "samples", "fixed at 4", source=make_classifier(shape=(4, 4)))


def test_a_node_that_writes_an_input_again_is_named(ask: Ask, make_classifier: Callable[..., onnx.ModelProto]) -> None:
    model = make_classifier()
    model.graph.node.append(helper.make_node("Identity", ["x"], ["x"], name="given_back"))
    model.graph.output.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4]))
    refused(ask, "source", "has node 'given_back' (Identity) write 'x', which the graph has already", source=model)
