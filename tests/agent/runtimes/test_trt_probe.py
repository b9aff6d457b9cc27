"""The ladder: what TensorRT needs, rung by rung, with the answers real machines give."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgefleet_agent.runtimes import cuda, trt_probe
from edgefleet_agent.runtimes.base import UnsupportedError
from edgefleet_agent.runtimes.registry import find_runtime, probe_engines
from edgefleet_agent.runtimes.trt import RUNTIME, TrtRuntime
from edgefleet_agent.runtimes.trt_module import (
    RTX,
    TENSORRT,
    DoesNotImportError,
    NotInstalledError,
    find_version,
    version_of,
)
from edgefleet_agent.runtimes.trt_probe import Broken, Ports, Ready, Rung, climb, find_gpu
from edgefleet_contract.child import ChildEnd, ChildOutcome, run_child
from edgefleet_contract.profile import ProbeStatus
from edgefleet_contract.variant import parse_variant

GPU_HERE = cuda.has_driver()


class Cudart:
    """A CUDA runtime library that answers as real ones do: a port of ours, not of NVIDIA's model runtime."""

    def __init__(self, count: int = 1, code: int = 0, sm: tuple[int, int] = (8, 7)) -> None:
        self._count, self._code, self._sm = count, code, sm
        self.cudaGetErrorString: Any = lambda code: f"error {code}".encode()

    def cudaGetDeviceCount(self, pointer: Any) -> int:  # noqa: N802 - CUDA's name
        pointer._obj.value = self._count
        return self._code

    def cudaGetDeviceProperties(self, buffer: Any, _: int) -> int:  # noqa: N802 - CUDA's name
        buffer[:5] = b"Orin\0"
        return 0

    def cudaDeviceGetAttribute(self, pointer: Any, which: int, _: int) -> int:  # noqa: N802 - CUDA's name
        pointer._obj.value = {75: self._sm[0], 76: self._sm[1], 18: 1}[which]
        return 0


def loader(cudart: object | None = None, *, driver: bool = False) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if "cudart" in name and cudart is not None:
            return cudart
        if name == cuda.DRIVER and driver:
            return object()
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    return load


def version(text: str) -> Callable[[str], str]:
    """Return the port that tells an installed module's version."""
    return lambda _: text


def answered(cores_n: int) -> Callable[[str], ChildOutcome]:
    answer = json.dumps({"dla_cores": cores_n}).encode()
    return lambda _: ChildOutcome(ChildEnd.ANSWERED, answer, "answered", "", 0.1)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b"null", b"\xff", b'{"dla_cores": "x"}', b'{"dla_cores": -1}', b'{"dla_cores": 1, "a": 2}'],
)
def test_a_child_that_answers_what_is_no_answer_leaves_the_runtime_broken(answer: bytes) -> None:
    outcome = ChildOutcome(ChildEnd.ANSWERED, answer, "answered", "", 0.1)
    assert "no answer" in str(trt_probe._touched("tensorrt", outcome))


def never(_: str) -> ChildOutcome:
    raise AssertionError("the runtime is touched only when every rung below holds")


def broken(found: Ready | Broken) -> tuple[Rung, ProbeStatus]:
    assert isinstance(found, Broken)
    assert found.reason
    return found.rung, found.status


def test_no_module_is_missing_with_where_it_comes_from() -> None:
    def ask(name: str) -> str:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    found = climb(TENSORRT, Ports(ask=ask, touch=never))
    assert broken(found) == (Rung.MODULE, ProbeStatus.MISSING)
    assert "JetPack 6.1 or newer" in str(found)
    assert "--system-site-packages" in str(found)


def test_a_module_whose_library_is_missing_is_broken() -> None:
    def ask(_: str) -> str:
        return str(ctypes.CDLL("libnvinfer.so.10-that-no-machine-has"))

    found = climb(TENSORRT, Ports(ask=ask, touch=never))
    assert broken(found) == (Rung.LIBRARY, ProbeStatus.BROKEN)
    assert "cannot open shared object file" in str(found)


