-- The ranking indexes over expressions that row-level security may evaluate before it has checked a row.
--
-- Under row-level security an index serves a condition only if Postgres knows that evaluating it tells
-- nothing of the row. It knows that of CASE and of the cast to name, which cuts to 63 bytes, more than
-- enough for an index entry; it does not of coalesce() and left(). The second index says the same in other
-- words, so that the planner never takes one for the other.
--
-- depends: 039_extend_recommendations

DROP INDEX IF EXISTS idx_tunes_recommendation, idx_tunes_comparable_ranking, idx_kb_trials_recommendation;

CREATE INDEX IF NOT EXISTS idx_tunes_ranking_in_strategy
    ON backtest_tunes (workspace_id, strategy_entity_id,
                       (CASE WHEN timeframe IS NULL THEN 'unknown' ELSE timeframe END),
                       ((CASE WHEN objective_type IS NULL THEN objective_metric ELSE objective_type END)::name),
                       regime_key, best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_tunes_ranking_in_regime
    ON backtest_tunes (workspace_id, regime_key,
                       ((CASE WHEN timeframe IS NULL THEN 'unknown' ELSE timeframe END)::name),
                       ((CASE WHEN objective_type IS NULL THEN objective_metric ELSE objective_type END)::name::text),
                       best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_kb_trials_ranking_in_strategy
    ON kb_trials (workspace_id, strategy_entity_id,
                  ((CASE WHEN timeframe IS NULL THEN 'unknown' ELSE timeframe END)::name),
                  ((CASE WHEN objective IS NULL THEN 'unknown' ELSE objective END)::name),
                  (CASE WHEN regime_key IS NULL THEN '' ELSE regime_key END),
                  sharpe_oos DESC NULLS LAST, source_id)
 WHERE archived_at IS NULL AND source_type = 'test_variant';
