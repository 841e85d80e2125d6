-- A cheaper entry in the index that ranks tunes of one timeframe and objective.
--
-- Attribution writes the entry anew for every tune, and building an array for it took longer than
-- joining two texts. The line break stands in neither a timeframe nor an objective; where somebody wrote
-- one there all the same, those who read the index compare both texts too.
--
-- depends: 039_extend_recommendations

-- One text, so that the planner never takes it for the index that alone begins with a strategy.
CREATE INDEX IF NOT EXISTS idx_tunes_kind_ranking
    ON backtest_tunes (workspace_id, regime_key,
                       (coalesce(timeframe, 'unknown') || E'\n' || left(coalesce(objective_type, objective_metric), 50)),
                       best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

DROP INDEX IF EXISTS idx_tunes_comparable_ranking;
