-- workspace --
-- Name and slug of a workspace, the database's clock, and how far its tunes have come.
SELECT workspace.name,
       workspace.slug,
       now(),
       (SELECT count(*) FROM backtest_tunes AS tune
         WHERE tune.workspace_id = workspace.id AND tune.status = 'completed'),
       (SELECT count(*) FROM backtest_tunes AS tune
         WHERE tune.workspace_id = workspace.id AND tune.regime_key IS NOT NULL),
       EXISTS (SELECT FROM kb_trials AS trial WHERE trial.workspace_id = workspace.id)
  FROM workspaces AS workspace
 WHERE workspace.id = %(workspace_id)s

-- tune_groups --
-- Attributed tunes by strategy, bar length, objective and regime: how many, how many with a score, their
-- mean score, and the best of them.
WITH grouped AS (
    SELECT tune.strategy_entity_id, coalesce(tune.timeframe, 'unknown') AS timeframe,
           coalesce(tune.objective_type, tune.objective_metric) AS objective, tune.regime_key,
           count(*) AS tunes,
           count(*) FILTER (WHERE tune.best_oos_score > '-Infinity'
                              AND tune.best_oos_score < 'Infinity') AS scored,
           avg(tune.best_oos_score) FILTER (WHERE tune.best_oos_score > '-Infinity'
                                              AND tune.best_oos_score < 'Infinity') AS mean_score
      FROM backtest_tunes AS tune
     WHERE tune.workspace_id = %(workspace_id)s
       AND tune.regime_key IS NOT NULL
     GROUP BY 1, 2, 3, 4
)
SELECT grouped.strategy_entity_id::text,
       coalesce(entity.name, grouped.strategy_entity_id::text),
       grouped.timeframe,
       grouped.objective,
       grouped.regime_key,
       grouped.tunes,
       grouped.scored,
       grouped.mean_score,
       best.score,
       left(best.params, 400),
       best.tune_id::text,
       best.run_id::text
  FROM grouped
  LEFT JOIN LATERAL (
       SELECT tune.id AS tune_id, tune.best_oos_score AS score, tune.best_oos_params::text AS params,
              tune.best_oos_run_id AS run_id
         FROM backtest_tunes AS tune
        WHERE tune.workspace_id = %(workspace_id)s
          AND tune.strategy_entity_id = grouped.strategy_entity_id
          AND kb_named(tune.timeframe) = kb_named(grouped.timeframe)::text
          AND coalesce(tune.objective_type, tune.objective_metric) = grouped.objective
          AND tune.regime_key = grouped.regime_key
          AND tune.best_oos_score > '-Infinity'
          AND tune.best_oos_score < 'Infinity'
        ORDER BY tune.best_oos_score DESC NULLS LAST, tune.id
        LIMIT 1
       ) AS best ON true
  LEFT JOIN kb_entities AS entity
    ON entity.id = grouped.strategy_entity_id
   AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)
 ORDER BY grouped.tunes DESC, grouped.regime_key COLLATE "C", 2, 3, 4

-- sightings --
-- Where each regime was met by a trial: symbol and window, and the strategies tuned there. Of each
-- regime and bar length those of fewest strategies, newest windows first.
SELECT regime_key, timeframe, symbol, window_start, window_end, tuned_by
  FROM (SELECT met.*,
               row_number() OVER (PARTITION BY regime_key, timeframe
                                  ORDER BY cardinality(tuned_by), window_end DESC, symbol) AS place
          FROM (SELECT trial.regime_key,
                       coalesce(trial.timeframe, 'unknown') AS timeframe,
                       trial.symbol,
                       left(trial.regime_oos ->> 'ts_start', 10) AS window_start,
                       left(trial.regime_oos ->> 'ts_end', 10) AS window_end,
                       coalesce(array_agg(DISTINCT trial.strategy_entity_id::text)
                                FILTER (WHERE trial.source_type = 'tune_run'), '{}') AS tuned_by
                  FROM kb_trials AS trial
                 WHERE trial.workspace_id = %(workspace_id)s
                   AND trial.archived_at IS NULL
                   AND trial.regime_key IS NOT NULL
                   AND trial.symbol IS NOT NULL
                   AND trial.regime_oos ->> 'ts_start' IS NOT NULL
                   AND trial.regime_oos ->> 'ts_end' IS NOT NULL
                 GROUP BY 1, 2, 3, 4, 5
               ) AS met
       ) AS ranked
 WHERE place <= %(windows)s
 ORDER BY regime_key, timeframe, place

-- asked_regimes --
-- How often a recommendation was asked for each strategy and regime.
SELECT event.strategy_entity_id::text, event.query_regime_key, count(*)
  FROM recommend_events AS event
 WHERE event.workspace_id = %(workspace_id)s
   AND event.query_regime_key IS NOT NULL
 GROUP BY 1, 2

-- sample_gaps --
-- By strategy and bar length: tunes whose trials have Sharpe ratios both in sample and out of sample, and
-- what the trial that was best in sample scored, as medians.
SELECT strategy_name, timeframe, count(*),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY sharpe_is),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY sharpe_oos),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY sharpe_is - sharpe_oos),
       avg((sharpe_oos < sharpe_is)::integer)::float8
  FROM (SELECT DISTINCT ON (trial.tune_id)
               coalesce(trial.strategy_name, trial.strategy_entity_id::text) AS strategy_name,
               coalesce(trial.timeframe, 'unknown') AS timeframe, trial.sharpe_is, trial.sharpe_oos
          FROM kb_trials AS trial
         WHERE trial.workspace_id = %(workspace_id)s
           AND trial.source_type = 'tune_run'
           AND trial.archived_at IS NULL
           AND abs(trial.sharpe_is) < 1e300
           AND abs(trial.sharpe_oos) < 1e300
         ORDER BY trial.tune_id, trial.sharpe_is DESC, trial.source_id
       ) AS winner
 GROUP BY 1, 2
 ORDER BY 3 DESC, 1, 2

-- sample_pairs --
-- The newest tunes with Sharpe ratios both in sample and out of sample: those of the trial that was best
-- in sample.
SELECT tune.id::text, coalesce(winner.strategy_name, tune.strategy_entity_id::text),
       coalesce(winner.timeframe, 'unknown'), winner.symbol, winner.source_id::text,
       winner.sharpe_is, winner.sharpe_oos
  FROM backtest_tunes AS tune
 CROSS JOIN LATERAL (
       SELECT trial.strategy_name, trial.timeframe, trial.symbol, trial.source_id, trial.sharpe_is,
              trial.sharpe_oos
         FROM backtest_tune_runs AS source
         JOIN kb_trials AS trial
           ON trial.workspace_id = %(workspace_id)s
          AND trial.source_type = 'tune_run'
          AND trial.source_id = source.run_id
        WHERE source.tune_id = tune.id
          AND trial.tune_id = tune.id
          AND trial.archived_at IS NULL
          AND abs(trial.sharpe_is) < 1e300
          AND abs(trial.sharpe_oos) < 1e300
        ORDER BY trial.sharpe_is DESC, trial.source_id
        LIMIT 1
       ) AS winner
 WHERE tune.workspace_id = %(workspace_id)s
   AND tune.status = 'completed'
 ORDER BY tune.created_at DESC, tune.id
 LIMIT %(rows)s