def test_a_module_of_another_name_that_is_missing_is_not_the_module_itself() -> None:
    def ask(_: str) -> str:
        raise ModuleNotFoundError("No module named 'tensorrt_bindings'", name="tensorrt_bindings")

    with pytest.raises(DoesNotImportError, match="tensorrt_bindings"):
        find_version(TENSORRT, ask)


def test_the_bindings_wheel_is_found_under_its_own_name() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    name, text = find_version(RTX)
    assert name in RTX.modules
    assert version_of(text) >= RTX.least


def test_what_is_not_installed_says_how_to_get_it() -> None:
    flavour = replace(RTX, modules=("no_machine_has_this",))
    with pytest.raises(NotInstalledError, match=r"edgefleet\[agent,trt-rtx\]"):
        find_version(flavour)


@pytest.mark.skipif(GPU_HERE, reason="this machine has an NVIDIA driver")
def test_without_a_driver_this_machine_says_so_with_the_real_library() -> None:
    """On a machine with CUDA's runtime library its own answer is 35; without it there is no driver either."""
    pytest.importorskip("tensorrt_rtx_bindings")
    found = climb(RTX, Ports(touch=never))
    assert broken(found) == (Rung.DRIVER, ProbeStatus.MISSING)
    assert "there is no NVIDIA driver: libcuda.so.1 is not installed" in str(found)


@pytest.mark.parametrize(
    ("load", "rung", "status", "words"),
    [
        (loader(), Rung.DRIVER, ProbeStatus.MISSING, "libcuda.so.1 is not installed"),
        (loader(driver=True), Rung.LIBRARY, ProbeStatus.MISSING, "install the CUDA runtime"),
        (loader(Cudart(code=35)), Rung.DRIVER, ProbeStatus.MISSING, "cudaGetDeviceCount says 35"),
        (loader(Cudart(code=35), driver=True), Rung.DRIVER, ProbeStatus.BROKEN, "older than the installed CUDA"),
        (loader(Cudart(code=100), driver=True), Rung.DEVICE, ProbeStatus.MISSING, "finds no GPU"),
        (loader(Cudart(count=0), driver=True), Rung.DEVICE, ProbeStatus.MISSING, "finds no GPU"),
        (loader(Cudart(code=999), driver=True), Rung.DRIVER, ProbeStatus.BROKEN, "says 999: error 999"),
    ],
)
def test_each_way_to_have_no_gpu_has_its_reason(
    load: Callable[[str], Any], rung: Rung, status: ProbeStatus, words: str
) -> None:
    found = climb(TENSORRT, Ports(ask=version("10.3.0"), load=load, touch=never))
    assert broken(found) == (rung, status)
    assert words in str(found)


@pytest.mark.parametrize("text", ["8.5.2", "10.0.1", "10.2.0.19"])
def test_a_version_below_10_3_is_too_old_and_is_not_touched(text: str) -> None:
    ports = Ports(ask=version(text), load=loader(Cudart(), driver=True), touch=never)
    found = climb(TENSORRT, ports)
    assert broken(found) == (Rung.VERSION, ProbeStatus.MISSING)
    assert f"tensorrt {text} is too old: 10.3 or newer" in str(found)


@pytest.mark.parametrize("text", ["10.3.0", "10.13.3.9.post1", "11.4.0.106"])
def test_versions_from_10_3_on_are_ready_when_their_runtime_answers(text: str) -> None:
    ports = Ports(ask=version(text), load=loader(Cudart(), driver=True), touch=answered(2))
    found = climb(TENSORRT, ports)
    assert isinstance(found, Ready)
    assert (found.version, found.dla_cores_n) == (text, 2)
    assert (found.gpu.name, found.gpu.sm, found.gpu.integrated) == ("Orin", 87, True)


def test_a_segmentation_fault_of_the_runtime_is_the_reason_and_not_the_end() -> None:
    """What TensorRT's lean and dispatch runtimes 11.4 do without a driver; here a process does it by itself."""

    def touch(_: str) -> ChildOutcome:
        code = f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
        return run_child((sys.executable, "-c", code), b"", trt_probe.TOUCH_LIMITS)

    ports = Ports(ask=version("10.3.0"), load=loader(Cudart(), driver=True), touch=touch)
    found = climb(TENSORRT, ports)
    assert broken(found) == (Rung.RUNTIME, ProbeStatus.BROKEN)
    assert "killed by signal 11 (SIGSEGV)" in str(found)


