-- Which completion of a tune its attribution belongs to, so that a tune that completes again is found.
--
-- A tune waits for attribution while it has no regime key, or while the completion that was attributed
-- is not its last one. The partial index holds just these: what is attributed has left it, and a look
-- for new work costs one probe however many tunes there are.
--
-- depends: 001_create_platform_tables 032_tune_regime_attribution

ALTER TABLE backtest_tunes ADD COLUMN IF NOT EXISTS attributed_completed_at timestamptz;

COMMENT ON COLUMN backtest_tunes.attributed_completed_at IS 'completed_at of the completion that was attributed.';

CREATE INDEX IF NOT EXISTS idx_tunes_waiting_for_attribution
    ON backtest_tunes (workspace_id, created_at, id)
 WHERE status = 'completed'
   AND (regime_key IS NULL OR attributed_completed_at IS DISTINCT FROM completed_at);
