-- A backtesting platform's own database just before 032, with a few rows of every kind.
-- Written from the platform's description, independently of migrations/001. As there, ids of the older
-- tables come from a function in schema `extensions`.

CREATE SCHEMA extensions;
CREATE FUNCTION extensions.uuid_generate_v4() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';

CREATE TABLE workspaces (
    id uuid NOT NULL DEFAULT extensions.uuid_generate_v4(),
    name text NOT NULL,
    slug text NOT NULL,
    owner_id uuid,
    default_vector_store text NOT NULL DEFAULT 'qdrant',
    default_collection text,
    default_embed_provider text NOT NULL DEFAULT 'ollama',
    default_embed_model text NOT NULL DEFAULT 'nomic-embed-text',
    default_distance text NOT NULL DEFAULT 'cosine',
    is_active boolean NOT NULL DEFAULT true,
    ingestion_enabled boolean NOT NULL DEFAULT true,
    config jsonb DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    kb_auto_candidacy_state text DEFAULT 'enabled',
    kb_auto_candidacy_disabled_until timestamptz,
    kb_auto_candidacy_trip_reason text,
    kb_auto_candidacy_tripped_at timestamptz,
    CHECK (default_distance IN ('cosine', 'dot', 'euclid')),
    CHECK (kb_auto_candidacy_state IN ('enabled', 'degraded', 'disabled')),
    PRIMARY KEY (id),
    UNIQUE (slug)
);
CREATE INDEX idx_workspaces_is_active ON workspaces (is_active) WHERE is_active = true;
CREATE INDEX idx_workspaces_owner_id ON workspaces (owner_id) WHERE owner_id IS NOT NULL;
CREATE INDEX idx_workspaces_slug ON workspaces (slug);

CREATE TABLE kb_entities (
    id uuid NOT NULL DEFAULT extensions.uuid_generate_v4(),
    workspace_id uuid,
    type text NOT NULL,
    name text NOT NULL,
    aliases jsonb DEFAULT '[]',
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (type IN ('concept', 'indicator', 'strategy', 'equation', 'test', 'metric', 'asset', 'pattern', 'parameter', 'other')),
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id)
);
CREATE INDEX idx_kb_entities_aliases ON kb_entities USING gin (aliases);
CREATE INDEX idx_kb_entities_name ON kb_entities (name);
CREATE INDEX idx_kb_entities_type ON kb_entities (type);
CREATE UNIQUE INDEX idx_kb_entities_unique_name ON kb_entities (workspace_id, type, lower(name));
CREATE INDEX idx_kb_entities_workspace ON kb_entities (workspace_id);

CREATE TABLE kb_strategy_specs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    strategy_entity_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    spec_json jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'draft',
    derived_from_claim_ids jsonb DEFAULT '[]',
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    approved_at timestamptz,
    approved_by text,
    compiled_param_schema jsonb,
    compiled_backtest_config jsonb,
    compiled_pseudocode text,
    compiled_at timestamptz,
    CHECK (status IN ('draft', 'approved', 'deprecated')),
    FOREIGN KEY (strategy_entity_id) REFERENCES kb_entities (id) ON DELETE CASCADE,
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id),
    UNIQUE (strategy_entity_id)
);
CREATE INDEX idx_kb_strategy_specs_status ON kb_strategy_specs (status);
CREATE INDEX idx_kb_strategy_specs_workspace ON kb_strategy_specs (workspace_id);

CREATE TABLE run_plans (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    workspace_id uuid NOT NULL,
    strategy_entity_id uuid,
    status text NOT NULL DEFAULT 'pending',
    objective_name text,
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    n_variants integer NOT NULL DEFAULT 0,
    n_completed integer NOT NULL DEFAULT 0,
    n_failed integer NOT NULL DEFAULT 0,
    n_skipped integer NOT NULL DEFAULT 0,
    best_backtest_run_id uuid,
    best_objective_score double precision,
    error_summary text,
    plan jsonb NOT NULL,
    started_at timestamptz,
    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id)
);
CREATE INDEX idx_run_plans_status ON run_plans (status, created_at DESC);
CREATE INDEX idx_run_plans_workspace ON run_plans (workspace_id, created_at DESC);

