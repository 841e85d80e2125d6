-- What became of each tune that was considered for attribution, so that a skipped tune costs nothing.
--
-- A tune is due when it has no row here, when it completed after the completion that was considered,
-- or when its skip reason was a regime that has arrived since.
--
-- depends: 001_create_platform_tables

CREATE TABLE IF NOT EXISTS kb_tune_attribution_state (
    tune_id            uuid PRIMARY KEY REFERENCES backtest_tunes ON DELETE CASCADE,
    workspace_id       uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    tune_completed_at  timestamptz,
    outcome            text NOT NULL,
    attributed_at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS idx_kb_tune_attribution_state_outcome
    ON kb_tune_attribution_state (workspace_id, outcome);

COMMENT ON COLUMN kb_tune_attribution_state.tune_completed_at IS 'completed_at of the tune when it was considered.';
COMMENT ON COLUMN kb_tune_attribution_state.outcome IS '''attributed'' or the skip reason.';
