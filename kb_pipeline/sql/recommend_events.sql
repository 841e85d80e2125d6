-- walk_tiers --
-- The strategies with an id or a name, and where that is one: its best tunes and single runs of a timeframe and
-- an objective, tier by tier until enough are found. A strategy is a row of tier 0, a tier that has none a row
-- of nulls. A tier is regime keys with commas between, each one probe of either index, which ends after the rows
-- asked for. What the question is about is given and does not count. The subselects hide from the planner how
-- many tiers there are, so that one plan may serve all calls; only what is given is turned into text.
WITH RECURSIVE named AS (
    SELECT id, name
      FROM kb_entities
     WHERE (workspace_id = %(workspace_id)s OR workspace_id IS NULL)
       AND type = 'strategy'
       AND (id = %(strategy_id)s::uuid OR lower(name) = lower(%(name)s::text))
     ORDER BY id
), walk (tier, found, taken, kinds, ids, keys, scores, params, runs) AS (
    SELECT 0::bigint, 0, NULL::uuid[], NULL::text[], NULL::uuid[], NULL::text[],
           NULL::float8[], NULL::text[], NULL::uuid[]
    UNION ALL
    SELECT tier.place, walk.found + cardinality(step.taken), step.*
      FROM walk
      JOIN unnest((SELECT %(keys)s::text[]), (SELECT %(most)s::int[]), (SELECT %(rows)s::int[])) WITH ORDINALITY
           AS tier (keys, most, rows, place)
        ON tier.place = walk.tier + 1
     CROSS JOIN LATERAL (
           SELECT coalesce((array_agg(id) FILTER (WHERE id <> ALL (%(itself)s::uuid[])))[:tier.most], '{}') AS taken,
                  array_agg(kind), array_agg(id), array_agg(nullif(regime_key, '')), array_agg(score),
                  array_agg(params::text), array_agg(run_id)
             FROM (SELECT best.*
                     FROM unnest(string_to_array(tier.keys, ',')) AS asked (regime_key)
                    CROSS JOIN LATERAL (
                          (SELECT 'tune' AS kind, id, regime_key::text, best_oos_score AS score,
                                  best_oos_params AS params, best_oos_run_id AS run_id
                             FROM backtest_tunes
                            WHERE workspace_id = %(workspace_id)s
                              AND strategy_entity_id = (SELECT min(id::text)::uuid FROM named HAVING count(*) = 1)
                              AND kb_named(timeframe) = %(timeframe)s::text
                              AND kb_objective(objective_type, objective_metric) = %(objective)s::text
                              AND regime_key = asked.regime_key
                              AND best_oos_score > '-Infinity'
                              AND best_oos_score < 'Infinity'
                            ORDER BY best_oos_score DESC NULLS LAST, id
                            LIMIT tier.rows)
                           UNION ALL
                          (SELECT 'run', source_id, asked.regime_key, sharpe_oos, params, source_id
                             FROM kb_trials
                            WHERE workspace_id = %(workspace_id)s
                              AND strategy_entity_id = (SELECT min(id::text)::uuid FROM named HAVING count(*) = 1)
                              AND kb_named(timeframe) = %(timeframe)s::text
                              AND kb_named(objective) = %(objective)s::text
                              AND CASE WHEN regime_key IS NULL THEN '' ELSE regime_key END = asked.regime_key
                              AND source_type = 'test_variant'
                              AND archived_at IS NULL
                              AND sharpe_oos > '-Infinity'
                              AND sharpe_oos < 'Infinity'
                            ORDER BY sharpe_oos DESC NULLS LAST, source_id
                            LIMIT tier.rows)) AS best
                    ORDER BY best.score DESC, best.id
                    LIMIT tier.rows) AS best) AS step
     WHERE walk.found < %(needed)s
)
SELECT 0, 'strategy', id::text, name, NULL, NULL, NULL FROM named
 UNION ALL
SELECT walk.tier, source.kind, source.id::text, source.key, source.score, source.params, source.run::text
  FROM walk
  LEFT JOIN LATERAL unnest(walk.kinds, walk.ids, walk.keys, walk.scores, walk.params, walk.runs)
            AS source (kind, id, key, score, params, run)
    ON true
 WHERE walk.tier > 0

