-- state --
-- The robust scales of a workspace, the snapshots they were computed from, and how many tunes and runs
-- have changed since.
SELECT (SELECT scales FROM kb_regime_scales WHERE workspace_id = %(workspace_id)s),
       (SELECT coalesce(sum(cardinality(ids)), 0)
          FROM kb_regime_changes
         WHERE workspace_id = %(workspace_id)s)

-- try_lock --
-- Become the one session that packs this workspace until the transaction ends, or answer false at once.
SELECT pg_try_advisory_xact_lock(hashtextextended('kb_regime_vectors' || %(workspace_id)s::text, 0))

-- take_changes --
-- Take the oldest noted changes away and return their ids, at least one note.
WITH queued AS (
    SELECT change.id,
           sum(cardinality(change.ids)) OVER (ORDER BY change.id) - cardinality(change.ids) AS before
      FROM kb_regime_changes AS change
     WHERE change.workspace_id = %(workspace_id)s
     ORDER BY change.id
     LIMIT %(most)s
), taken AS (
    DELETE FROM kb_regime_changes AS change
     USING queued
     WHERE change.id = queued.id
       AND change.workspace_id = %(workspace_id)s
       AND queued.before < %(most)s
 RETURNING change.source_type, change.ids
)
SELECT taken.source_type, string_agg(DISTINCT uuid_send(one.id), '')
  FROM taken
 CROSS JOIN LATERAL unnest(taken.ids) AS one (id)
 GROUP BY taken.source_type

-- note_changes --
-- Note tunes or runs whose packed features cannot be right any more.
INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
VALUES (%(workspace_id)s, %(source_type)s, %(ids)s::uuid[])

-- note_everything --
-- Note every attributed tune and every ingested run of a workspace.
INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
SELECT %(workspace_id)s, source.source_type, array_agg(source.id)
  FROM (SELECT 'tune' AS source_type, tune.id
          FROM backtest_tunes AS tune
         WHERE tune.workspace_id = %(workspace_id)s
           AND tune.regime_key IS NOT NULL
         UNION ALL
        SELECT 'run', trial.source_id
          FROM kb_trials AS trial
         WHERE trial.workspace_id = %(workspace_id)s
           AND trial.source_type = 'test_variant'
           AND trial.archived_at IS NULL
           AND trial.regime_key IS NOT NULL) AS source
 GROUP BY source.source_type, get_byte(uuid_send(source.id), 15)

-- delete_workspace --
-- Throw the packed features of a workspace away.
DELETE FROM kb_regime_vectors WHERE workspace_id = %(workspace_id)s

