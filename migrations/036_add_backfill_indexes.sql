-- The order in which backfills page and queries rank, so that a page costs the same at any depth.
--
-- Building an index locks its table against writes until the migration commits (CREATE INDEX
-- CONCURRENTLY cannot run inside a transaction): about a second per million runs. Where that is too
-- long, create these by hand with CONCURRENTLY and the same names first; they are then left alone.
--
-- depends: 001_create_platform_tables 032_tune_regime_attribution

CREATE INDEX IF NOT EXISTS idx_backtest_runs_backfill_order
    ON backtest_runs (workspace_id, created_at, id)
 WHERE run_kind = 'test_variant' AND status IN ('completed', 'success');

CREATE INDEX IF NOT EXISTS idx_tunes_backfill_order
    ON backtest_tunes (workspace_id, created_at, id)
 WHERE status = 'completed';

CREATE INDEX IF NOT EXISTS idx_tunes_regime_ranking
    ON backtest_tunes (workspace_id, regime_key, best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_tunes_trend_vol_ranking
    ON backtest_tunes (workspace_id, trend_tag, vol_tag, best_oos_score DESC NULLS LAST, id)
 WHERE trend_tag IS NOT NULL;

-- Deleting a run looks for the tunes that name it; without this each deletion reads every tune.
CREATE INDEX IF NOT EXISTS idx_tunes_best_oos_run
    ON backtest_tunes (best_oos_run_id)
 WHERE best_oos_run_id IS NOT NULL;