-- best_of_any --
-- The best tunes and single runs of a strategy, a timeframe and an objective of any regime, best first, without
-- those that are known. The regime keys there are, of any ruleset and '' for runs without a regime, are each one
-- step in either index, and then one probe.
WITH RECURSIVE tune_keys AS (
    (SELECT regime_key
       FROM backtest_tunes
      WHERE workspace_id = %(workspace_id)s
        AND strategy_entity_id = %(strategy_id)s::uuid
        AND kb_named(timeframe) = %(timeframe)s::text
        AND kb_objective(objective_type, objective_metric) = %(objective)s::text
        AND regime_key IS NOT NULL
      ORDER BY 1
      LIMIT 1)
    UNION ALL
    SELECT step.*
      FROM tune_keys AS last
     CROSS JOIN LATERAL (
           SELECT regime_key
             FROM backtest_tunes
            WHERE workspace_id = %(workspace_id)s
              AND strategy_entity_id = %(strategy_id)s::uuid
              AND kb_named(timeframe) = %(timeframe)s::text
              AND kb_objective(objective_type, objective_metric) = %(objective)s::text
              AND regime_key > last.regime_key
            ORDER BY 1
            LIMIT 1) AS step
), run_keys AS (
    (SELECT CASE WHEN regime_key IS NULL THEN '' ELSE regime_key END AS regime_key
       FROM kb_trials
      WHERE workspace_id = %(workspace_id)s
        AND strategy_entity_id = %(strategy_id)s::uuid
        AND kb_named(timeframe) = %(timeframe)s::text
        AND kb_named(objective) = %(objective)s::text
        AND source_type = 'test_variant'
        AND archived_at IS NULL
      ORDER BY 1
      LIMIT 1)
    UNION ALL
    SELECT step.*
      FROM run_keys AS last
     CROSS JOIN LATERAL (
           SELECT CASE WHEN regime_key IS NULL THEN '' ELSE regime_key END
             FROM kb_trials
            WHERE workspace_id = %(workspace_id)s
              AND strategy_entity_id = %(strategy_id)s::uuid
              AND kb_named(timeframe) = %(timeframe)s::text
              AND kb_named(objective) = %(objective)s::text
              AND CASE WHEN regime_key IS NULL THEN '' ELSE regime_key END > last.regime_key
              AND source_type = 'test_variant'
              AND archived_at IS NULL
            ORDER BY 1
            LIMIT 1) AS step
)
SELECT best.kind, best.id::text, nullif(best.regime_key, ''), best.score, best.params::text, best.run_id::text
  FROM (SELECT found.*
          FROM tune_keys AS asked
         CROSS JOIN LATERAL (
               SELECT 'tune' AS kind, id, regime_key::text, best_oos_score AS score,
                      best_oos_params AS params, best_oos_run_id AS run_id
                 FROM backtest_tunes
                WHERE workspace_id = %(workspace_id)s
                  AND strategy_entity_id = %(strategy_id)s::uuid
                  AND kb_named(timeframe) = %(timeframe)s::text
                  AND kb_objective(objective_type, objective_metric) = %(objective)s::text
                  AND regime_key = asked.regime_key
                  AND best_oos_score > '-Infinity'
                  AND best_oos_score < 'Infinity'
                  AND id <> ALL (%(known_ids)s::uuid[])
                ORDER BY best_oos_score DESC NULLS LAST, id
                LIMIT %(rows)s) AS found
         UNION ALL
        SELECT found.*
          FROM run_keys AS asked
         CROSS JOIN LATERAL (
               SELECT 'run', source_id, asked.regime_key, sharpe_oos, params, source_id
                 FROM kb_trials
                WHERE workspace_id = %(workspace_id)s
                  AND strategy_entity_id = %(strategy_id)s::uuid
                  AND kb_named(timeframe) = %(timeframe)s::text
                  AND kb_named(objective) = %(objective)s::text
                  AND CASE WHEN regime_key IS NULL THEN '' ELSE regime_key END = asked.regime_key
                  AND source_type = 'test_variant'
                  AND archived_at IS NULL
                  AND sharpe_oos > '-Infinity'
                  AND sharpe_oos < 'Infinity'
                  AND source_id <> ALL (%(known_ids)s::uuid[])
                ORDER BY sharpe_oos DESC NULLS LAST, source_id
                LIMIT %(rows)s) AS found
         ORDER BY score DESC, id
         LIMIT %(rows)s) AS best
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