@pytest.mark.skipif(GPU_HERE, reason="this machine has an NVIDIA driver")
def test_the_touch_makes_a_real_runtime_in_a_process_of_its_own() -> None:
    """TensorRT-RTX 1.7 survives without a driver; the answer shows that the child ran."""
    pytest.importorskip("tensorrt_rtx_bindings")
    outcome = trt_probe.touch("tensorrt_rtx_bindings")
    assert outcome.end in {ChildEnd.ANSWERED, ChildEnd.CRASHED}
    assert outcome.answer is None or json.loads(outcome.answer) == {"dla_cores": 0}


def test_a_module_that_makes_no_runtime_says_why() -> None:
    outcome = ChildOutcome(ChildEnd.ANSWERED, b'{"error": "no memory"}', "answered", "", 0.1)
    ports = Ports(ask=version("10.3.0"), load=loader(Cudart(), driver=True), touch=lambda _: outcome)
    found = climb(TENSORRT, ports)
    assert broken(found) == (Rung.RUNTIME, ProbeStatus.BROKEN)
    assert "makes no runtime: no memory" in str(found)


def test_the_touch_lifts_the_fence_on_address_space_and_keeps_the_hard_limit() -> None:
    code = (
        "import resource; from edgefleet_agent.runtimes.cuda import lift_address_space_limit as lift\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**40, hard)); lift()\n"
        "assert resource.getrlimit(resource.RLIMIT_AS) == (hard, hard)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_engines_are_offered_as_the_ladder_says() -> None:
    ports = Ports(ask=version("10.3.0"), load=loader(Cudart(), driver=True), touch=answered(0))
    gpu, dla = TrtRuntime(TENSORRT, ports).probe()
    assert (gpu.target, gpu.status, gpu.version) == ("tensorrt/gpu", ProbeStatus.AVAILABLE, "10.3.0")
    assert (dla.target, dla.status) == ("tensorrt/dla", ProbeStatus.MISSING)
    assert "no DLA core" in str(dla.reason)
    _, with_cores = TrtRuntime(TENSORRT, Ports(ports.ask, ports.load, answered(2))).probe()
    assert with_cores.status is ProbeStatus.AVAILABLE


def test_the_ladder_is_climbed_once_a_process() -> None:
    calls: list[str] = []

    def touch(module: str) -> ChildOutcome:
        calls.append(module)
        return answered(0)(module)

    runtime = TrtRuntime(TENSORRT, Ports(version("10.3.0"), loader(Cudart(), driver=True), touch))
    runtime.probe()
    runtime.probe()
    assert calls == ["tensorrt"]


@pytest.mark.skipif(GPU_HERE, reason="this machine has an NVIDIA driver")
def test_this_machine_refuses_tensorrt_with_a_real_reason() -> None:
    probes = {probe.target: probe for probe in probe_engines(test_runtimes=False)}
    for target in ("tensorrt/gpu", "tensorrt/dla", "tensorrt-rtx/gpu"):
        assert probes[target].status is not ProbeStatus.AVAILABLE
        with pytest.raises(UnsupportedError) as caught:
            find_runtime(parse_variant(f"{target}/fp16"), test_runtimes=False)
        assert str(caught.value) == probes[target].reason
    assert isinstance(RUNTIME.ladder, Broken)


def test_the_cuda_runtime_is_looked_for_in_toolkits_and_wheels(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert cuda.load_cudart(lambda name: name if name == str(library) else _missing(name)) == str(library)


def _missing(name: str) -> Any:
    raise OSError(name)


def test_an_allocation_that_fails_is_out_of_memory() -> None:
    class Full(Cudart):
        def cudaMalloc(self, *_: Any) -> int:  # noqa: N802 - CUDA's name
            return 2

    with pytest.raises(MemoryError, match="the GPU has no memory left"):
        cuda.Cuda(Full()).malloc(10)


def test_find_gpu_reports_the_device() -> None:
    found = find_gpu(loader(Cudart(sm=(11, 0)), driver=True))
    assert not isinstance(found, Broken)
    assert found.sm == 110
