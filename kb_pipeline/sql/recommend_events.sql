-- candidates --
-- The best scored tunes and single runs of a strategy, a timeframe and an objective under some regime
-- keys, best first, without those that are known. Each key is one probe of either index, which ends after
-- the rows asked for. The subselect hides the number of keys from the planner, so that one plan may serve
-- all calls, and only what is given is turned into text.
SELECT best.source_type,
       best.id::text,
       nullif(best.regime_key, ''),
       best.score,
       best.params::text,
       best.run_id::text
  FROM (SELECT found.*
         FROM unnest((SELECT %(regime_keys)s::text[])) AS asked (regime_key)
        CROSS JOIN LATERAL (
              (SELECT 'tune' AS source_type, tune.id, tune.regime_key, tune.best_oos_score AS score,
                      tune.best_oos_params AS params, tune.best_oos_run_id AS run_id
                 FROM backtest_tunes AS tune
                WHERE tune.workspace_id = %(workspace_id)s
                  AND tune.strategy_entity_id = %(strategy_id)s::uuid
                  AND kb_named(tune.timeframe) = %(timeframe)s::text
                  AND kb_objective(tune.objective_type, tune.objective_metric) = %(objective)s::text
                  AND tune.regime_key = asked.regime_key
                  AND tune.best_oos_score > '-Infinity'
                  AND tune.best_oos_score < 'Infinity'
                  AND tune.id <> ALL (%(known_ids)s::uuid[])
                ORDER BY tune.best_oos_score DESC NULLS LAST, tune.id
                LIMIT %(rows)s)
               UNION ALL
              (SELECT 'run', trial.source_id, CASE WHEN trial.regime_key IS NULL THEN '' ELSE trial.regime_key END,
                      trial.sharpe_oos, trial.params, trial.source_id
                 FROM kb_trials AS trial
                WHERE trial.workspace_id = %(workspace_id)s
                  AND trial.strategy_entity_id = %(strategy_id)s::uuid
                  AND kb_named(trial.timeframe) = %(timeframe)s::text
                  AND kb_named(trial.objective) = %(objective)s::text
                  AND CASE WHEN trial.regime_key IS NULL THEN '' ELSE trial.regime_key END = asked.regime_key
                  AND trial.source_type = 'test_variant'
                  AND trial.archived_at IS NULL
                  AND trial.sharpe_oos > '-Infinity'
                  AND trial.sharpe_oos < 'Infinity'
                  AND trial.source_id <> ALL (%(known_ids)s::uuid[])
                ORDER BY trial.sharpe_oos DESC NULLS LAST, trial.source_id
                LIMIT %(rows)s)
              ) AS found
        ORDER BY found.score DESC, found.id
        LIMIT %(rows)s
       ) AS best
 ORDER BY best.score DESC, best.id

-- candidates_by_id --
-- Tunes and single runs by their ids, as they are now, with strategy, timeframe and objective.
SELECT 'tune', tune.id::text, tune.regime_key, tune.best_oos_score, tune.best_oos_params::text,
       tune.best_oos_run_id::text, entity.name, kb_named(tune.timeframe),
       kb_objective(tune.objective_type, tune.objective_metric)
  FROM backtest_tunes AS tune
  LEFT JOIN kb_entities AS entity
    ON entity.id = tune.strategy_entity_id
   AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)
 WHERE tune.workspace_id = %(workspace_id)s
   AND tune.id = ANY (%(ids)s::uuid[])
   AND tune.regime_key IS NOT NULL
 UNION ALL
SELECT 'run', trial.source_id::text, trial.regime_key, trial.sharpe_oos, trial.params::text,
       trial.source_id::text, entity.name, kb_named(trial.timeframe),
       kb_named(trial.objective)
  FROM kb_trials AS trial
  LEFT JOIN kb_entities AS entity
    ON entity.id = trial.strategy_entity_id
   AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)
 WHERE trial.workspace_id = %(workspace_id)s
   AND trial.source_type = 'test_variant'
   AND trial.source_id = ANY (%(ids)s::uuid[])
   AND trial.archived_at IS NULL

