"""How far each connected account was heard, and the events that tell of imports.

One new table and one new column; nothing that exists is rewritten.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = """
create table aggregator.voice (
    sink_id        integer not null references aggregator.sink,
    name           text collate "C" not null check (name <> ''),
    sent_at        timestamptz,
    heard_until    timestamptz,
    asked_at       timestamptz,
    refused_at     timestamptz,
    refused_reason text,
    primary key (sink_id, name),
    check ((refused_at is null) = (refused_reason is null))
);
comment on table aggregator.voice is
    'What of a sink is asked by itself: each account that its customers name, and how imports went.';
comment on column aggregator.voice.sent_at is 'When events last went to the account; null for what is no account.';

alter table aggregator.intake add column sent_until timestamptz;
comment on column aggregator.intake.sent_until is
    'Claims before this were looked through for the accounts that their events went to.';
"""


def upgrade() -> None:
    """Add what is missing."""
    op.get_bind().exec_driver_sql(SCHEMA)
