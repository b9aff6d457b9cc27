"""Desired state: all a controller wants of one device, in one document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgefleet_contract.accept import Accept, Choose
from edgefleet_contract.base import ByteCount, Digest, Generation, Name, Record, digest_bytes
from edgefleet_contract.evidence import Task
from edgefleet_contract.variant import VariantName

MAX_CHAIN = 16
MAX_MODELS = 64


class Candidate(Record):
    """One step of a chain: a built artifact a device can fetch."""

    variant: VariantName
    artifact: Digest
    document_bytes: Annotated[int, Field(gt=0, le=256 * 1024)]
    """Size of `artifact.json`, the first thing fetched."""
    total_bytes: ByteCount
    """Size of all its files together."""


class DesiredModel(Record):
    """One model a device shall serve: the chain to walk and what must hold."""

    model: Name
    release: Digest
    chain: tuple[Candidate, ...] = Field(min_length=1, max_length=MAX_CHAIN)
    choose: Choose = Choose.FIRST
    accept: Accept = Accept()
    task: Task | None = None


class DesiredState(Record):
    """The whole wish for one device. A device ignores a generation not above its own."""

    api: Literal["fleet/v1"] = "fleet/v1"
    site: Name
    device: Name
    generation: Generation
    revision: Generation
    issued_at_ns: Annotated[int, Field(ge=0, le=2**63 - 1)]
    models: tuple[DesiredModel, ...] = Field(default=(), max_length=MAX_MODELS)

    @model_validator(mode="after")
    def _models_are_distinct(self) -> DesiredState:
        names = [wish.model for wish in self.models]
        if len(set(names)) != len(names):
            msg = "a model stands twice in one desired state"
            raise ValueError(msg)
        return self

    @property
    def wish_digest(self) -> str:
        """Return the digest of what is wished, without generation, revision and time: equal wishes are equal."""
        parts = b"\n".join(wish.canonical_json() for wish in sorted(self.models, key=lambda wish: wish.model))
        return digest_bytes(parts)


def release_digest(model: str, chain: tuple[Candidate, ...], choose: Choose, accept: Accept, task: Task | None) -> str:
    """Return a release's identity: model, artifacts in order, choice, acceptance and task."""
    draft = DesiredModel(
        model=model, release="sha256:" + "0" * 64, chain=chain, choose=choose, accept=accept, task=task
    )
    return digest_bytes(draft.canonical_json())
