-- read_candidacy_page --
-- Excluded test variants in (created_at, id) order after a position, with the JSON text of each
-- metric: text, because one number beyond the floats would fail the fetch of a whole page.
SELECT run.id::text,
       run.created_at::text,
       run.xmin::text,
       run.kb_status_changed_by IS NOT NULL AND run.kb_status_changed_by <> %(actor)s,
       coalesce(jsonb_typeof(run.summary), 'absent'),
       coalesce(run.trade_count::text,
                (nullif(run.summary -> 'trades', 'null'))::text,
                (run.summary -> 'trade_count')::text),
       (run.summary -> 'max_drawdown_pct')::text,
       (run.summary -> 'sharpe')::text,
       (run.summary -> 'experiment_type')::text,
       coalesce(jsonb_typeof(run.regime_oos) = 'object', false)
  FROM backtest_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.run_kind = 'test_variant'
   AND run.status IN ('completed', 'success')
   AND (run.kb_status = 'excluded' OR run.kb_status IS NULL)
   AND run.created_at >= %(since)s::timestamptz
   AND (run.created_at, run.id) > (%(after_created_at)s::timestamptz, %(after_id)s::uuid)
   AND (run.created_at, run.id) <= (%(until_created_at)s::timestamptz, %(until_id)s::uuid)
 ORDER BY run.created_at, run.id
 LIMIT %(rows)s

-- mark_candidates --
-- Move runs to candidate and write the audit row of each. Every condition that made a run eligible
-- stands on the target of the UPDATE, where a concurrent change is checked again; the row version
-- also catches excluded -> candidate -> excluded.
WITH changed AS (
    UPDATE backtest_runs AS run
       SET kb_status = 'candidate',
           kb_status_changed_at = now(),
           kb_status_changed_by = %(actor)s,
           auto_candidate_gate = %(gate)s
      FROM unnest(%(ids)b::text[]::uuid[], %(versions)b::text[]::xid[]) AS read (id, version)
     WHERE run.id = read.id
       AND run.workspace_id = %(workspace_id)s
       AND run.xmin = read.version
       AND (run.kb_status = 'excluded' OR run.kb_status IS NULL)
       AND (run.kb_status_changed_by IS NULL OR run.kb_status_changed_by = %(actor)s)
 RETURNING run.id
), audited AS (
    INSERT INTO kb_status_history
           (workspace_id, source_type, source_id, from_status, to_status, actor_type, actor_id, reason)
    SELECT %(workspace_id)s, 'test_variant', changed.id, 'excluded', 'candidate', 'auto', %(actor)s, %(gate)s
      FROM changed
)
SELECT changed.id::text FROM changed

-- candidacy_bounds --
-- Every so-manieth of the runs that wait for candidacy, in the order of their pages.
SELECT numbered.created_at::text, numbered.id::text
  FROM (SELECT run.created_at, run.id, row_number() OVER (ORDER BY run.created_at, run.id) AS place
          FROM backtest_runs AS run
         WHERE run.workspace_id = %(workspace_id)s
           AND run.run_kind = 'test_variant'
           AND run.status IN ('completed', 'success')
           AND (run.kb_status = 'excluded' OR run.kb_status IS NULL)
           AND run.created_at >= %(since)s::timestamptz) AS numbered
 WHERE numbered.place %% %(rows)s = 0
 ORDER BY numbered.place

-- read_regime_page --
-- Test variants without an out-of-sample regime, in (created_at, id) order after a position. The
-- fields that can name a window come as one JSON text, so that equal ones are parsed once.
SELECT run.id::text,
       run.created_at::text,
       run.xmin::text,
       run.dataset_meta ->> 'symbol',
       jsonb_build_array(
           run.dataset_meta -> 'oos_start', run.dataset_meta -> 'oos_end', run.dataset_meta -> 'oos',
           run.dataset_meta -> 'is_start', run.dataset_meta -> 'is_end', run.dataset_meta -> 'is',
           run.dataset_meta -> 'oos_ratio', run.dataset_meta -> 'date_min', run.dataset_meta -> 'date_max',
           run.params -> 'oos_start', run.params -> 'oos_end',
           run.params -> 'is_start', run.params -> 'is_end', run.params -> 'oos_ratio')::text
  FROM backtest_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.run_kind = 'test_variant'
   AND run.status IN ('completed', 'success')
   AND (run.regime_oos IS NULL OR run.regime_oos = 'null')
   AND (%(symbol)s::text IS NULL
        OR kb_run_symbol(run.dataset_meta) = upper(%(symbol)s::text)::name -- the index; it cuts long names
       AND upper(run.dataset_meta ->> 'symbol') = upper(%(symbol)s::text))
   AND run.created_at >= %(since)s::timestamptz
   AND (run.created_at, run.id) > (%(after_created_at)s::timestamptz, %(after_id)s::uuid)
   AND (run.created_at, run.id) <= (%(until_created_at)s::timestamptz, %(until_id)s::uuid)
 ORDER BY run.created_at, run.id
 LIMIT %(rows)s