-- score_groups --
-- The strategies, timeframes and objectives with candidates in a workspace, or those of one strategy.
-- Each is one step in either index, however many rows it has.
WITH RECURSIVE tunes AS (
    (SELECT tune.strategy_entity_id AS strategy_id, kb_named(tune.timeframe) AS timeframe,
            kb_objective(tune.objective_type, tune.objective_metric) AS objective
       FROM backtest_tunes AS tune
      WHERE tune.workspace_id = %(workspace_id)s
        AND tune.strategy_entity_id >= %(first_strategy_id)s::uuid
        AND tune.regime_key IS NOT NULL
      ORDER BY tune.strategy_entity_id, kb_named(tune.timeframe),
               kb_objective(tune.objective_type, tune.objective_metric)
      LIMIT 1)
    UNION ALL
    SELECT step.*
      FROM tunes AS last
     CROSS JOIN LATERAL (
           SELECT tune.strategy_entity_id, kb_named(tune.timeframe),
                  kb_objective(tune.objective_type, tune.objective_metric)
             FROM backtest_tunes AS tune
            WHERE tune.workspace_id = %(workspace_id)s
              AND (tune.strategy_entity_id, kb_named(tune.timeframe),
                   kb_objective(tune.objective_type, tune.objective_metric))
                  > (last.strategy_id, last.timeframe, last.objective)
              AND tune.regime_key IS NOT NULL
            ORDER BY tune.strategy_entity_id, kb_named(tune.timeframe),
                     kb_objective(tune.objective_type, tune.objective_metric)
            LIMIT 1
           ) AS step
     WHERE last.strategy_id <= %(last_strategy_id)s::uuid
), runs AS (
    (SELECT trial.strategy_entity_id AS strategy_id,
            kb_named(trial.timeframe) AS timeframe,
            kb_named(trial.objective) AS objective
       FROM kb_trials AS trial
      WHERE trial.workspace_id = %(workspace_id)s
        AND trial.strategy_entity_id >= %(first_strategy_id)s::uuid
        AND trial.source_type = 'test_variant'
        AND trial.archived_at IS NULL
      ORDER BY trial.strategy_entity_id, kb_named(trial.timeframe),
               kb_named(trial.objective)
      LIMIT 1)
    UNION ALL
    SELECT step.*
      FROM runs AS last
     CROSS JOIN LATERAL (
           SELECT trial.strategy_entity_id, kb_named(trial.timeframe),
                  kb_named(trial.objective)
             FROM kb_trials AS trial
            WHERE trial.workspace_id = %(workspace_id)s
              AND (trial.strategy_entity_id, kb_named(trial.timeframe),
                   kb_named(trial.objective))
                  > (last.strategy_id, last.timeframe, last.objective)
              AND trial.source_type = 'test_variant'
              AND trial.archived_at IS NULL
            ORDER BY trial.strategy_entity_id, kb_named(trial.timeframe),
                     kb_named(trial.objective)
            LIMIT 1
           ) AS step
     WHERE last.strategy_id <= %(last_strategy_id)s::uuid
)
SELECT strategy_id::text, timeframe, objective
  FROM tunes
 WHERE strategy_id <= %(last_strategy_id)s::uuid
 UNION
SELECT strategy_id::text, timeframe, objective
  FROM runs
 WHERE strategy_id <= %(last_strategy_id)s::uuid
 ORDER BY 1, 2, 3

-- group_keys --
-- The regime keys under which a strategy, a timeframe and an objective have tunes or single runs, of any
-- ruleset, and the empty one for runs without a regime. Each is one step in either index.
WITH RECURSIVE tunes AS (
    (SELECT tune.regime_key
       FROM backtest_tunes AS tune
      WHERE tune.workspace_id = %(workspace_id)s
        AND tune.strategy_entity_id = %(strategy_id)s::uuid
        AND kb_named(tune.timeframe) = %(timeframe)s::text
        AND kb_objective(tune.objective_type, tune.objective_metric) = %(objective)s::text
        AND tune.regime_key IS NOT NULL
      ORDER BY tune.regime_key
      LIMIT 1)
    UNION ALL
    SELECT step.regime_key
      FROM tunes AS last
     CROSS JOIN LATERAL (
           SELECT tune.regime_key
             FROM backtest_tunes AS tune
            WHERE tune.workspace_id = %(workspace_id)s
              AND tune.strategy_entity_id = %(strategy_id)s::uuid
              AND kb_named(tune.timeframe) = %(timeframe)s::text
              AND kb_objective(tune.objective_type, tune.objective_metric) = %(objective)s::text
              AND tune.regime_key > last.regime_key
            ORDER BY tune.regime_key
            LIMIT 1
           ) AS step
), runs AS (
    (SELECT CASE WHEN trial.regime_key IS NULL THEN '' ELSE trial.regime_key END AS regime_key
       FROM kb_trials AS trial
      WHERE trial.workspace_id = %(workspace_id)s
        AND trial.strategy_entity_id = %(strategy_id)s::uuid
        AND kb_named(trial.timeframe) = %(timeframe)s::text
        AND kb_named(trial.objective) = %(objective)s::text
        AND trial.source_type = 'test_variant'
        AND trial.archived_at IS NULL
      ORDER BY CASE WHEN trial.regime_key IS NULL THEN '' ELSE trial.regime_key END
      LIMIT 1)
    UNION ALL
    SELECT step.regime_key
      FROM runs AS last
     CROSS JOIN LATERAL (
           SELECT CASE WHEN trial.regime_key IS NULL THEN '' ELSE trial.regime_key END AS regime_key
             FROM kb_trials AS trial
            WHERE trial.workspace_id = %(workspace_id)s
              AND trial.strategy_entity_id = %(strategy_id)s::uuid
              AND kb_named(trial.timeframe) = %(timeframe)s::text
              AND kb_named(trial.objective) = %(objective)s::text
              AND CASE WHEN trial.regime_key IS NULL THEN '' ELSE trial.regime_key END > last.regime_key
              AND trial.source_type = 'test_variant'
              AND trial.archived_at IS NULL
            ORDER BY CASE WHEN trial.regime_key IS NULL THEN '' ELSE trial.regime_key END
            LIMIT 1
           ) AS step
)
SELECT regime_key FROM tunes
 UNION
