-- Drift: what each look at the newest bars found, and the times a market left its training regimes.
--
-- A series is a strategy on a symbol with bars of one length. One evaluation is kept for each newest bar,
-- so that looking twice at the same bars counts once; at most one event of a series is open at a time.
-- Times called `_bar` are those of bars, the others are of the clock. NULL is unknown, never zero.
--
-- depends: 001_create_platform_tables

CREATE TABLE IF NOT EXISTS kb_drift_evaluations (
    workspace_id        uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    strategy_entity_id  uuid NOT NULL REFERENCES kb_entities ON DELETE CASCADE,
    symbol              text NOT NULL,
    timeframe           text NOT NULL,
    newest_bar          timestamptz NOT NULL,
    evaluated_at        timestamptz NOT NULL DEFAULT now(),
    reason              text NOT NULL,
    is_alarm            boolean NOT NULL,
    departed            boolean NOT NULL,
    regime_key          text NOT NULL,
    training_keys       text[] NOT NULL,
    key_share           double precision,
    distance            double precision,
    distance_limit      double precision,
    null_percentile     double precision,
    moved               jsonb NOT NULL,
    training_snapshots  integer NOT NULL,
    seed                bigint NOT NULL,
    PRIMARY KEY (workspace_id, strategy_entity_id, symbol, timeframe, newest_bar)
);

COMMENT ON COLUMN kb_drift_evaluations.departed IS
    'The key is one that the training windows do not have; three in a row are an alarm.';

CREATE TABLE IF NOT EXISTS kb_drift_events (
    id                  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id        uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    strategy_entity_id  uuid NOT NULL REFERENCES kb_entities ON DELETE CASCADE,
    symbol              text NOT NULL,
    timeframe           text NOT NULL,
    first_bar           timestamptz NOT NULL,
    last_bar            timestamptz,
    detected_at         timestamptz NOT NULL DEFAULT now(),
    reason              text NOT NULL,
    regime_key          text NOT NULL,
    training_keys       text[] NOT NULL,
    key_share           double precision,
    distance            double precision,
    distance_limit      double precision,
    null_percentile     double precision,
    moved               jsonb NOT NULL,
    training_snapshots  integer NOT NULL,
    seed                bigint NOT NULL,
    sentence            text NOT NULL,
    alerted_at          timestamptz,
    alert_error         text
);

COMMENT ON COLUMN kb_drift_events.first_bar IS 'The newest bar when the alarm was raised.';
COMMENT ON COLUMN kb_drift_events.last_bar IS 'The newest bar when it was over; NULL while it lasts.';
COMMENT ON COLUMN kb_drift_events.sentence IS 'What was told, in words.';

CREATE UNIQUE INDEX IF NOT EXISTS idx_kb_drift_events_open
    ON kb_drift_events (workspace_id, strategy_entity_id, symbol, timeframe)
 WHERE last_bar IS NULL;

CREATE INDEX IF NOT EXISTS idx_kb_drift_events_workspace
    ON kb_drift_events (workspace_id, detected_at DESC);
