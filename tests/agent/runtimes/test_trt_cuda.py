"""The CUDA layer's calls, on a library compiled here with CUDA's signatures that keeps its memory on the host."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.runtimes.cuda import Cuda, CudaError, load_cudart

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
static int live = 0;
int cudaGetDeviceCount(int *n) { *n = 2; return 0; }
int cudaGetDeviceProperties(void *p, int i) { memset(p, 0, 2048); strcpy(p, i ? "Second" : "Host GPU"); return 0; }
int cudaDeviceGetAttribute(int *v, int which, int i) { *v = which == 75 ? 8 : which == 76 ? 7 : i; return 0; }
int cudaMemGetInfo(size_t *f, size_t *t) { *f = 5000000000UL; *t = 8000000000UL; return 0; }
int cudaMalloc(void **p, size_t n) { if (n > 1UL << 40) return 2; *p = malloc(n); live++; return 0; }
int cudaFree(void *p) { free(p); live--; return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
  if (stream != (void *)0x123456789aUL) return 400;
  if (kind != 1 && kind != 2) return 21;
  memcpy(to, from, n); return 0; }
int cudaStreamCreate(void **s) { *s = (void *)0x123456789aUL; return 0; }
int cudaStreamDestroy(void *s) { return s == (void *)0x123456789aUL ? 0 : 400; }
int cudaStreamSynchronize(void *s) { return s == (void *)0x123456789aUL ? 0 : 400; }
const char *cudaGetErrorString(int code) { return code == 400 ? "invalid resource handle" : "other"; }
int liveAllocations(void) { return live; }
"""
"""The stream's address needs more than 32 bits, as do sizes, so that a call that cuts one off fails."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "cudart.c").write_text(SOURCE)
    out = folder / "libcudart.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(folder / "cudart.c")], check=True)
    found: ctypes.CDLL = load_cudart(lambda name: ctypes.CDLL(str(out)) if name == "libcudart.so" else _missing(name))
    return found


def _missing(name: str) -> ctypes.CDLL:
    raise OSError(name)


@pytest.fixture
def cuda(library: ctypes.CDLL) -> Cuda:
    return Cuda(library)


def test_a_device_is_described_by_name_and_generation(cuda: Cuda) -> None:
    assert cuda.device_count() == 2
    first, second = cuda.device(0), cuda.device(1)
    assert (first.name, first.sm, first.integrated) == ("Host GPU", 87, False)
    assert (second.name, second.integrated) == ("Second", True)
    assert cuda.free_bytes() == 5_000_000_000


def test_arrays_go_to_the_gpu_and_come_back(cuda: Cuda, library: ctypes.CDLL) -> None:
    there = np.arange(1000, dtype=np.float32)
    back = np.empty_like(there)
    stream, address = cuda.new_stream(), cuda.malloc(there.nbytes)
    cuda.upload(address, there.ctypes.data, there.nbytes, stream)
    cuda.download(back.ctypes.data, address, back.nbytes, stream)
    cuda.wait(stream)
    assert np.array_equal(back, there)
    assert library.liveAllocations() == 1
    cuda.free(address)
    cuda.drop_stream(stream)
    assert library.liveAllocations() == 0


def test_memory_for_nothing_is_memory_all_the_same(cuda: Cuda) -> None:
    address = cuda.malloc(0)
    assert address != 0
    cuda.free(address)


def test_a_call_that_fails_says_which_and_why_in_cudas_words(cuda: Cuda) -> None:
    with pytest.raises(CudaError, match="cudaStreamSynchronize says 400: invalid resource handle") as caught:
        cuda.wait(7)
    assert caught.value.code == 400


def test_more_memory_than_there_is_is_out_of_memory(cuda: Cuda) -> None:
    with pytest.raises(MemoryError, match="the GPU has no memory left"):
        cuda.malloc(2**41)


def test_no_library_anywhere_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgefleet_agent.runtimes import cuda as module

    monkeypatch.setattr(module, "_FOLDERS", ())
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(module.CudaMissingError, match="is in no library folder, toolkit or wheel"):
        load_cudart(_missing)
