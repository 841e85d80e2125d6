-- The knowledge base: one row per trial that may serve a recommendation.
--
-- Fractions are fractions here; the platform's percent values were divided by 100 on the way in.
-- content_hash makes ingestion idempotent, source_version (row versions of the source as it was read)
-- spares reading a source that did not change, params_fingerprint finds one parameter set across tunes.
--
-- depends: 001_create_platform_tables

CREATE TABLE IF NOT EXISTS kb_trials (
    workspace_id               uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    source_type                text NOT NULL CHECK (source_type IN ('tune_run', 'test_variant')),
    source_id                  uuid NOT NULL,
    tune_id                    uuid,
    strategy_entity_id         uuid NOT NULL REFERENCES kb_entities ON DELETE CASCADE,
    strategy_name              text,
    experiment_type            text,
    kb_status                  text,
    params                     jsonb NOT NULL DEFAULT '{}',
    params_fingerprint         text NOT NULL,
    timeframe                  text,
    symbol                     text,
    objective                  text,
    objective_score            double precision,
    sharpe_oos                 double precision,
    return_fraction_oos        double precision,
    max_drawdown_fraction_oos  double precision,
    trades_oos                 integer,
    sharpe_is                  double precision,
    regime_schema_version      text,
    regime_oos                 jsonb,
    regime_key                 text,
    trend_tag                  text,
    vol_tag                    text,
    efficiency_tag             text,
    content_hash               text NOT NULL,
    source_version             text NOT NULL,
    ingested_at                timestamptz NOT NULL DEFAULT now(),
    source_created_at          timestamptz,
    archived_at                timestamptz,
    archived_reason            text,
    PRIMARY KEY (workspace_id, source_type, source_id)
);

CREATE INDEX IF NOT EXISTS idx_kb_trials_ranking
    ON kb_trials (workspace_id, strategy_entity_id, regime_key, sharpe_oos DESC NULLS LAST)
 WHERE archived_at IS NULL;
