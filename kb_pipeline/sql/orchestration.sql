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

-- symbol_waits --
-- Whether any run of a symbol waits for a regime, by the index of a symbol's runs.
SELECT EXISTS (SELECT FROM backtest_runs AS run
                WHERE run.workspace_id = %(workspace_id)s
                  AND run.run_kind = 'test_variant'
                  AND run.status IN ('completed', 'success')
                  AND (run.regime_oos IS NULL OR run.regime_oos = 'null')
                  AND kb_run_symbol(run.dataset_meta) = upper(%(symbol)s::text)::name
                  AND upper(run.dataset_meta ->> 'symbol') = upper(%(symbol)s::text))

-- platform_tables --
-- What the platform's two tables hold of a workspace: rows and the newest of them.
SELECT runs.rows, runs.newest, tunes.rows, tunes.newest
  FROM (SELECT count(*) AS rows, max(run.created_at)::text AS newest
          FROM backtest_runs AS run
         WHERE run.workspace_id = %(workspace_id)s) AS runs
 CROSS JOIN (
       SELECT count(*) AS rows, max(tune.created_at)::text AS newest
         FROM backtest_tunes AS tune
        WHERE tune.workspace_id = %(workspace_id)s) AS tunes

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
           AND kb_run_symbol(run.dataset_meta) = %(symbol)s::name -- the index; it cuts long names
           AND upper(run.dataset_meta ->> 'symbol') = %(symbol)s
           AND jsonb_typeof(run.regime_oos) = 'object'
           AND run.regime_oos ->> 'ts_start' <> ''
         GROUP BY 1, 2, 3) AS windows
 ORDER BY newest DESC, window_start
 LIMIT %(rows)s

-- due_tunes --
-- The completed tunes of a workspace that can be attributed now: not attributed since they last
-- completed, and their best trial has a regime; or it has none, and what they were attributed before is
-- to be withdrawn. The digest names exactly this work; ordered by id alone, the planner would rather go
-- through the whole table in the order of its primary key than sort what the index of waiting tunes gives.
SELECT count(*),
       md5(string_agg(concat_ws(' ', due.id, due.completed_at), ',' ORDER BY due.created_at, due.id))
  FROM backtest_tunes AS due
  LEFT JOIN LATERAL (
       SELECT trial.run_id, trial.metrics_oos
         FROM backtest_tune_runs AS trial
        WHERE trial.tune_id = due.id
          AND trial.status = 'completed'
          AND jsonb_typeof(trial.metrics_oos) = 'object'
        ORDER BY nullif(nullif(nullif(
                     coalesce(trial.objective_score, trial.score_oos, kb_finite_number(trial.metrics_oos -> 'sharpe')),
                     'NaN'), 'Infinity'), '-Infinity') DESC NULLS LAST,
                 trial.trial_index, trial.run_id
        LIMIT 1) AS best ON true
  LEFT JOIN backtest_runs AS run
    ON run.id = best.run_id
   AND run.workspace_id = due.workspace_id
 WHERE due.workspace_id = %(workspace_id)s
   AND due.status = 'completed'
   AND (due.regime_key IS NULL OR due.attributed_completed_at IS DISTINCT FROM due.completed_at)
   AND (due.regime_key IS NOT NULL
        OR jsonb_typeof(coalesce(nullif(run.regime_oos, 'null'), best.metrics_oos -> 'regime')) = 'object')
HAVING count(*) > 0

-- commit_without_waiting --
-- From the next session on, commits in this database do not wait for the disk.
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$
