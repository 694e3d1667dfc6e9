"""${message}

Hold no lock for long; the previous release keeps working on what this leaves behind.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say here what changes, and why the previous release does not mind."""
    ${upgrades if upgrades else "op.execute('')"}
