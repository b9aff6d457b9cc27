from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.blobs import Storage
from edgefleet_agent.fetch import MAX_DAMAGED, MAX_REFUSALS, RESERVE_BYTES, BlobHashed, Chunk, Fetcher, FetchPorts
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.records import ArtifactReady, Fetch, FetchFailed
from edgefleet_contract.base import digest_bytes, hex_of
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import ChunkRefusal, ChunkRequest
from edgefleet_contract.wire import CHUNK_BYTES

BIG = bytes(range(256)) * 1024 * 10  # 2.5 MiB: 40 chunks


class SmallDisk(Filesystem):
    """A disk with a set free space, or one that fails from a given write on."""

    def __init__(self) -> None:
        self.free = 10**12
        self.fails_after_writes: int | None = None

    def free_bytes(self, path: Path) -> int:
        return self.free

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        if self.fails_after_writes is not None:
            self.fails_after_writes -= 1
            if self.fails_after_writes < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        super().write_at(path, offset, data)


class World:
    """A fetcher, its disk, and a controller that answers at once."""

    def __init__(self, home: Path) -> None:
        self.disk = SmallDisk()
        self.storage = Storage(home, self.disk)
        self.now_s = 0.0
        self.blobs: dict[str, bytes] = {}
        self.requests: list[ChunkRequest] = []
        self.results: list[Any] = []
        self.made_room_n = 0
        self.fetcher = self.new_fetcher()

    def new_fetcher(self) -> Fetcher:
        ports = FetchPorts(self.requests.append, self.results.append, self.hash, self.make_room, lambda: self.now_s)
        fetcher = Fetcher(self.storage, ports)
        fetcher.set_connected(True)
        return fetcher

    def make_room(self) -> None:
        self.made_room_n += 1

    def hash(self, task: Callable[[], BlobHashed]) -> None:
        self.results.append(task())

    def serve(self, *, limit: int = 10_000) -> Any:
        """Answer requests until the fetch has ended or `limit` chunks were sent; return how it ended."""
        while limit > 0 and (self.requests or self.results):
            if self.results:
                result = self.results.pop(0)
                if not isinstance(result, BlobHashed):
                    return result
                self.fetcher.on_hashed(result)
                continue
            request = self.requests.pop(0)
            for index in range(request.offset, request.offset + request.window):
                self.fetcher.on_chunk(self.chunk(request.digest, index))
                limit -= 1
        return None

    def chunk(self, digest: str, index: int) -> Chunk:
        data = self.blobs[digest][index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        return Chunk(index, digest, hashlib.sha256(data).hexdigest(), data)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def made(artifact: Any, world: World) -> Any:
    made = artifact({"model.onnx": BIG, "samples.npz": b"samples"})
    world.blobs = made.blobs
    return made


def test_an_artifact_arrives_and_is_laid_out_with_its_files_by_name(world: World, made: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    assert world.serve() == ArtifactReady(1)
    folder = world.storage.folder(made.candidate.artifact)
    assert (folder / "model.onnx").read_bytes() == BIG
    assert digest_bytes((folder / "artifact.json").read_bytes()) == made.candidate.artifact
    assert world.storage.problem(made.candidate.artifact) is None
    assert not list(world.storage.blobs.glob("*.part"))


def test_what_is_already_here_is_not_asked_for(world: World, made: Any, artifact: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    world.serve()
    world.fetcher.start(Fetch(2, made.candidate))
    assert world.results == [ArtifactReady(2)]
    assert world.requests == []
    world.results.clear()
    other = artifact({"model.onnx": b"other", "samples.npz": b"samples"}, "ort/cpu/int8")
    world.blobs = {**world.blobs, **other.blobs}
    del world.blobs[digest_bytes(b"samples")]
    world.fetcher.start(Fetch(3, other.candidate))
    assert world.serve() == ArtifactReady(3)


def test_a_fetch_goes_on_after_a_restart_where_it_was(world: World, made: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    world.serve(limit=20)
    world.fetcher.stop()
    world.requests.clear()
    world.fetcher = world.new_fetcher()
    world.fetcher.start(Fetch(2, made.candidate))
    assert world.requests[0].offset >= 15
    assert world.serve() == ArtifactReady(2)


@pytest.mark.parametrize("spoil", [lambda body: b"junk\n" + body, lambda body: body[:-1], lambda body: body + b"\xff"])
def test_a_map_that_does_not_fit_is_not_believed(world: World, made: Any, spoil: Callable[[bytes], bytes]) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    world.serve(limit=20)
    world.fetcher.stop()
    world.requests.clear()
    path = next(world.storage.blobs.glob("*.map"))
    path.write_bytes(spoil(path.read_bytes()))
    world.fetcher.start(Fetch(2, made.candidate))
    assert world.requests[0].offset == 0
    assert world.serve() == ArtifactReady(2)


def test_a_map_that_claims_chunks_that_are_not_here_is_found_out_by_the_digest(world: World, made: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    world.serve(limit=20)
    world.fetcher.stop()
    world.requests.clear()
    path = next(world.storage.blobs.glob("*.map"))
    head, _, bits = path.read_bytes().partition(b"\n")
    path.write_bytes(head + b"\n" + b"\xff" * len(bits))
    world.fetcher.start(Fetch(2, made.candidate))
    assert world.serve() == ArtifactReady(2)


def test_a_damaged_chunk_is_dropped_and_asked_for_again(world: World, made: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    good = world.chunk(made.candidate.artifact, 0)
    world.fetcher.on_chunk(Chunk(0, good.digest, good.sha256, b"x" * len(good.data)))
    world.fetcher.on_chunk(Chunk(0, good.digest, good.sha256, good.data + b"x"))
    world.fetcher.on_chunk(Chunk(7, good.digest, good.sha256, good.data))
    assert world.fetcher.damaged_n == 3
    assert world.serve() == ArtifactReady(1)


def test_bytes_that_keep_not_having_their_digest_are_corrupt(world: World, made: Any) -> None:
    world.blobs = {**world.blobs, made.document.files[0].digest: BIG[::-1]}
    world.fetcher.start(Fetch(1, made.candidate))
    result = world.serve()
    assert isinstance(result, FetchFailed)
    assert (result.verdict, result.transient) == (Verdict.CORRUPT, False)
    asked_n = len(list(world.storage.blobs.iterdir()))
    assert asked_n == 1, "only the document stays"
    assert MAX_DAMAGED == 3


@pytest.mark.parametrize("body", [b"{}", b"not json at all", b'{"a":' * 2000])
def test_a_document_that_is_none_is_corrupt(world: World, made: Any, body: bytes) -> None:
    candidate = made.candidate.model_copy(update={"artifact": digest_bytes(body), "document_bytes": len(body)})
    world.blobs = {digest_bytes(body): body}
    world.fetcher.start(Fetch(1, candidate))
    result = world.serve()
    assert isinstance(result, FetchFailed)
    assert result.verdict is Verdict.CORRUPT


@pytest.mark.parametrize("change", [{"total_bytes": 5}, {"variant": "ort/cpu/int8"}])
def test_a_document_that_is_not_what_was_declared_is_corrupt(world: World, made: Any, change: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate.model_copy(update=change)))
    result = world.serve()
    assert isinstance(result, FetchFailed)
    assert result.verdict is Verdict.CORRUPT
    assert "the desired state says" in result.reason


def test_a_file_that_would_take_the_documents_place_is_corrupt(world: World, artifact: Any) -> None:
    made = artifact({"model.onnx": b"m", "artifact.json": b"x"})
    world.blobs = made.blobs
    world.fetcher.start(Fetch(1, made.candidate))
    result = world.serve()
    assert isinstance(result, FetchFailed)
    assert result.verdict is Verdict.CORRUPT


def test_a_disk_without_room_is_said_before_a_byte_is_asked_for(world: World, made: Any) -> None:
    world.disk.free = RESERVE_BYTES
    world.fetcher.start(Fetch(1, made.candidate))
    result = world.serve()
    assert isinstance(result, FetchFailed)
    assert (result.verdict, result.transient) == (Verdict.FAILED, True)
    assert result.reason.startswith("disk full: needs 34.5 MiB")
    assert world.made_room_n == 1


def test_a_disk_that_fills_half_way_ends_the_fetch_and_leaves_no_part_behind(world: World, made: Any) -> None:
    world.disk.fails_after_writes = 10
    world.fetcher.start(Fetch(1, made.candidate))
    result = world.serve()
    assert isinstance(result, FetchFailed)
    assert (result.verdict, result.transient) == (Verdict.FAILED, True)
    assert "No space left" in result.reason
    assert not list(world.storage.blobs.glob("*.part"))
    world.disk.fails_after_writes = None
    world.requests.clear()
    world.fetcher.start(Fetch(2, made.candidate))
    assert world.serve() == ArtifactReady(2)


def test_refusals_are_waited_out_and_then_given_up_on(world: World, made: Any) -> None:
    refusal = ChunkRefusal(digest=made.candidate.artifact, reason="no such blob")
    world.fetcher.start(Fetch(1, made.candidate))
    for _ in range(MAX_REFUSALS - 1):
        world.fetcher.on_refusal(refusal)
        world.fetcher.pump()
        assert world.results == []
        due_s = world.fetcher.due_s()
        assert due_s is not None
        assert due_s > world.now_s
        world.now_s = due_s
        world.fetcher.pump()
    world.fetcher.on_refusal(refusal)
    result = world.results.pop()
    assert (result.verdict, result.transient) == (Verdict.FAILED, True)
    assert "no such blob" in result.reason


def test_while_offline_nothing_is_asked_and_afterwards_all_that_is_missing(world: World, made: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    world.fetcher.set_connected(False)
    world.requests.clear()
    world.now_s = 1e6
    world.fetcher.pump()
    assert world.requests == []
    assert world.fetcher.due_s() is None
    world.fetcher.set_connected(True)
    assert world.serve() == ArtifactReady(1)


def test_chunks_of_a_cancelled_fetch_are_ignored(world: World, made: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    world.fetcher.cancel(1)
    world.fetcher.on_chunk(world.chunk(made.candidate.artifact, 0))
    assert world.results == []
    assert not world.storage.blob(made.candidate.artifact).exists()


def test_an_artifact_damaged_on_disk_is_found_and_only_damaged_blobs_are_thrown_away(world: World, made: Any) -> None:
    world.fetcher.start(Fetch(1, made.candidate))
    world.serve()
    folder = world.storage.folder(made.candidate.artifact)
    (folder / "model.onnx").chmod(0o644)
    with (folder / "model.onnx").open("r+b") as file:
        file.write(b"flip")
    assert "model.onnx has digest" in str(world.storage.problem(made.candidate.artifact))
    world.storage.discard(made.candidate.artifact)
    left = {path.name for path in world.storage.blobs.iterdir()}
    assert left == {hex_of(made.candidate.artifact), hex_of(digest_bytes(b"samples"))}
    world.fetcher.start(Fetch(2, made.candidate))
    assert world.serve() == ArtifactReady(2)