CREATE TABLE backtest_runs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    workspace_id uuid NOT NULL,
    strategy_entity_id uuid NOT NULL,
    strategy_spec_id uuid,
    spec_version integer,
    status text NOT NULL DEFAULT 'running',
    params jsonb NOT NULL DEFAULT '{}',
    engine text NOT NULL DEFAULT 'backtesting.py',
    dataset_meta jsonb NOT NULL DEFAULT '{}',
    summary jsonb,
    equity_curve jsonb,
    trades jsonb,
    warnings jsonb DEFAULT '[]',
    error text,
    started_at timestamptz,
    completed_at timestamptz,
    run_plan_id uuid,
    variant_index integer,
    variant_fingerprint text,
    run_kind text NOT NULL DEFAULT 'backtest',
    objective_score double precision,
    skip_reason text,
    has_equity_curve boolean NOT NULL DEFAULT false,
    has_trades boolean NOT NULL DEFAULT false,
    equity_points integer,
    trade_count integer,
    artifacts_ref jsonb,
    kb_status text DEFAULT 'excluded',
    kb_status_changed_at timestamptz,
    kb_status_changed_by text,
    kb_status_reason text,
    kb_promoted_at timestamptz,
    kb_promoted_by text,
    auto_candidate_gate text,
    auto_candidate_breaker text,
    regime_is jsonb,
    regime_oos jsonb,
    regime_schema_version text,
    CHECK (kb_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    CHECK (run_kind IN ('backtest', 'tune_variant', 'test_variant')),
    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped')),
    FOREIGN KEY (run_plan_id) REFERENCES run_plans (id) ON DELETE SET NULL,
    FOREIGN KEY (strategy_entity_id) REFERENCES kb_entities (id) ON DELETE CASCADE,
    FOREIGN KEY (strategy_spec_id) REFERENCES kb_strategy_specs (id) ON DELETE SET NULL,
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id)
);
CREATE INDEX idx_backtest_runs_created ON backtest_runs (created_at DESC);
CREATE INDEX idx_backtest_runs_kb_created ON backtest_runs (workspace_id, created_at DESC) WHERE run_kind = 'test_variant' AND kb_status IN ('candidate', 'promoted');
CREATE INDEX idx_backtest_runs_kb_eligible ON backtest_runs (workspace_id, run_kind, kb_status, status) WHERE run_kind = 'test_variant' AND kb_status IN ('candidate', 'promoted') AND status IN ('completed', 'success');
CREATE INDEX idx_backtest_runs_kb_status ON backtest_runs (workspace_id, kb_status) WHERE kb_status IN ('candidate', 'promoted');
CREATE INDEX idx_backtest_runs_kind_created ON backtest_runs (run_kind, created_at DESC);
CREATE INDEX idx_backtest_runs_plan_score ON backtest_runs (run_plan_id, objective_score DESC NULLS LAST);
CREATE INDEX idx_backtest_runs_plan_variant ON backtest_runs (run_plan_id, variant_index);
CREATE INDEX idx_backtest_runs_status ON backtest_runs (status);
CREATE INDEX idx_backtest_runs_strategy ON backtest_runs (strategy_entity_id);
CREATE INDEX idx_backtest_runs_workspace ON backtest_runs (workspace_id);

CREATE TABLE backtest_tunes (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    workspace_id uuid NOT NULL,
    strategy_entity_id uuid NOT NULL,
    strategy_spec_id uuid,
    search_type text NOT NULL,
    n_trials integer NOT NULL,
    seed integer,
    param_space jsonb NOT NULL,
    objective_metric text NOT NULL DEFAULT 'sharpe',
    min_trades integer NOT NULL DEFAULT 5,
    status text NOT NULL DEFAULT 'queued',
    trials_completed integer DEFAULT 0,
    best_run_id uuid,
    best_score double precision,
    best_params jsonb,
    leaderboard jsonb,
    started_at timestamptz,
    completed_at timestamptz,
    error text,
    oos_ratio double precision,
    objective_type varchar(50) DEFAULT 'sharpe',
    objective_params jsonb,
    gates jsonb,
    CHECK (n_trials BETWEEN 1 AND 200),
    CHECK (search_type IN ('grid', 'random')),
    CHECK (status IN ('queued', 'running', 'completed', 'failed')),
    CHECK (oos_ratio IS NULL OR (oos_ratio > 0 AND oos_ratio <= 0.5)),
    FOREIGN KEY (best_run_id) REFERENCES backtest_runs (id) ON DELETE SET NULL,
    FOREIGN KEY (strategy_entity_id) REFERENCES kb_entities (id) ON DELETE CASCADE,
    FOREIGN KEY (strategy_spec_id) REFERENCES kb_strategy_specs (id) ON DELETE SET NULL,
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id)
);
CREATE INDEX idx_tunes_status ON backtest_tunes (status);
CREATE INDEX idx_tunes_strategy ON backtest_tunes (strategy_entity_id, created_at DESC);
CREATE INDEX idx_tunes_workspace ON backtest_tunes (workspace_id);

