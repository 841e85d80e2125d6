-- Log of recommendation calls: what was asked, which tier answered, how sure the answer was.
--
-- depends: 001_create_platform_tables

CREATE TABLE IF NOT EXISTS recommend_events (
    id                         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at                 timestamptz NOT NULL DEFAULT now(),
    workspace_id               uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    strategy_entity_id         uuid REFERENCES kb_entities ON DELETE SET NULL,
    query_regime_key           text,
    query_trend_tag            text,
    query_vol_tag              text,
    tier_used                  text NOT NULL,
    tiers_attempted            jsonb NOT NULL DEFAULT '[]',
    exact_count                integer NOT NULL DEFAULT 0,
    partial_trend_count        integer NOT NULL DEFAULT 0,
    partial_vol_count          integer NOT NULL DEFAULT 0,
    distance_count             integer NOT NULL DEFAULT 0,
    global_count               integer NOT NULL DEFAULT 0,
    k                          integer NOT NULL DEFAULT 20,
    min_samples                integer NOT NULL DEFAULT 5,
    candidate_count            integer NOT NULL DEFAULT 0,
    top_candidate_score        double precision,
    confidence                 double precision,
    duration_ms                double precision NOT NULL DEFAULT 0,
    distance_method            text,
    distance_features_version  text
);

CREATE INDEX IF NOT EXISTS idx_recommend_events_created_at
    ON recommend_events (created_at DESC);

CREATE INDEX IF NOT EXISTS idx_recommend_events_regime
    ON recommend_events (workspace_id, query_regime_key)
 WHERE query_regime_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_recommend_events_tier_used
    ON recommend_events (tier_used, created_at DESC);

CREATE INDEX IF NOT EXISTS idx_recommend_events_workspace_strategy
    ON recommend_events (workspace_id, strategy_entity_id, created_at DESC);