-- regime_bounds --
-- Every so-manieth of the runs of a symbol that wait for a regime, in the order of their pages.
SELECT numbered.created_at::text, numbered.id::text
  FROM (SELECT run.created_at, run.id, row_number() OVER (ORDER BY run.created_at, run.id) AS place
          FROM backtest_runs AS run
         WHERE run.workspace_id = %(workspace_id)s
           AND run.run_kind = 'test_variant'
           AND run.status IN ('completed', 'success')
           AND (run.regime_oos IS NULL OR run.regime_oos = 'null')
           AND kb_run_symbol(run.dataset_meta) = upper(%(symbol)s::text)::name
           AND upper(run.dataset_meta ->> 'symbol') = upper(%(symbol)s::text)
           AND run.created_at >= %(since)s::timestamptz) AS numbered
 WHERE numbered.place %% %(rows)s = 0
 ORDER BY numbered.place

-- land_regimes --
-- Write snapshots, in sample only where the run gives one, where there still is none.
UPDATE backtest_runs AS run
   SET regime_oos = read.out_of_sample::jsonb,
       regime_is = CASE WHEN run.regime_is IS NULL OR run.regime_is = 'null'
                        THEN coalesce(read.in_sample::jsonb, run.regime_is)
                        ELSE run.regime_is END,
       regime_schema_version = %(schema_version)s
  FROM unnest(%(ids)b::text[]::uuid[], %(versions)b::text[]::xid[],
              %(out_of_sample)b::text[], %(in_sample)b::text[])
       AS read (id, version, out_of_sample, in_sample)
 WHERE run.id = read.id
   AND run.workspace_id = %(workspace_id)s
   AND run.xmin = read.version
   AND (run.regime_oos IS NULL OR run.regime_oos = 'null')
RETURNING run.id::text

-- distinct_symbols --
-- The symbols that the runs of a workspace name, of whatever kind and status, at most two of them.
SELECT DISTINCT upper(run.dataset_meta ->> 'symbol')
  FROM backtest_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.dataset_meta ->> 'symbol' IS NOT NULL
 LIMIT 2

-- count_without_symbol --
-- Test variants that wait for a regime and name no symbol.
SELECT count(*)
  FROM backtest_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.run_kind = 'test_variant'
   AND run.status IN ('completed', 'success')
   AND (run.regime_oos IS NULL OR run.regime_oos = 'null')
   AND run.dataset_meta ->> 'symbol' IS NULL

-- explain_run --
-- One run's state, then the columns of the candidacy page, its regime and its workspace.
SELECT run.created_at::text,
       run.run_kind,
       run.status,
       run.dataset_meta ->> 'symbol',
       run.kb_status,
       run.kb_status_changed_by,
       run.kb_status_changed_at::text,
       run.kb_status_reason,
       run.auto_candidate_gate,
       run.kb_status_changed_by IS NOT NULL AND run.kb_status_changed_by <> %(actor)s,
       coalesce(jsonb_typeof(run.summary), 'absent'),
       coalesce(run.trade_count::text,
                (nullif(run.summary -> 'trades', 'null'))::text,
                (run.summary -> 'trade_count')::text),
       (run.summary -> 'max_drawdown_pct')::text,
       (run.summary -> 'sharpe')::text,
       (run.summary -> 'experiment_type')::text,
       coalesce(jsonb_typeof(run.regime_oos) = 'object', false),
       run.regime_oos::text,
       run.workspace_id::text
  FROM backtest_runs AS run
 WHERE run.id = %(run_id)s
   AND run.workspace_id = %(workspace_id)s

-- status_history --
-- The audited changes of one run, newest first.
SELECT history.created_at::text, history.from_status, history.to_status,
       history.actor_type, history.actor_id, history.reason
  FROM kb_status_history AS history
 WHERE history.workspace_id = %(workspace_id)s
   AND history.source_type = 'test_variant'
   AND history.source_id = %(run_id)s
 ORDER BY history.created_at DESC, history.id