CREATE TABLE backtest_tune_runs (
    tune_id uuid NOT NULL,
    run_id uuid NOT NULL,
    trial_index integer NOT NULL,
    params jsonb NOT NULL,
    score double precision,
    status text NOT NULL DEFAULT 'queued',
    created_at timestamptz NOT NULL DEFAULT now(),
    failed_reason text,
    started_at timestamptz,
    finished_at timestamptz,
    score_is double precision,
    score_oos double precision,
    metrics_is jsonb,
    metrics_oos jsonb,
    objective_score double precision,
    kb_ingested_at timestamptz,
    kb_embedding_model_id text,
    kb_vector_dim integer,
    kb_text_hash text,
    kb_status text DEFAULT 'promoted',
    kb_status_changed_at timestamptz,
    kb_status_changed_by text,
    kb_status_reason text,
    kb_promoted_at timestamptz DEFAULT now(),
    kb_promoted_by text,
    CHECK (kb_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    CHECK (status IN ('queued', 'running', 'completed', 'failed', 'skipped')),
    FOREIGN KEY (run_id) REFERENCES backtest_runs (id) ON DELETE CASCADE,
    FOREIGN KEY (tune_id) REFERENCES backtest_tunes (id) ON DELETE CASCADE,
    PRIMARY KEY (tune_id, run_id),
    UNIQUE (tune_id, trial_index)
);
CREATE INDEX idx_tune_runs_eligible ON backtest_tune_runs (tune_id, status, kb_status) WHERE status = 'completed' AND kb_status IN ('candidate', 'promoted');
CREATE INDEX idx_tune_runs_failed_reason ON backtest_tune_runs (tune_id, failed_reason) WHERE failed_reason IS NOT NULL;
CREATE INDEX idx_tune_runs_kb_composite ON backtest_tune_runs (tune_id, kb_status, status, created_at DESC) WHERE status = 'completed' AND kb_status IN ('candidate', 'promoted');
CREATE INDEX idx_tune_runs_kb_missing ON backtest_tune_runs (kb_ingested_at) WHERE kb_ingested_at IS NULL AND status = 'completed';
CREATE INDEX idx_tune_runs_kb_model ON backtest_tune_runs (kb_embedding_model_id) WHERE kb_ingested_at IS NOT NULL;
CREATE INDEX idx_tune_runs_kb_status ON backtest_tune_runs (kb_status) WHERE kb_status IN ('candidate', 'promoted');
CREATE INDEX idx_tune_runs_score ON backtest_tune_runs (tune_id, score DESC NULLS LAST);
CREATE INDEX idx_tune_runs_status ON backtest_tune_runs (tune_id, status);
CREATE INDEX idx_tune_runs_tune_id ON backtest_tune_runs (tune_id);

CREATE TABLE kb_status_history (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    workspace_id uuid NOT NULL,
    source_type text NOT NULL,
    source_id uuid NOT NULL,
    from_status text NOT NULL,
    to_status text NOT NULL,
    actor_type text NOT NULL,
    actor_id text,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (actor_type IN ('auto', 'admin')),
    CHECK (from_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    CHECK (to_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id)
);
CREATE INDEX idx_kb_status_history_source ON kb_status_history (source_type, source_id);
CREATE INDEX idx_kb_status_history_workspace_created ON kb_status_history (workspace_id, created_at DESC);

CREATE TABLE kb_trial_index (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    workspace_id uuid NOT NULL,
    source_type text NOT NULL,
    source_id uuid NOT NULL,
    qdrant_point_id uuid NOT NULL,
    content_hash text NOT NULL,
    content_hash_algo text NOT NULL DEFAULT 'sha256_v1',
    regime_schema_version text,
    embed_model text NOT NULL,
    collection_name text NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT now(),
    archived_at timestamptz,
    archived_reason text,
    archived_by text,
    CHECK (source_type IN ('tune_run', 'test_variant')),
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id),
    UNIQUE (workspace_id, source_type, source_id)
);
CREATE INDEX idx_kb_trial_index_archived ON kb_trial_index (workspace_id, archived_at) WHERE archived_at IS NOT NULL;
CREATE INDEX idx_kb_trial_index_collection ON kb_trial_index (collection_name, workspace_id) WHERE archived_at IS NULL;
CREATE INDEX idx_kb_trial_index_lookup ON kb_trial_index (workspace_id, source_type, source_id) WHERE archived_at IS NULL;
CREATE INDEX idx_kb_trial_index_qdrant ON kb_trial_index (qdrant_point_id);

CREATE TABLE kb_backfill_runs (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    workspace_id uuid NOT NULL,
    backfill_type text NOT NULL,
    status text NOT NULL DEFAULT 'running',
    started_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    processed_count integer NOT NULL DEFAULT 0,
    skipped_count integer NOT NULL DEFAULT 0,
    error_count integer NOT NULL DEFAULT 0,
    last_processed_cursor text,
    config jsonb NOT NULL DEFAULT '{}',
    error text,
    dry_run boolean NOT NULL DEFAULT false,
    config_hash text,
    CONSTRAINT chk_backfill_kind CHECK (backfill_type IN ('candidacy', 'regime')),
    CHECK (status IN ('running', 'completed', 'failed')),
    FOREIGN KEY (workspace_id) REFERENCES workspaces (id) ON DELETE CASCADE,
    PRIMARY KEY (id)
);
CREATE INDEX idx_kb_backfill_runs_config_hash ON kb_backfill_runs (workspace_id, backfill_type, config_hash) WHERE config_hash IS NOT NULL;
CREATE UNIQUE INDEX idx_kb_backfill_runs_one_active ON kb_backfill_runs (workspace_id, backfill_type, config_hash) WHERE status = 'running' AND config_hash IS NOT NULL;
CREATE INDEX idx_kb_backfill_runs_recent ON kb_backfill_runs (started_at DESC);
CREATE INDEX idx_kb_backfill_runs_resume ON kb_backfill_runs (workspace_id, backfill_type, status) WHERE status IN ('running', 'failed');
CREATE INDEX idx_kb_backfill_runs_workspace_history ON kb_backfill_runs (workspace_id, started_at DESC);

CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END
$$;
CREATE TRIGGER update_workspaces_updated_at BEFORE UPDATE ON workspaces
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER tr_kb_entities_updated_at BEFORE UPDATE ON kb_entities
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE VIEW kb_eligible_trials AS
SELECT 'tune_run'::text AS source_type, 'tune'::text AS experiment_type, tr.run_id AS source_id,
       tr.tune_id AS group_id, t.workspace_id, t.strategy_entity_id, e.name AS strategy_name, tr.params,
       tr.status AS trial_status, tr.metrics_is -> 'regime' AS regime_is, tr.metrics_oos -> 'regime' AS regime_oos,
       COALESCE(tr.metrics_is -> 'regime' ->> 'schema_version', 'regime_v1') AS regime_schema_version,
       (tr.metrics_oos ->> 'sharpe')::double precision AS sharpe_oos,
       (tr.metrics_oos ->> 'return_pct')::double precision AS return_frac_oos,
       (tr.metrics_oos ->> 'max_drawdown_pct')::double precision AS max_dd_frac_oos,
       (tr.metrics_oos ->> 'trades')::integer AS n_trades_oos,
       (tr.metrics_is ->> 'sharpe')::double precision AS sharpe_is,
       tr.kb_status, tr.kb_promoted_at, tr.kb_status_changed_at, t.objective_type, tr.objective_score, tr.created_at
  FROM backtest_tune_runs tr JOIN backtest_tunes t ON t.id = tr.tune_id
  LEFT JOIN kb_entities e ON e.id = t.strategy_entity_id
 WHERE tr.kb_status IN ('candidate', 'promoted') AND tr.status = 'completed'
UNION ALL
SELECT 'test_variant', COALESCE(r.summary ->> 'experiment_type', 'sweep'), r.id, r.run_plan_id, r.workspace_id,
       r.strategy_entity_id, COALESCE(r.summary ->> 'strategy_name', e.name), r.params, r.status, r.regime_is,
       r.regime_oos, r.regime_schema_version, (r.summary ->> 'sharpe')::double precision,
       (r.summary ->> 'return_pct')::double precision, (r.summary ->> 'max_drawdown_pct')::double precision,
       (r.summary ->> 'trade_count')::integer, NULL::double precision, r.kb_status, r.kb_promoted_at,
       r.kb_status_changed_at, COALESCE(p.objective_name, 'sharpe')::varchar, r.objective_score, r.created_at
  FROM backtest_runs r LEFT JOIN kb_entities e ON e.id = r.strategy_entity_id
  LEFT JOIN run_plans p ON p.id = r.run_plan_id
 WHERE r.run_kind = 'test_variant' AND r.kb_status IN ('candidate', 'promoted')
   AND r.status IN ('completed', 'success') AND (r.kb_status = 'promoted' OR r.regime_oos IS NOT NULL);

INSERT INTO workspaces (id, name, slug, config)
VALUES ('00000000-0000-4000-8000-000000000001', 'Alpha', 'alpha', '{"theme": "dark"}'),
       ('00000000-0000-4000-8000-000000000002', 'Beta', 'beta', NULL);

INSERT INTO kb_entities (id, workspace_id, type, name)
VALUES ('00000000-0000-4000-8000-000000000011', '00000000-0000-4000-8000-000000000001', 'strategy', 'Breakout'),
       ('00000000-0000-4000-8000-000000000012', NULL, 'indicator', 'ATR');

INSERT INTO run_plans (id, workspace_id, plan, objective_name)
VALUES ('00000000-0000-4000-8000-000000000021', '00000000-0000-4000-8000-000000000001', '{}', 'calmar');

INSERT INTO backtest_runs (id, workspace_id, strategy_entity_id, status, run_kind, run_plan_id, dataset_meta,
                           summary, kb_status, regime_oos)
VALUES ('00000000-0000-4000-8000-000000000031', '00000000-0000-4000-8000-000000000001',
        '00000000-0000-4000-8000-000000000011', 'completed', 'test_variant', '00000000-0000-4000-8000-000000000021',
        '{"symbol": "BTC-USD"}', '{"sharpe": 1.25, "return_pct": 12.5, "max_drawdown_pct": 8, "trade_count": 42}',
        'candidate', '{"schema_version": "regime_v1_1"}'),
       ('00000000-0000-4000-8000-000000000032', '00000000-0000-4000-8000-000000000001',
        '00000000-0000-4000-8000-000000000011', 'completed', 'tune_variant', NULL, '{}', NULL, NULL, 'null');

INSERT INTO backtest_tunes (id, workspace_id, strategy_entity_id, search_type, n_trials, param_space, status,
                            best_run_id, oos_ratio)
VALUES ('00000000-0000-4000-8000-000000000041', '00000000-0000-4000-8000-000000000001',
        '00000000-0000-4000-8000-000000000011', 'grid', 4, '{"fast": [5, 10]}', 'completed',
        '00000000-0000-4000-8000-000000000032', 0.3);

INSERT INTO backtest_tune_runs (tune_id, run_id, trial_index, params, status, metrics_oos, objective_score)
VALUES ('00000000-0000-4000-8000-000000000041', '00000000-0000-4000-8000-000000000032', 0, '{"fast": 5}',
        'completed', '{"sharpe": 0.5, "return_pct": 3, "max_drawdown_pct": -4, "trades": 9, "regime": null}', 0.5);

INSERT INTO kb_status_history (workspace_id, source_type, source_id, from_status, to_status, actor_type)
VALUES ('00000000-0000-4000-8000-000000000001', 'test_variant', '00000000-0000-4000-8000-000000000031',
        'excluded', 'candidate', 'admin');

INSERT INTO kb_trial_index (workspace_id, source_type, source_id, qdrant_point_id, content_hash, embed_model,
                            collection_name)
VALUES ('00000000-0000-4000-8000-000000000001', 'test_variant', '00000000-0000-4000-8000-000000000031',
        '00000000-0000-4000-8000-000000000051', repeat('a', 64), 'nomic-embed-text', 'trials');

INSERT INTO kb_backfill_runs (workspace_id, backfill_type, status, config, config_hash)
VALUES ('00000000-0000-4000-8000-000000000001', 'candidacy', 'running', '{"limit": 10}', repeat('b', 64));
