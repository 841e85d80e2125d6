-- Two more kinds of backfill, the state `interrupted`, complete counts and the holder in the ledger.
--
-- The two checks are looked up by the column they are about, because an adopted ledger may name them
-- differently. The new ones allow all that the old ones did, so every row there satisfies them.
--
-- depends: 001_create_platform_tables

DO $checks$
DECLARE
    narrow record;
BEGIN
    FOR narrow IN
        SELECT conname
          FROM pg_constraint
          JOIN pg_attribute ON attrelid = conrelid AND conkey = ARRAY[attnum]
         WHERE conrelid = 'kb_backfill_runs'::regclass
           AND contype = 'c'
           AND attname IN ('backfill_type', 'status')
    LOOP
        EXECUTE format('ALTER TABLE kb_backfill_runs DROP CONSTRAINT %I', narrow.conname);
    END LOOP;
END
$checks$;

ALTER TABLE kb_backfill_runs
    ADD CONSTRAINT kb_backfill_runs_backfill_type_check
        CHECK (backfill_type IN ('candidacy', 'regime', 'attribution', 'trials')),
    ADD CONSTRAINT kb_backfill_runs_status_check
        CHECK (status IN ('running', 'completed', 'failed', 'interrupted')),
    ADD COLUMN IF NOT EXISTS scanned_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS counts jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS holder text,
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now();

COMMENT ON COLUMN kb_backfill_runs.scanned_count IS 'Rows read, whatever became of them.';
COMMENT ON COLUMN kb_backfill_runs.counts IS 'Rows left alone, by reason.';
COMMENT ON COLUMN kb_backfill_runs.holder IS 'Host and process that ran it, for whoever finds it running.';
