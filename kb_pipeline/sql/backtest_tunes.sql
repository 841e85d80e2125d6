-- read_attribution_page --
-- Completed tunes that wait for attribution, in (created_at, id) order after a position: never
-- attributed, skipped so far, or completed again. Of each its best trial, that trial's snapshot
-- (the run's own, else the one in metrics_oos), and what every trial scored, for the baseline: the
-- hashes of their parameters and their Sharpe ratios, NaN for none, in the binary form of arrays.
SELECT tune.id::text,
       tune.created_at::text,
       tune.xmin::text,
       tune.completed_at::text,
       tune.strategy_entity_id::text,
       trials.completed,
       best.run_id::text,
       best.params::text,
       kb_finite_number(best.metrics_oos -> 'sharpe'),
       jsonb_typeof(snapshot.regime),
       (snapshot.regime -> 'schema_version')::text,
       (snapshot.regime -> 'regime_tags')::text,
       left(coalesce(run.dataset_meta ->> 'timeframe', snapshot.regime ->> 'timeframe'), 32), -- it is indexed
       tune.regime_key IS NOT NULL,
       array_send(trials.params_hashes),
       array_send(trials.sharpes)
  FROM backtest_tunes AS tune
 CROSS JOIN LATERAL (
       SELECT count(*) AS completed,
              (array_agg(trial.place ORDER BY trial.score DESC NULLS LAST, trial.trial_index, trial.run_id)
                  FILTER (WHERE trial.has_metrics))[1] AS best_place,
              array_agg(trial.params_hash) AS params_hashes,
              array_agg(CASE WHEN abs(trial.sharpe) < 1e300 THEN trial.sharpe ELSE 'NaN' END) AS sharpes
         FROM (SELECT found.*, kb_finite_number(found.sharpe_json) AS sharpe,
                      nullif(nullif(nullif(
                          coalesce(found.objective_score, found.score_oos, kb_finite_number(found.sharpe_json)),
                          'NaN'), 'Infinity'), '-Infinity') AS score
                 FROM (SELECT ctid AS place, run_id, trial_index, objective_score, score_oos,
                              jsonb_typeof(metrics_oos) = 'object' AS has_metrics,
                              jsonb_hash_extended(params, 0) AS params_hash,
                              metrics_oos -> 'sharpe' AS sharpe_json
                         FROM backtest_tune_runs
                        WHERE tune_id = tune.id
                          AND status = 'completed'
                       OFFSET 0) AS found -- a fence, as the one below: each value is computed once
               OFFSET 0) AS trial
       ) AS trials
  LEFT JOIN backtest_tune_runs AS best
    ON best.ctid = trials.best_place
  LEFT JOIN backtest_runs AS run
    ON run.id = best.run_id
   AND run.workspace_id = tune.workspace_id
 CROSS JOIN LATERAL (
       SELECT coalesce(nullif(run.regime_oos, 'null'), nullif(best.metrics_oos -> 'regime', 'null')) AS regime
       ) AS snapshot
 WHERE tune.workspace_id = %(workspace_id)s
   AND tune.status = 'completed'
   AND (tune.regime_key IS NULL OR tune.attributed_completed_at IS DISTINCT FROM tune.completed_at)
   AND tune.created_at >= %(since)s::timestamptz
   AND (tune.created_at, tune.id) > (%(after_created_at)s::timestamptz, %(after_id)s::uuid)
   AND (tune.created_at, tune.id) <= (%(until_created_at)s::timestamptz, %(until_id)s::uuid)
 ORDER BY tune.created_at, tune.id
 LIMIT %(rows)s

-- attribution_bounds --
-- Every so-manieth of the tunes that wait for attribution, in the order of their pages.
SELECT numbered.created_at::text, numbered.id::text
  FROM (SELECT tune.created_at, tune.id, row_number() OVER (ORDER BY tune.created_at, tune.id) AS place
          FROM backtest_tunes AS tune
         WHERE tune.workspace_id = %(workspace_id)s
           AND tune.status = 'completed'
           AND (tune.regime_key IS NULL OR tune.attributed_completed_at IS DISTINCT FROM tune.completed_at)
           AND tune.created_at >= %(since)s::timestamptz) AS numbered
 WHERE numbered.place %% %(rows)s = 0
 ORDER BY numbered.place

-- land_attributions --
-- Write the regime a tune was won in, its best score and its baseline, and remember the completion
-- they belong to; note what changed for those who compare regimes. The version token on the target
-- keeps a tune that completes again for later.
WITH landed AS (
    UPDATE backtest_tunes AS tune
       SET regime_schema_version = (%(schema_versions)b::text[])[read.regime],
           tag_ruleset_id = %(ruleset_id)s,
           regime_key = (%(regime_keys)b::text[])[read.regime],
           regime_fingerprint = (%(fingerprints)b::text[])[read.regime],
           trend_tag = (%(trend_tags)b::text[])[read.regime],
           vol_tag = (%(vol_tags)b::text[])[read.regime],
           efficiency_tag = (%(efficiency_tags)b::text[])[read.regime],
           best_oos_score = read.best_score,
           best_oos_params = read.params::jsonb,
           best_oos_run_id = read.run_id,
           baseline_oos_score = read.baseline_score,
           timeframe = read.timeframe,
           attributed_completed_at = tune.completed_at
      FROM unnest(%(ids)b::text[]::uuid[], %(versions)b::text[]::xid[], %(regimes)b::int8[],
                  %(best_scores)b::float8[], %(params)b::text[], %(run_ids)b::text[]::uuid[],
                  %(baseline_scores)b::float8[], %(timeframes)b::text[])
           AS read (id, version, regime, best_score, params, run_id, baseline_score, timeframe)
     WHERE tune.id = read.id
       AND tune.workspace_id = %(workspace_id)s
       AND tune.xmin = read.version
       AND tune.status = 'completed'
    RETURNING tune.id
), noted AS (
    INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
    SELECT %(workspace_id)s, 'tune', array_agg(landed.id) FROM landed HAVING count(*) > 0
)
SELECT landed.id::text FROM landed

-- withdraw_attributions --
-- Take back the attribution of tunes that completed again and have none this time; note that for those who
-- compare regimes. As above, the version token leaves a tune alone that changed meanwhile.
WITH withdrawn AS (
    UPDATE backtest_tunes AS tune
       SET regime_schema_version = NULL,
           tag_ruleset_id = NULL,
           regime_key = NULL,
           regime_fingerprint = NULL,
           trend_tag = NULL,
           vol_tag = NULL,
           efficiency_tag = NULL,
           best_oos_score = NULL,
           best_oos_params = NULL,
           best_oos_run_id = NULL,
           baseline_oos_score = NULL,
           timeframe = NULL,
           attributed_completed_at = NULL
      FROM unnest(%(ids)s::text[]::uuid[], %(versions)s::text[]::xid[]) AS read (id, version)
     WHERE tune.workspace_id = %(workspace_id)s
       AND tune.id = read.id
       AND read.version = tune.xmin
       AND tune.status = 'completed'
    RETURNING tune.id
), noted AS (
    INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
    SELECT %(workspace_id)s, 'tune', array_agg(withdrawn.id) FROM withdrawn HAVING count(*) > 0
)
SELECT count(*) FROM withdrawn

-- declared_defaults --
-- The hash of strategies' declared default parameters: spec_json.default_params, else the defaults
-- of its compiled parameter schema where every parameter has one.
SELECT declared.strategy_id::text, jsonb_hash_extended(declared.params, 0)
  FROM (SELECT spec.strategy_entity_id AS strategy_id,
               CASE
                 WHEN jsonb_typeof(spec.spec_json -> 'default_params') = 'object'
                 THEN spec.spec_json -> 'default_params'
                 WHEN jsonb_typeof(spec.compiled_param_schema -> 'properties') = 'object'
                 THEN (SELECT CASE WHEN bool_and(property.value ? 'default')
                                   THEN jsonb_object_agg(property.key, property.value -> 'default') END
                         FROM jsonb_each(spec.compiled_param_schema -> 'properties') AS property
                        WHERE jsonb_typeof(property.value) = 'object')
               END AS params
          FROM kb_strategy_specs AS spec
         WHERE spec.workspace_id = %(workspace_id)s
           AND spec.strategy_entity_id = ANY (%(strategy_ids)s::uuid[])) AS declared
 WHERE declared.params IS NOT NULL

-- scored_trials --
-- What every trial of half of the completed tunes of some strategies scored, a row a tune: the first 8
-- bytes of its id, and in the binary form of arrays the hashes of its parameters and their out-of-sample
-- Sharpe ratios, NaN for none. Tunes come in the order they were made in, which is the order their trials
-- lie in. Two halves, because the planner does not run a lateral subquery in parallel.
SELECT tune.strategy_id,
       tune.id_start,
       array_send(trials.params_hashes),
       array_send(trials.sharpes)
  FROM (SELECT id, strategy_entity_id::text AS strategy_id, substr(uuid_send(id), 1, 8) AS id_start
          FROM backtest_tunes
         WHERE workspace_id = %(workspace_id)s
           AND strategy_entity_id = ANY (%(strategy_ids)s::uuid[])
           AND status = 'completed'
           AND uuid_hash_extended(id, 0) & 1 = %(half)s
         ORDER BY created_at, id
       ) AS tune
 CROSS JOIN LATERAL (
       SELECT array_agg(trial.params_hash) AS params_hashes,
              array_agg(CASE WHEN abs(trial.sharpe) < 1e300 THEN trial.sharpe ELSE 'NaN' END) AS sharpes
         FROM (SELECT found.params_hash, kb_finite_number(found.sharpe_json) AS sharpe
                 FROM (SELECT jsonb_hash_extended(params, 0) AS params_hash,
                              metrics_oos -> 'sharpe' AS sharpe_json
                         FROM backtest_tune_runs
                        WHERE tune_id = tune.id
                          AND status = 'completed'
                       OFFSET 0) AS found -- a fence, as the one below: each value is computed once
               OFFSET 0) AS trial
       ) AS trials
