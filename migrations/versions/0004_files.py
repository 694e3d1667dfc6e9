"""Files: what is written of the outbox as a whole, where it lies, and who has uploaded it.

A new table only; the previous release does not look at it, and writes no files.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = """
create table aggregator.file (
    claim_id     bigint primary key references aggregator.claim,
    sink_id      integer not null references aggregator.sink,
    place        text not null check (place <> ''),
    by_hand      boolean not null,
    held_until   timestamptz not null,
    tries        integer not null default 1 check (tries > 0),
    reason       text,
    name         text unique check (name <> ''),
    meters       text[],
    first_window timestamptz,
    last_window  timestamptz,
    records      bigint check (records > 0),
    bytes        bigint check (bytes > 0),
    sha256       text,
    written_at   timestamptz,
    confirmed_at timestamptz,
    check (num_nulls(name, meters, first_window, last_window, records, bytes, sha256, written_at) in (0, 8)),
    check (confirmed_at is null or written_at is not null)
);
create index file_open on aggregator.file (sink_id, claim_id) where written_at is null;
comment on table aggregator.file is
    'A claim that becomes a file: its events never change, so that whoever takes it over writes the same file.';
comment on column aggregator.file.held_until is
    'Until when the claim''s owner may go on with it; another takes it over whole then.';
comment on column aggregator.file.by_hand is 'Whether a person uploads it, and confirms that.';

create trigger file_stays
    before delete on aggregator.file for each row when (old.written_at is not null)
    execute function aggregator.refuse('a file that was written stays on record');

create trigger file_is_frozen
    before update of claim_id, sink_id, place, name, records, bytes, sha256, written_at on aggregator.file for each row
    when (old.written_at is not null)
    execute function aggregator.refuse('what a file holds never changes');
"""


def upgrade() -> None:
    """Add the table, with what keeps it honest."""
    op.get_bind().exec_driver_sql(SCHEMA)
