-- The regime each completed tune's best trial was scored in, and that trial's score and parameters.
--
-- Applies on its own to a platform database at 031, also by hand with psql, and any number of times.
-- best_oos_run_id gives way when its run is deleted; without an action it would forbid the deletion.
-- Building the indexes locks backtest_tunes against writes for their duration, which is short: the
-- columns are new and every index leaves out NULLs.

ALTER TABLE backtest_tunes
    ADD COLUMN IF NOT EXISTS regime_schema_version text,
    ADD COLUMN IF NOT EXISTS tag_ruleset_id text,
    ADD COLUMN IF NOT EXISTS regime_key text,
    ADD COLUMN IF NOT EXISTS regime_fingerprint text,
    ADD COLUMN IF NOT EXISTS trend_tag text,
    ADD COLUMN IF NOT EXISTS vol_tag text,
    ADD COLUMN IF NOT EXISTS efficiency_tag text,
    ADD COLUMN IF NOT EXISTS best_oos_score double precision,
    ADD COLUMN IF NOT EXISTS best_oos_params jsonb,
    ADD COLUMN IF NOT EXISTS best_oos_run_id uuid REFERENCES backtest_runs (id) ON DELETE SET NULL,
    ADD COLUMN IF NOT EXISTS baseline_oos_score double precision;

CREATE INDEX IF NOT EXISTS idx_tunes_best_oos_score
    ON backtest_tunes (best_oos_score DESC NULLS LAST)
 WHERE best_oos_score IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_tunes_regime_key
    ON backtest_tunes (regime_key)
 WHERE regime_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_tunes_trend_vol
    ON backtest_tunes (trend_tag, vol_tag)
 WHERE trend_tag IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_tunes_workspace_regime
    ON backtest_tunes (workspace_id, regime_key)
 WHERE regime_key IS NOT NULL;
