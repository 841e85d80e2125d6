-- workspaces --
-- Active workspaces, by slug.
SELECT id::text, slug, name
  FROM workspaces
 WHERE is_active
 ORDER BY slug

-- find_workspace --
-- One workspace by its slug or its id.
SELECT id::text, slug, name
  FROM workspaces
 WHERE slug = %(name)s
    OR id::text = lower(%(name)s)

-- waiting_symbols --
-- The symbols whose runs wait for a regime, upper-cased, with how many do.
SELECT upper(run.dataset_meta ->> 'symbol') AS symbol, count(*)
  FROM backtest_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.run_kind = 'test_variant'
   AND run.status IN ('completed', 'success')
   AND (run.regime_oos IS NULL OR run.regime_oos = 'null')
   AND run.dataset_meta ->> 'symbol' IS NOT NULL
 GROUP BY 1

-- platform_tables --
-- What the platform's two tables hold of each active workspace: rows and the newest of them.
SELECT workspace.slug, runs.rows, runs.newest, tunes.rows, tunes.newest
  FROM workspaces AS workspace
 CROSS JOIN LATERAL (
       SELECT count(*) AS rows, max(run.created_at)::text AS newest
         FROM backtest_runs AS run
        WHERE run.workspace_id = workspace.id) AS runs
 CROSS JOIN LATERAL (
       SELECT count(*) AS rows, max(tune.created_at)::text AS newest
         FROM backtest_tunes AS tune
        WHERE tune.workspace_id = workspace.id) AS tunes
 WHERE workspace.is_active
 ORDER BY workspace.slug

-- regime_windows --
-- The distinct windows of a symbol that have a regime, newest runs first, each with its tags.
SELECT window_start, window_end, tags
  FROM (SELECT run.regime_oos ->> 'ts_start' AS window_start,
               run.regime_oos ->> 'ts_end' AS window_end,
               (run.regime_oos -> 'regime_tags')::text AS tags,
               max(run.created_at) AS newest
          FROM backtest_runs AS run
         WHERE run.workspace_id = %(workspace_id)s
           AND run.run_kind = 'test_variant'
           AND upper(run.dataset_meta ->> 'symbol') = %(symbol)s
           AND jsonb_typeof(run.regime_oos) = 'object'
           AND run.regime_oos ->> 'ts_start' <> ''
         GROUP BY 1, 2, 3) AS windows
 ORDER BY newest DESC, window_start
 LIMIT %(rows)s

-- due_tunes --
-- Per active workspace the completed tunes that can be attributed now: not attributed since they last
-- completed, and their best trial has a regime. The digest names exactly this work.
SELECT workspace.slug,
       count(*),
       md5(string_agg(concat_ws(' ', due.id, due.completed_at), ',' ORDER BY due.id))
  FROM workspaces AS workspace
  JOIN backtest_tunes AS due
    ON due.workspace_id = workspace.id
   AND due.status = 'completed'
 CROSS JOIN LATERAL (
       SELECT trial.run_id, trial.metrics_oos
         FROM backtest_tune_runs AS trial
        WHERE trial.tune_id = due.id
          AND trial.status = 'completed'
          AND jsonb_typeof(trial.metrics_oos) = 'object'
        ORDER BY nullif(nullif(nullif(
                     coalesce(trial.objective_score, trial.score_oos, kb_finite_number(trial.metrics_oos -> 'sharpe')),
                     'NaN'), 'Infinity'), '-Infinity') DESC NULLS LAST,
                 trial.trial_index, trial.run_id
        LIMIT 1) AS best
  LEFT JOIN backtest_runs AS run
    ON run.id = best.run_id
   AND run.workspace_id = due.workspace_id
 WHERE workspace.is_active
   AND (due.regime_key IS NULL OR due.attributed_completed_at IS DISTINCT FROM due.completed_at)
   AND jsonb_typeof(coalesce(nullif(run.regime_oos, 'null'), best.metrics_oos -> 'regime')) = 'object'
 GROUP BY workspace.slug
 ORDER BY workspace.slug

-- tags_against_key --
-- Attributed tunes whose denormalised tags are not those of their regime key.
SELECT id::text, regime_key, concat_ws('|', coalesce(trend_tag, '_'), coalesce(vol_tag, '_'),
                                       coalesce(efficiency_tag, '_')) AS found
  FROM backtest_tunes
 WHERE regime_key IS NOT NULL
   AND regime_key <> concat_ws('|', regime_schema_version, tag_ruleset_id, coalesce(trend_tag, '_'),
                               coalesce(vol_tag, '_'), coalesce(efficiency_tag, '_'))
 ORDER BY id
 LIMIT %(rows)s

-- fingerprint_against_key --
-- Attributed tunes whose fingerprint is not the SHA-256 of their regime key.
SELECT id::text, regime_key, coalesce(regime_fingerprint, 'none') AS found
  FROM backtest_tunes
 WHERE regime_key IS NOT NULL
   AND regime_fingerprint IS DISTINCT FROM encode(sha256(convert_to(regime_key, 'UTF8')), 'hex')
 ORDER BY id
 LIMIT %(rows)s

-- overwritten_decisions --
-- Runs that a backfill changed although the decision before it was a person's.
SELECT auto.source_id::text, before.actor_id, concat(before.to_status, ' -> ', auto.to_status) AS found
  FROM kb_status_history AS auto
 CROSS JOIN LATERAL (
       SELECT earlier.actor_type, earlier.actor_id, earlier.to_status
         FROM kb_status_history AS earlier
        WHERE earlier.source_type = auto.source_type
          AND earlier.source_id = auto.source_id
          AND earlier.created_at < auto.created_at
        ORDER BY earlier.created_at DESC
        LIMIT 1) AS before
 WHERE auto.actor_type = 'auto'
   AND auto.actor_id = %(actor)s
   AND before.actor_type = 'admin'
 ORDER BY auto.created_at DESC
 LIMIT %(rows)s

-- unbalanced_ledger --
-- Finished backfills whose counts do not add up to the rows they scanned.
SELECT id::text, backfill_type, concat(scanned_count, ' scanned, ', processed_count, ' written, ',
                                       skipped_count, ' left, ', error_count, ' in conflict') AS found
  FROM kb_backfill_runs
 WHERE holder IS NOT NULL
   AND status = 'completed'
   AND scanned_count <> processed_count + skipped_count + error_count
 ORDER BY started_at DESC
 LIMIT %(rows)s
