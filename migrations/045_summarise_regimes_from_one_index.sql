-- One index for what worked in a regime: the best tunes of a key in order, and the summary of all keys
-- without a look at the tunes themselves.
--
-- Postgres reads an index alone only where the plain columns stand in it, which is what INCLUDE is for.
-- objective_metric is not among them, because anybody may write it at any length; it counts only where a
-- tune has no objective_type.
--
-- Building an index locks its table against writes until the migration commits, a few seconds per million
-- attributed tunes.
--
-- depends: 041_rank_by_leakproof_expressions

DO $ranking$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_index
                    WHERE indexrelid = to_regclass('idx_tunes_ranking_in_regime') AND indnatts > indnkeyatts) THEN
        DROP INDEX IF EXISTS idx_tunes_ranking_in_regime;
        CREATE INDEX idx_tunes_ranking_in_regime
            ON backtest_tunes (workspace_id, regime_key, (kb_named(timeframe)::text),
                               (kb_objective(objective_type, objective_metric)::text),
                               best_oos_score DESC NULLS LAST, id)
       INCLUDE (timeframe, objective_type)
         WHERE regime_key IS NOT NULL;
    END IF;
END
$ranking$;
