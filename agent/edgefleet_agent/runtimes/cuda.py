"""CUDA's runtime library through ctypes: device facts, memory, one stream. Nothing else of CUDA is needed for TensorRT.

Never run on hardware by us beyond `cudaGetDeviceCount` on a machine without a driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefleet_contract.errors import DeviceError

DRIVER = "libcuda.so.1"
"""The driver's own library: it comes with the driver and never with a toolkit."""
_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12")
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/lib")
NO_DEVICE, DRIVER_TOO_OLD = 100, 35
"""cudaErrorNoDevice, cudaErrorInsufficientDriver: the second is also what is said where there is no driver at all."""
_OUT_OF_MEMORY = 2
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_SM_MAJOR, _SM_MINOR, _INTEGRATED = 75, 76, 18
"""cudaDeviceAttr: compute capability, and whether the GPU shares the host's memory."""
_PROPERTIES_BYTES = 16_384
"""More than any version's cudaDeviceProp, whose size changed with each; all begin with the name in 256 bytes."""

Library = Any
"""A loaded shared library."""
Loader = Callable[[str], Library]
"""Loads a shared library by name or path; raises OSError."""


class CudaError(DeviceError):
    """A CUDA call failed.

    Args:
        call: the function.
        code: its cudaError.
        said: CUDA's own words.
    """

    def __init__(self, call: str, code: int, said: str) -> None:
        super().__init__(f"{call} says {code}: {said}")
        self.code = code


class CudaMissingError(DeviceError):
    """CUDA's runtime library is not there."""


@dataclass(frozen=True)
class GpuInfo:
    """One GPU.

    Attributes:
        name: as the driver spells it.
        sm: compute capability, 10 * major + minor.
        integrated: whether it shares the host's memory, as on a Jetson.
    """

    name: str
    sm: int
    integrated: bool


def load_cudart(load: Loader = ctypes.CDLL) -> Library:
    """Return CUDA's runtime library: from the loader's path, the toolkit's folder, or NVIDIA's wheels.

    Raises:
        CudaMissingError: none of them has it.
    """
    for name in (*_NAMES, *_paths()):
        with contextlib.suppress(OSError):
            return load(name)
    msg = f"CUDA's runtime library is not installed ({_NAMES[0]} is in no library folder, toolkit or wheel)"
    raise CudaMissingError(msg)


def _paths() -> Iterator[str]:
    for folder in (*map(Path, _FOLDERS), *_wheels()):
        yield from sorted((str(path) for path in folder.glob("libcudart.so*")), reverse=True)


def _wheels() -> Iterator[Path]:
    for entry in map(Path, sys.path):
        yield from entry.glob("nvidia/*/lib")


def has_driver(load: Loader = ctypes.CDLL) -> bool:
    """Return whether the NVIDIA driver's library can be loaded."""
    try:
        load(DRIVER)
    except OSError:
        return False
    return True


def lift_address_space_limit() -> None:
    """Take off this process's soft limit on address space.

    CUDA reserves address space for all memory of host and device at once, which the fence around a worker forbids. The
    limit on resident memory, which the worker's parent watches, stays.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


class Cuda:
    """The calls, each checked. All methods raise CudaError; a failed allocation raises MemoryError.

    Args:
        library: CUDA's runtime library, as `load_cudart` returns it.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def device_count(self) -> int:
        """Return how many GPUs there are."""
        return self._number("cudaGetDeviceCount")

    def device(self, index: int = 0) -> GpuInfo:
        """Return what a GPU is."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, index)
        major, minor, integrated = (self._attribute(which, index) for which in (_SM_MAJOR, _SM_MINOR, _INTEGRATED))
        name = properties.raw[:256].split(b"\0", 1)[0].decode("utf-8", "replace")
        return GpuInfo(name=name, sm=10 * major + minor, integrated=bool(integrated))

    def free_bytes(self) -> int:
        """Return how much of the GPU's memory is free, in bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def malloc(self, size_bytes: int) -> int:
        """Return the address of new GPU memory."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(1, size_bytes)))
        return pointer.value or 0

    def free(self, address: int) -> None:
        """Give GPU memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def upload(self, address: int, host: int, size_bytes: int, stream: int) -> None:
        """Start a copy from host memory to the GPU, in the stream's order."""
        self._copy(address, host, size_bytes, _HOST_TO_DEVICE, stream)

    def download(self, host: int, address: int, size_bytes: int, stream: int) -> None:
        """Start a copy from the GPU to host memory, in the stream's order."""
        self._copy(host, address, size_bytes, _DEVICE_TO_HOST, stream)

    def new_stream(self) -> int:
        """Return a new stream."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return stream.value or 0

    def drop_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Wait until all work of a stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _copy(self, to: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        pointers = (ctypes.c_void_p(to), ctypes.c_void_p(source))
        self._call("cudaMemcpyAsync", *pointers, ctypes.c_size_t(size_bytes), kind, ctypes.c_void_p(stream))

    def _attribute(self, which: int, index: int) -> int:
        value = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), which, index)
        return value.value

    def _number(self, name: str) -> int:
        value = ctypes.c_int()
        self._call(name, ctypes.byref(value))
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code == _OUT_OF_MEMORY:
            msg = f"{name}: the GPU has no memory left"
            raise MemoryError(msg)
        if code != 0:
            said = self._library.cudaGetErrorString(code) or b"unknown error"
            raise CudaError(name, code, said.decode("utf-8", "replace"))
