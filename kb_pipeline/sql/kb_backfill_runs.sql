-- close_abandoned --
-- Ledger rows of this workspace and kind that a process left running. Whoever holds the advisory
-- lock is the only writer, so such a process is gone; whoever shares it for a part knows that of the same
-- part only. Rows without a holder belong to the platform.
UPDATE kb_backfill_runs
   SET status = 'interrupted',
       completed_at = now(),
       updated_at = now(),
       error = 'The process ended without closing its ledger row.'
 WHERE workspace_id = %(workspace_id)s
   AND backfill_type = %(kind)s
   AND status = 'running'
   AND holder IS NOT NULL
   AND (%(part_hash)s::text IS NULL OR config_hash = %(part_hash)s::text)

-- last_cursor --
-- Where the newest real run with the same settings stopped; a dry run moves nothing.
SELECT last_processed_cursor
  FROM kb_backfill_runs
 WHERE workspace_id = %(workspace_id)s
   AND backfill_type = %(kind)s
   AND config_hash = %(config_hash)s
   AND NOT dry_run
   AND holder IS NOT NULL
 ORDER BY started_at DESC, id
 LIMIT 1

-- open --
-- Begin the ledger row of a real run; it starts where the previous one stopped.
INSERT INTO kb_backfill_runs
       (workspace_id, backfill_type, status, config, config_hash, dry_run, last_processed_cursor, holder)
VALUES (%(workspace_id)s, %(kind)s, 'running', %(config)s::jsonb, %(config_hash)s, false, %(cursor)s,
        %(holder)s)
RETURNING id::text

-- advance --
-- Move cursor and counts; runs in the transaction of the batch they tell of.
UPDATE kb_backfill_runs
   SET last_processed_cursor = %(cursor)s,
       scanned_count = %(scanned)s,
       processed_count = %(updated)s,
       skipped_count = %(skipped)s,
       error_count = %(conflicts)s,
       counts = %(counts)s::jsonb,
       updated_at = now()
 WHERE id = %(ledger_id)s
   AND workspace_id = %(workspace_id)s

-- close --
-- End the ledger row with its status and, where it failed, the error.
UPDATE kb_backfill_runs
   SET status = %(status)s,
       error = %(error)s,
       completed_at = now(),
       updated_at = now()
 WHERE id = %(ledger_id)s
   AND workspace_id = %(workspace_id)s
