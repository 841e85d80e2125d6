-- backfills --
-- Of a workspace, per kind: runs by status, in the order of the names.
SELECT run.backfill_type, run.status, count(*)
  FROM kb_backfill_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.holder IS NOT NULL
 GROUP BY 1, 2
 ORDER BY 1, 2

-- rows --
-- Of a workspace, per kind: rows that backfills have scanned, written and left as conflicts, all runs together.
SELECT run.backfill_type, outcome.name, sum(outcome.rows)
  FROM kb_backfill_runs AS run
 CROSS JOIN LATERAL (VALUES ('conflicts', run.error_count), ('scanned', run.scanned_count),
                            ('updated', run.processed_count)) AS outcome (name, rows)
 WHERE run.workspace_id = %(workspace_id)s
   AND run.holder IS NOT NULL
 GROUP BY 1, 2
 ORDER BY 1, 2

-- skipped --
-- Of a workspace, per kind and reason: rows that backfills have left alone.
SELECT run.backfill_type, reason.key, sum(reason.value::bigint)
  FROM kb_backfill_runs AS run
 CROSS JOIN LATERAL jsonb_each_text(run.counts) AS reason
 WHERE run.workspace_id = %(workspace_id)s
   AND run.holder IS NOT NULL
   AND reason.value ~ '^[0-9]{1,18}$'
 GROUP BY 1, 2
 ORDER BY 1, 2

-- completed --
-- Of a workspace, per kind: when a backfill last went through, in seconds since 1970.
SELECT run.backfill_type, extract(epoch FROM max(run.completed_at))::float8
  FROM kb_backfill_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.holder IS NOT NULL
   AND run.status = 'completed'
 GROUP BY 1
 ORDER BY 1
