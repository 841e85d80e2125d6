-- Parts of a backfill that several processes share out: which rows each one is for, and what became of it.
--
-- A part is leased to whoever holds the session lock `lock_key`, which dies with its process; there is no
-- clock in it. Bounds are exclusive below and inclusive above, in the order backfills page in. Parts that
-- write nothing to Postgres, or only as a whole, have no kind.
--
-- depends: 001_create_platform_tables

CREATE TABLE IF NOT EXISTS kb_backfill_parts (
    plan              text NOT NULL,
    ordinal           integer NOT NULL,
    partition_key     text NOT NULL,
    backfill_type     text,
    workspace_id      uuid REFERENCES workspaces ON DELETE CASCADE,
    symbol            text,
    after_created_at  timestamptz NOT NULL,
    after_id          uuid NOT NULL,
    until_created_at  timestamptz NOT NULL,
    until_id          uuid NOT NULL,
    lock_key          bigint NOT NULL,
    settings          jsonb NOT NULL,
    attempts          integer NOT NULL DEFAULT 0,
    retry_at          timestamptz NOT NULL DEFAULT '-infinity',
    holder            text,
    result            jsonb,
    error             text,
    done_at           timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (plan, ordinal)
);

CREATE INDEX IF NOT EXISTS idx_backfill_parts_open
    ON kb_backfill_parts (workspace_id, backfill_type)
 WHERE done_at IS NULL;

COMMENT ON TABLE kb_backfill_parts IS 'Ranges of rows that the processes of one run share out; kept for a week.';
COMMENT ON COLUMN kb_backfill_parts.attempts IS 'How often it was begun, a killed process included.';
