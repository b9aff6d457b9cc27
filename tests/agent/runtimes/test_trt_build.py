"""Making plans on the device, and keeping them: the adapter's own code, run with TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_agent import onnx_scan
from edgefleet_agent.runtimes import trt_cache
from edgefleet_agent.runtimes.base import LoadFailedError, UnsupportedError
from edgefleet_agent.runtimes.cuda import GpuInfo
from edgefleet_agent.runtimes.trt import (
    PROFILES_KEY,
    TrtRuntime,
    check_header,
    is_plan,
    placement_of,
)
from edgefleet_agent.runtimes.trt_build import Built, PoolLimits, build_plan, pool_limits
from edgefleet_agent.runtimes.trt_cache import CACHE_ENV, PlanCache, PlanKey, default_folder, profiles_from
from edgefleet_agent.runtimes.trt_module import RTX, TENSORRT
from edgefleet_agent.runtimes.trt_probe import Ports
from edgefleet_contract.trt_plan import read_header
from edgefleet_contract.variant import parse_variant

LIMITS = PoolLimits(workspace_bytes=64 * 1024**2, tactic_bytes=64 * 1024**2)
ORIN = GpuInfo(name="Orin", sm=87, integrated=True)
PROFILES = {"x": ((1, 4), (2, 4), (8, 4))}
Source = Callable[..., bytes]


@pytest.fixture
def vendor() -> Any:
    return pytest.importorskip("tensorrt_rtx_bindings")


def source(operator: str = "Relu", *, rows: int | str = 2, notes: dict[str, str] | None = None) -> bytes:
    """Return `x` f16[rows, 4] → MatMul → one operator → `y`."""
    weight = numpy_helper.from_array(np.eye(4, 3, dtype=np.float16), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node(operator, ["h"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [rows, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [rows, 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, notes or {})
    data: bytes = model.SerializeToString()
    return data


def test_a_plan_is_built_of_a_static_source(vendor: Any) -> None:
    built = build_plan(vendor, source(), {}, LIMITS, on_dla=False)
    assert read_header(built.plan).matches(vendor.__version__)
    assert b"tf32=1" not in built.plan
    assert built.layers_n >= 2
    assert built.dla_layers_n == 0


def test_a_plan_is_built_of_a_dynamic_source_with_its_profiles(vendor: Any) -> None:
    assert is_plan(build_plan(vendor, source(rows="n"), PROFILES, LIMITS, on_dla=False).plan)


def test_a_dynamic_source_without_profiles_is_refused_by_the_inputs_name(vendor: Any) -> None:
    with pytest.raises(LoadFailedError, match="inputs x have dynamic axes"):
        build_plan(vendor, source(rows="n"), {}, LIMITS, on_dla=False)


def test_a_node_the_parser_refuses_is_unsupported_by_its_name(vendor: Any) -> None:
    with pytest.raises(UnsupportedError, match="Bernoulli 'last'"):
        build_plan(vendor, source("Bernoulli"), {}, LIMITS, on_dla=False)


def test_layers_that_fall_back_from_dla_in_silence_are_counted(vendor: Any) -> None:
    """Where there is no DLA, the builder makes a plan of the GPU and says nothing."""
    built = build_plan(vendor, source(), {}, LIMITS, on_dla=True)
    found = placement_of(built, on_dla=True)
    assert found is not None
    assert (found.accelerated, found.nodes["DLA"]) == (0.0, 0)


@pytest.mark.parametrize("data", [b"", b"no model", source()[:40]])
def test_a_damaged_source_is_refused(vendor: Any, data: bytes) -> None:
    with pytest.raises(UnsupportedError):
        build_plan(vendor, data, {}, LIMITS, on_dla=False)


def test_what_the_builder_refuses_is_unsupported_with_its_words(vendor: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"builder refuses the model: .*profile"):
        build_plan(vendor, source(rows="n"), {"x": ((8, 4), (2, 4), (1, 4))}, LIMITS, on_dla=False)


def test_building_takes_a_share_of_free_memory_and_never_less_than_nvidia_suggests() -> None:
    orin = pool_limits(4 * 1024**3)
    assert (orin.workspace_bytes, orin.tactic_bytes) == (1024**3, 2 * 1024**3)
    assert pool_limits(0) == PoolLimits(16 * 1024**2, 16 * 1024**2)


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


def plan(version: tuple[int, int, int, int] = (10, 3, 0, 30), size_bytes: int = 100) -> Built:
    return Built(b"ftrt" + bytes(20) + bytes(version) + bytes(size_bytes - 28), layers_n=7, dla_layers_n=3)


def key(
    source_bytes: bytes = b"model", version: str = "10.3.0.30", gpu: GpuInfo = ORIN, *, on_dla: bool = False
) -> PlanKey:
    return PlanKey.of(source_bytes, version, gpu, on_dla=on_dla)


def test_a_kept_plan_is_found_again(cache: PlanCache) -> None:
    cache.keep(key(), plan())
    assert cache.find(key()) == plan()


@pytest.mark.parametrize(
    "other",
    [
        key(b"another model"),
        key(version="10.3.0.31"),
        key(gpu=GpuInfo("Orin", 88, True)),
        key(gpu=GpuInfo("Orin NX", 87, True)),
        key(on_dla=True),
    ],
)
def test_a_plan_fits_one_source_one_version_and_one_gpu(cache: PlanCache, other: PlanKey) -> None:
    cache.keep(key(), plan())
    assert cache.find(other) is None


def test_a_plan_whose_header_names_another_version_is_built_again(cache: PlanCache) -> None:
    cache.keep(key(), plan((10, 3, 0, 31)))
    assert cache.find(key()) is None


@pytest.mark.parametrize("suffix", [".plan", ".json"])
@pytest.mark.parametrize("damage", [b"", b"ftrt", None])
def test_a_damaged_cache_is_built_again(cache: PlanCache, tmp_path: Path, suffix: str, damage: bytes | None) -> None:
    cache.keep(key(), plan())
    path = next((tmp_path / "plans").glob(f"*{suffix}"))
    if damage is None:
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    else:
        path.write_bytes(damage)
    assert cache.find(key()) is None


def test_a_note_of_another_key_is_not_believed(cache: PlanCache, tmp_path: Path) -> None:
    cache.keep(key(), plan())
    note = next((tmp_path / "plans").glob("*.json"))
    told = json.loads(note.read_bytes())
    note.write_text(json.dumps(told | {"made_for": told["made_for"] | {"sm": 86}}))
    assert cache.find(key()) is None


def test_the_least_recently_used_plans_go_first(
    cache: PlanCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_cache, "MAX_PLANS", 2)
    for place, name in enumerate((b"old", b"used", b"new")):
        cache.keep(key(name), plan())
        for path in (tmp_path / "plans").glob(f"{key(name).stem}.plan"):
            os.utime(path, (place + 1, place + 1))
    kept = sorted(path.stem for path in (tmp_path / "plans").glob("*.plan"))
    assert kept == sorted([key(b"used").stem, key(b"new").stem])
    assert len(list((tmp_path / "plans").iterdir())) == 4


def test_one_plan_larger_than_the_bound_is_kept_alone(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_cache, "MAX_BYTES", 150)
    cache.keep(key(b"small"), plan())
    cache.keep(key(b"large"), plan(size_bytes=400))
    assert cache.find(key(b"small")) is None
    assert cache.find(key(b"large")) is not None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    blocked = PlanCache(tmp_path / "file" / "plans")
    blocked.keep(key(), plan())
    assert blocked.find(key()) is None


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_ENV, str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv(CACHE_ENV)
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert default_folder() == Path("/var/cache/edgefleet/plans")


def test_profiles_are_read_from_the_sources_own_notes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(source(rows="n", notes={PROFILES_KEY: '{"x":[[1,4],[2,4],[8,4]]}', "other": "note"}))
    assert profiles_from(onnx_scan.metadata(path).get(PROFILES_KEY)) == PROFILES
    assert onnx_scan.metadata(path)["other"] == "note"


@pytest.mark.parametrize("note", [None, "", "{", "[]", '{"x": 1}', '{"x": [[1], [2]]}', '{"x": [["a"], [1], [1]]}'])
def test_notes_that_hold_no_profiles_are_none(note: str | None) -> None:
    assert profiles_from(note) == {}


def test_a_file_that_is_no_model_has_no_notes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\xff\xff\xff")
    assert onnx_scan.metadata(tmp_path / "m.onnx") == {}
    assert onnx_scan.metadata(tmp_path / "none.onnx") == {}


@pytest.mark.parametrize(
    ("runtime", "version", "words"),
    [
        ("tensorrt", "10.3.0.31", "written by tensorrt 10.3.0.30; this device has tensorrt 10.3.0.31"),
        ("tensorrt-rtx", "10.3.0.30", "this device has tensorrt-rtx"),
    ],
)
def test_a_plan_of_another_library_is_refused_before_it_is_loaded(runtime: str, version: str, words: str) -> None:
    check_header(plan().plan, "tensorrt", "10.3.0.30")
    with pytest.raises(UnsupportedError, match=words):
        check_header(plan().plan, runtime, version)
    with pytest.raises(LoadFailedError, match="not a plan"):
        check_header(b"nothing of the kind, but long enough", runtime, version)


def test_layers_run_on_the_gpu_where_no_dla_is_asked_for() -> None:
    found = placement_of(plan(), on_dla=False)
    assert found is not None
    assert (found.accelerated, found.nodes) == (1.0, {"GPU": 7})


def test_layers_dla_does_not_take_count_as_the_gpus() -> None:
    found = placement_of(plan(), on_dla=True)
    assert found is not None
    assert (found.accelerated, found.nodes) == (3 / 7, {"DLA": 3, "GPU": 4})
    assert placement_of(Built(b"", 0, 0), on_dla=True) is None


@pytest.mark.parametrize(("flavour", "variant"), [(TENSORRT, "tensorrt/gpu/fp16"), (RTX, "tensorrt-rtx/gpu/fp16")])
def test_loading_where_the_ladder_breaks_is_unsupported_with_its_reason(
    tmp_path: Path, flavour: Any, variant: str
) -> None:
    def ask(name: str) -> str:
        raise ModuleNotFoundError(name=name)

    runtime = TrtRuntime(flavour, Ports(ask=ask))
    with pytest.raises(UnsupportedError, match="is not installed"):
        runtime.load(tmp_path / "m.onnx", variant=parse_variant(variant), threads=1, spinning=False)


def test_a_plan_without_a_gpu_is_refused_by_the_library_itself(vendor: Any) -> None:
    """What RTX 1.7 does without a driver: no engine, and no crash."""
    runtime = import_module(vendor.__name__).Runtime(vendor.Logger(vendor.Logger.INTERNAL_ERROR))
    built = build_plan(vendor, source(), {}, LIMITS, on_dla=False)
    from edgefleet_agent.runtimes import cuda

    if cuda.has_driver():
        pytest.skip("this machine has an NVIDIA driver")
    assert runtime.deserialize_cuda_engine(built.plan) is None
