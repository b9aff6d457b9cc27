"""Builds and artifacts: what was made, from what, and what could not be made."""

from __future__ import annotations

from sqlalchemy import select

from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_controller.compile.records import BuildRecord
from edgefleet_controller.store.concern import Concern
from edgefleet_controller.store.database import insert_into, upsert
from edgefleet_controller.store.flatten import artifact_columns
from edgefleet_controller.store.tables import artifacts, builds


class Builds(Concern):
    """The build cache; a `BuildCache` of the compiler."""

    def find_build(self, key: str) -> BuildRecord | None:
        """Return what a build with this key came to, or None."""
        columns = [column for column in builds.c if column is not builds.c.built_at_ns]
        with self._database.read() as connection:
            row = connection.execute(select(*columns).where(builds.c.key == key)).mappings().one_or_none()
        return None if row is None else BuildRecord.model_validate(dict(row))

    def record_build(self, record: BuildRecord) -> None:
        """Remember a build; the newest of a key counts. Its artifact, where there is one, must be known."""
        with self._database.write() as connection:
            upsert(
                connection,
                builds,
                [{**record.model_dump(mode="json", exclude={"notes"}), "built_at_ns": self._now_ns()}],
            )

    def put_artifact(self, document: ArtifactDocument, at_ns: int) -> None:
        """Remember an artifact, made at `at_ns` (Unix time). Known artifacts stay as they are."""
        row = {
            "digest": document.digest,
            "model": document.model,
            "variant": document.variant,
            "document": document.model_dump(mode="json"),
            "document_bytes": len(document.canonical_json()),
            "total_bytes": document.total_bytes,
            "created_at_ns": at_ns,
            **artifact_columns(document),
        }
        with self._database.write() as connection:
            connection.execute(insert_into(connection, artifacts).values(row).on_conflict_do_nothing())

    def artifact(self, digest: str) -> ArtifactDocument | None:
        """Return an artifact's document, or None."""
        with self._database.read() as connection:
            document = connection.scalar(select(artifacts.c.document).where(artifacts.c.digest == digest))
        return None if document is None else ArtifactDocument.model_validate(document)