-- features --
-- The regime features of attributed tunes and ingested runs, a row a group, 80 big-endian bytes each:
-- the id and eight float8 in the order of DISTANCE_FEATURES, NaN where a feature is undefined.
SELECT source.source_type,
       source.strategy_id::text,
       source.timeframe,
       source.objective,
       string_agg(uuid_send(source.id)
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'atr_pct'), 'NaN'))
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'std_pct'), 'NaN'))
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'bb_width_pct'), 'NaN'))
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'trend_strength'), 'NaN'))
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'trend_dir'), 'NaN'))
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'zscore'), 'NaN'))
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'rsi'), 'NaN'))
           || float8send(coalesce(kb_finite_number(snapshot.known -> 'efficiency_ratio'), 'NaN')), '')
  FROM (SELECT 'tune' AS source_type, tune.id, tune.strategy_entity_id AS strategy_id,
               kb_named(tune.timeframe) AS timeframe,
               kb_objective(tune.objective_type, tune.objective_metric) AS objective,
               coalesce(nullif(run.regime_oos, 'null'),
                        nullif(trial.metrics_oos -> 'regime', 'null')) AS regime
          FROM backtest_tunes AS tune
          LEFT JOIN backtest_runs AS run
            ON run.id = tune.best_oos_run_id
           AND run.workspace_id = tune.workspace_id
          LEFT JOIN backtest_tune_runs AS trial
            ON trial.tune_id = tune.id
           AND trial.run_id = tune.best_oos_run_id
         WHERE tune.workspace_id = %(workspace_id)s
           AND tune.id = ANY (%(tune_ids)s::uuid[])
           AND tune.regime_key IS NOT NULL
         UNION ALL
        SELECT 'run', trial.source_id, trial.strategy_entity_id,
               kb_named(trial.timeframe),
               kb_named(trial.objective), trial.regime_oos
          FROM kb_trials AS trial
         WHERE trial.workspace_id = %(workspace_id)s
           AND trial.source_type = 'test_variant'
           AND trial.source_id = ANY (%(run_ids)s::uuid[])
           AND trial.archived_at IS NULL
           AND trial.regime_key IS NOT NULL
        OFFSET 0) AS source -- a fence, as the one below: a snapshot is unpacked once
 CROSS JOIN LATERAL (
       SELECT CASE WHEN jsonb_typeof(source.regime) = 'object'
                   THEN source.regime - ARRAY(
                        SELECT jsonb_array_elements_text(
                               CASE WHEN jsonb_typeof(source.regime -> 'undefined_features') = 'array'
                                    THEN source.regime -> 'undefined_features' ELSE '[]' END)) END AS known
       OFFSET 0) AS snapshot
 GROUP BY source.source_type, source.strategy_id, source.timeframe, source.objective

-- read_buckets --
-- The packed rows of some buckets of a workspace.
SELECT strategy_entity_id::text, timeframe, objective, source_type, bucket, ids, features
  FROM kb_regime_vectors
 WHERE workspace_id = %(workspace_id)s
   AND bucket = ANY (%(buckets)s::int2[])

-- replace_buckets --
-- Write packed rows; one without ids is deleted.
MERGE INTO kb_regime_vectors AS known
USING unnest(%(strategy_ids)s::uuid[], %(timeframes)s::text[], %(objectives)s::text[],
             %(source_types)s::text[], %(buckets)s::int2[], %(ids)b::bytea[], %(features)b::bytea[])
      AS made (strategy_id, timeframe, objective, source_type, bucket, ids, features)
   ON known.workspace_id = %(workspace_id)s
  AND known.strategy_entity_id = made.strategy_id
  AND known.timeframe = made.timeframe
  AND known.objective = made.objective
  AND known.source_type = made.source_type
  AND known.bucket = made.bucket
 WHEN MATCHED AND length(made.ids) = 0 THEN DELETE
 WHEN MATCHED THEN UPDATE SET ids = made.ids, features = made.features
 WHEN NOT MATCHED AND length(made.ids) > 0 THEN
      INSERT (workspace_id, strategy_entity_id, timeframe, objective, source_type, bucket, ids, features)
      VALUES (%(workspace_id)s, made.strategy_id, made.timeframe, made.objective, made.source_type,
              made.bucket, made.ids, made.features)

-- all_features --
-- The packed features of a workspace, for its scales.
SELECT features FROM kb_regime_vectors WHERE workspace_id = %(workspace_id)s

-- keep_scales --
-- Keep the robust scales of a workspace.
INSERT INTO kb_regime_scales (workspace_id, scales, snapshots)
VALUES (%(workspace_id)s, %(scales)s::float8[], %(snapshots)s)
    ON CONFLICT (workspace_id) DO UPDATE
   SET scales = excluded.scales, snapshots = excluded.snapshots, computed_at = now()

-- packed --
-- The packed rows of a workspace, or those of one strategy, timeframe and objective.
SELECT source_type, bucket, features, ids
  FROM kb_regime_vectors
 WHERE workspace_id = %(workspace_id)s
   AND (%(strategy_id)s::uuid IS NULL
        OR (strategy_entity_id = %(strategy_id)s::uuid
            AND timeframe = %(timeframe)s
            AND objective = %(objective)s))
