-- best_of_keys --
-- The best scored tunes of each of some timeframes and objectives under each of some regime keys, each
-- of these in order. NaN and infinities are no scores; the bounds stand in the index.
SELECT found.id::text,
       entity.name,
       asked.regime_key,
       kind.timeframe,
       kind.objective,
       found.best_oos_score,
       found.best_oos_params::text,
       found.best_oos_run_id::text,
       found.strategy_entity_id::text
  FROM unnest(%(timeframes)s::text[], %(objectives)s::text[]) AS kind (timeframe, objective)
 CROSS JOIN unnest(%(regime_keys)s::text[]) AS asked (regime_key)
 CROSS JOIN LATERAL (
       SELECT tune.id, tune.best_oos_score, tune.best_oos_params, tune.best_oos_run_id,
              tune.strategy_entity_id
         FROM backtest_tunes AS tune
        WHERE tune.workspace_id = %(workspace_id)s
          AND tune.regime_key = asked.regime_key
          AND kb_named(tune.timeframe)::text = kind.timeframe
          AND kb_objective(tune.objective_type, tune.objective_metric)::text = kind.objective
          AND tune.best_oos_score > '-Infinity'
          AND tune.best_oos_score < 'Infinity'
        ORDER BY tune.best_oos_score DESC NULLS LAST, tune.id
        LIMIT %(rows)s
       ) AS found
  LEFT JOIN kb_entities AS entity
    ON entity.id = found.strategy_entity_id
   AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)

-- prefer_index --
-- For the transaction: read an index, and sort nothing. Right after a backfill the planner would rather read
-- the whole table, which is many times as large and may be other workspaces' for the most part.
SELECT set_config('enable_seqscan', 'off', true),
       set_config('enable_sort', 'off', true)

-- regime_counts --
-- Of each regime key, timeframe and objective of a workspace its attributed tunes, the scored ones and
-- their mean score. What is counted stands in the index. Tunes without an objective_type, whose objective is
-- their objective_metric, are counted once more, and only under the keys that have any.
WITH counted AS (
    SELECT tune.regime_key,
           kb_named(tune.timeframe)::text AS timeframe,
           kb_objective(tune.objective_type, NULL)::text AS objective,
           count(*) AS tunes,
           count(*) FILTER (WHERE tune.best_oos_score > '-Infinity'
                              AND tune.best_oos_score < 'Infinity') AS scored,
           sum(tune.best_oos_score) FILTER (WHERE tune.best_oos_score > '-Infinity'
                                              AND tune.best_oos_score < 'Infinity') AS total_score
      FROM backtest_tunes AS tune
     WHERE tune.workspace_id = %(workspace_id)s
       AND tune.regime_key IS NOT NULL
     GROUP BY 1, 2, 3
), completed AS (
    SELECT * FROM counted WHERE objective IS NOT NULL
     UNION ALL
    SELECT older.regime_key, found.*
      FROM (SELECT DISTINCT regime_key FROM counted WHERE objective IS NULL) AS older
     CROSS JOIN LATERAL (
           SELECT kb_named(tune.timeframe)::text,
                  kb_objective(tune.objective_type, tune.objective_metric)::text,
                  count(*),
                  count(*) FILTER (WHERE tune.best_oos_score > '-Infinity'
                                     AND tune.best_oos_score < 'Infinity'),
                  sum(tune.best_oos_score) FILTER (WHERE tune.best_oos_score > '-Infinity'
                                                     AND tune.best_oos_score < 'Infinity')
             FROM backtest_tunes AS tune
            WHERE tune.workspace_id = %(workspace_id)s
              AND tune.regime_key = older.regime_key
              AND tune.objective_type IS NULL
            GROUP BY 1, 2
           ) AS found
)
SELECT regime_key,
       timeframe,
       objective,
       sum(tunes)::bigint,
       sum(scored)::bigint,
       sum(total_score) / nullif(sum(scored), 0)::float8
  FROM completed
 GROUP BY regime_key, timeframe, objective

-- strategies --
-- The strategies of a workspace by name.
SELECT entity.id::text, entity.name
  FROM kb_entities AS entity
 WHERE entity.workspace_id = %(workspace_id)s
   AND entity.type = 'strategy'
 ORDER BY entity.name, entity.id

-- strategies_named --
-- The strategies of a workspace, or shared by all, with this id or name.
SELECT entity.id::text, entity.name
  FROM kb_entities AS entity
 WHERE (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)
   AND entity.type = 'strategy'
   AND (entity.id = %(id)s::uuid OR lower(entity.name) = lower(%(name)s))
 ORDER BY entity.id

-- asked_run --
-- The regime of a run out of sample (its own, else that of the trial it was) and what it was made with.
SELECT coalesce(nullif(run.regime_oos, 'null'), nullif(trial.metrics_oos -> 'regime', 'null'))::text,
       left(run.dataset_meta ->> 'timeframe', 63)::name::text, -- as it is ranked by
       ARRAY(SELECT other.tune_id::text
               FROM backtest_tune_runs AS other
               JOIN backtest_tunes AS tune
                 ON tune.id = other.tune_id
                AND tune.workspace_id = run.workspace_id
              WHERE other.run_id = run.id)
  FROM backtest_runs AS run
  LEFT JOIN LATERAL (
       SELECT one.metrics_oos
         FROM backtest_tune_runs AS one
         JOIN backtest_tunes AS tune
           ON tune.id = one.tune_id
          AND tune.workspace_id = run.workspace_id
        WHERE one.run_id = run.id
        ORDER BY one.tune_id
        LIMIT 1
       ) AS trial ON true
 WHERE run.workspace_id = %(workspace_id)s
   AND run.id = %(run_id)s