SELECT regime_key FROM runs

-- count_candidates --
-- How many scored candidates each of some groups holds, counted up to a limit.
SELECT least(counted.tunes + counted.runs, %(most)s)::bigint
  FROM unnest(%(strategy_ids)s::uuid[], %(timeframes)s::text[], %(objectives)s::text[])
       WITH ORDINALITY AS asked (strategy_id, timeframe, objective, place)
 CROSS JOIN LATERAL (
       SELECT (SELECT count(*)
                 FROM (SELECT
                         FROM backtest_tunes AS tune
                        WHERE tune.workspace_id = %(workspace_id)s
                          AND tune.strategy_entity_id = asked.strategy_id
                          AND kb_named(tune.timeframe) = asked.timeframe
                          AND kb_objective(tune.objective_type, tune.objective_metric) = asked.objective
                          AND tune.regime_key IS NOT NULL
                          AND tune.best_oos_score > '-Infinity'
                          AND tune.best_oos_score < 'Infinity'
                        LIMIT %(most)s) AS scored) AS tunes,
              (SELECT count(*)
                 FROM (SELECT
                         FROM kb_trials AS trial
                        WHERE trial.workspace_id = %(workspace_id)s
                          AND trial.strategy_entity_id = asked.strategy_id
                          AND kb_named(trial.timeframe) = asked.timeframe
                          AND kb_named(trial.objective) = asked.objective
                          AND trial.source_type = 'test_variant'
                          AND trial.archived_at IS NULL
                          AND trial.sharpe_oos > '-Infinity'
                          AND trial.sharpe_oos < 'Infinity'
                        LIMIT %(most)s) AS scored) AS runs
       ) AS counted
 ORDER BY asked.place

-- log_event --
-- Keep what was asked and which tier answered. The commit does not wait for the disk: a log that loses
-- its last entries in a crash of the server is worth less than a quick answer.
INSERT INTO recommend_events
       (workspace_id, strategy_entity_id, query_regime_key, query_trend_tag, query_vol_tag,
        timeframe, objective, tier_used, tiers_attempted, exact_count, partial_trend_vol_count,
        partial_trend_count, partial_vol_count, distance_count, global_count, k, min_samples, candidate_count,
        top_candidate_score, confidence, duration_ms, distance_method, distance_features_version)
SELECT %(workspace_id)s, %(strategy_id)s::uuid, %(regime_key)s, %(trend)s, %(vol)s,
       %(timeframe)s, %(objective)s, %(tier_used)s, %(tiers)s::jsonb, %(exact)s, %(partial_trend_vol)s,
       %(partial_trend)s, %(partial_vol)s, %(distance)s, %(global_best)s, %(k)s, %(min_samples)s,
       %(candidates)s, %(top_score)s, %(confidence)s, %(duration_ms)s,
       %(distance_method)s, %(features_version)s
  FROM set_config('synchronous_commit', 'off', true)

-- tier_usage --
-- How often each tier answered, by day in UTC and strategy, oldest first.
SELECT (event.created_at AT TIME ZONE 'UTC')::date::text,
       entity.name,
       event.tier_used,
       count(*),
       avg(event.candidate_count)::float8,
       avg(event.duration_ms)
  FROM recommend_events AS event
  LEFT JOIN kb_entities AS entity
    ON entity.id = event.strategy_entity_id
   AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)
 WHERE event.workspace_id = %(workspace_id)s
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
