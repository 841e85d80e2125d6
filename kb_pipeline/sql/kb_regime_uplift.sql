-- read_only --
-- All statements of the transaction see the same moment and none may write.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY

-- tune_scores --
-- Every completed tune: strategy, regime where its last completion is attributed, symbol, length of the
-- bars, objective, and what its completed trials scored: hash of the parameters and Sharpe ratio out of
-- sample and in sample, NaN for none, 24 big-endian bytes a trial. Tunes come in the order they were made in,
-- which is the order their trials lie in, whatever attribution has done to the order of the tunes.
SELECT tune.strategy_entity_id::text,
       CASE WHEN tune.attributed_completed_at IS NOT DISTINCT FROM tune.completed_at THEN tune.regime_key END,
       run.dataset_meta ->> 'symbol',
       run.dataset_meta ->> 'timeframe',
       coalesce(tune.objective_type, tune.objective_metric),
       trials.scores
  FROM (SELECT id, workspace_id, strategy_entity_id, regime_key, best_oos_run_id, objective_type, objective_metric,
               completed_at, attributed_completed_at
          FROM backtest_tunes
         WHERE workspace_id = %(workspace_id)s
           AND status = 'completed'
         ORDER BY created_at, id
       ) AS tune
 CROSS JOIN LATERAL (
       SELECT (array_agg(trial.run_id ORDER BY trial.trial_index))[1] AS first_run_id,
              string_agg(int8send(trial.params_hash)
                         || float8send(CASE WHEN abs(trial.sharpe) < 1e300 THEN trial.sharpe ELSE 'NaN' END)
                         || float8send(CASE WHEN abs(trial.sharpe_is) < 1e300 THEN trial.sharpe_is
                                            ELSE 'NaN' END),
                         '') AS scores
         FROM (SELECT found.*, kb_finite_number(found.sharpe_json) AS sharpe,
                      kb_finite_number(found.sharpe_is_json) AS sharpe_is
                 FROM (SELECT run_id, trial_index,
                              jsonb_hash_extended(params, 0) AS params_hash,
                              metrics_oos -> 'sharpe' AS sharpe_json,
                              metrics_is -> 'sharpe' AS sharpe_is_json
                         FROM backtest_tune_runs
                        WHERE tune_id = tune.id
                          AND status = 'completed'
                       OFFSET 0) AS found -- a fence, as the one below: each value is computed once
               OFFSET 0) AS trial
       ) AS trials
  LEFT JOIN backtest_runs AS run
    ON run.id = coalesce(tune.best_oos_run_id, trials.first_run_id)
   AND run.workspace_id = tune.workspace_id

-- clear --
-- Take away what the last computation left.
DELETE FROM kb_regime_uplift
 WHERE workspace_id = %(workspace_id)s

-- land --
-- Write the cells of one computation.
INSERT INTO kb_regime_uplift
       (workspace_id, ledger_id, scope, strategy_entity_id, regime_key, trend_tag, vol_tag, efficiency_tag,
        timeframe, objective, tunes, n, median, low, high, share_positive, same, by_default, thin, symbols,
        clustered_by, few_symbols, over_blind_n, over_blind_median, over_blind_low, over_blind_high, gap_n,
        gap, tiers, unknown)
SELECT %(workspace_id)s, %(ledger_id)s, sent.scope, sent.strategy_entity_id, sent.regime_key, sent.trend_tag,
       sent.vol_tag, sent.efficiency_tag, sent.timeframe, sent.objective, sent.tunes, sent.n, sent.median,
       sent.low, sent.high, sent.share_positive, sent.same, sent.by_default, sent.thin, sent.symbols,
       sent.clustered_by, sent.few_symbols, sent.over_blind_n, sent.over_blind_median, sent.over_blind_low,
       sent.over_blind_high, sent.gap_n, sent.gap, sent.tiers, sent.unknown
  FROM jsonb_populate_recordset(NULL::kb_regime_uplift, %(cells)s::jsonb) AS sent

-- cells --
-- The cells of a workspace by scope, those of most known uplifts first.
SELECT uplift.scope, uplift.strategy_entity_id::text AS strategy_id, strategy.name AS strategy_name,
       uplift.regime_key, uplift.trend_tag, uplift.vol_tag, uplift.efficiency_tag, uplift.timeframe, uplift.objective, uplift.tunes,
       uplift.n, uplift.median, uplift.low, uplift.high,
       uplift.over_blind_n, uplift.over_blind_median, uplift.over_blind_low, uplift.over_blind_high,
       uplift.share_positive, uplift.same, uplift.by_default, uplift.thin, uplift.symbols,
       uplift.clustered_by, uplift.few_symbols, uplift.gap_n, uplift.gap, uplift.tiers, uplift.unknown
  FROM kb_regime_uplift AS uplift
  LEFT JOIN kb_entities AS strategy
    ON strategy.id = uplift.strategy_entity_id
   AND (strategy.workspace_id = %(workspace_id)s OR strategy.workspace_id IS NULL)
 WHERE uplift.workspace_id = %(workspace_id)s
 ORDER BY uplift.scope, uplift.n DESC, coalesce(strategy.name, '') COLLATE "C",
       coalesce(uplift.regime_key, '') COLLATE "C", coalesce(uplift.timeframe, '') COLLATE "C",
       coalesce(uplift.objective, '') COLLATE "C"

-- last_computation --
-- When the cells of a workspace were computed, and what became of every tune read for it.
SELECT completed_at AS computed_at, scanned_count AS scanned, processed_count AS known, counts AS unknown
  FROM kb_backfill_runs
 WHERE workspace_id = %(workspace_id)s
   AND backfill_type = 'uplift'
   AND status = 'completed'
 ORDER BY started_at DESC, id
 LIMIT 1
