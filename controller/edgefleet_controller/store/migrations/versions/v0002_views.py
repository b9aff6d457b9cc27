"""The views people query: `fleet_*`, documented in docs/store.md."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"

VIEWS = Path(__file__).parents[1] / "views" / "0002"


def upgrade() -> None:
    """Create every view, in the order of their files' names: later ones build on earlier ones."""
    for path in sorted(VIEWS.glob("*.sql")):
        op.execute(path.read_text(encoding="utf-8"))
