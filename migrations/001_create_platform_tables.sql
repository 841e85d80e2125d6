-- The tables of the backtesting platform, as they are just before 032.
--
-- Where the platform's own database is joined, its tables are adopted: what is there stays as it is,
-- and only tables, indexes and the view that are missing are made. No column, constraint or trigger is
-- added to a table that was there, because its rows may not satisfy ours.
--
-- Building a missing index locks its table against writes until the migration commits (CREATE INDEX
-- CONCURRENTLY cannot run inside a transaction). On a large adopted database that lacks some of them,
-- create them by hand with CONCURRENTLY first; they are looked for by name.
--
-- depends: 000_note_adopted_tables

CREATE TABLE IF NOT EXISTS workspaces (
    id                                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name                              text NOT NULL,
    slug                              text NOT NULL UNIQUE,
    owner_id                          uuid,
    default_vector_store              text NOT NULL DEFAULT 'qdrant',
    default_collection                text,
    default_embed_provider            text NOT NULL DEFAULT 'ollama',
    default_embed_model               text NOT NULL DEFAULT 'nomic-embed-text',
    default_distance                  text NOT NULL DEFAULT 'cosine'
                                      CHECK (default_distance IN ('cosine', 'dot', 'euclid')),
    is_active                         boolean NOT NULL DEFAULT true,
    ingestion_enabled                 boolean NOT NULL DEFAULT true,
    config                            jsonb DEFAULT '{}',
    created_at                        timestamptz NOT NULL DEFAULT now(),
    updated_at                        timestamptz NOT NULL DEFAULT now(),
    kb_auto_candidacy_state           text DEFAULT 'enabled'
                                      CHECK (kb_auto_candidacy_state IN ('enabled', 'degraded', 'disabled')),
    kb_auto_candidacy_disabled_until  timestamptz,
    kb_auto_candidacy_trip_reason     text,
    kb_auto_candidacy_tripped_at      timestamptz
);

CREATE TABLE IF NOT EXISTS kb_entities (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id  uuid REFERENCES workspaces ON DELETE CASCADE,
    type          text NOT NULL
                  CHECK (type IN ('concept', 'indicator', 'strategy', 'equation', 'test', 'metric', 'asset',
                                  'pattern', 'parameter', 'other')),
    name          text NOT NULL,
    aliases       jsonb DEFAULT '[]',
    description   text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS kb_strategy_specs (
    id                       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    strategy_entity_id       uuid NOT NULL UNIQUE REFERENCES kb_entities ON DELETE CASCADE,
    workspace_id             uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    spec_json                jsonb NOT NULL DEFAULT '{}',
    status                   text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'approved', 'deprecated')),
    derived_from_claim_ids   jsonb DEFAULT '[]',
    version                  integer NOT NULL DEFAULT 1,
    created_at               timestamptz NOT NULL DEFAULT now(),
    updated_at               timestamptz NOT NULL DEFAULT now(),
    approved_at              timestamptz,
    approved_by              text,
    compiled_param_schema    jsonb,
    compiled_backtest_config jsonb,
    compiled_pseudocode      text,
    compiled_at              timestamptz
);

CREATE TABLE IF NOT EXISTS run_plans (
    id                    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id          uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    strategy_entity_id    uuid,
    status                text NOT NULL DEFAULT 'pending'
                          CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    objective_name        text,
    created_at            timestamptz NOT NULL DEFAULT now(),
    completed_at          timestamptz,
    n_variants            integer NOT NULL DEFAULT 0,
    n_completed           integer NOT NULL DEFAULT 0,
    n_failed              integer NOT NULL DEFAULT 0,
    n_skipped             integer NOT NULL DEFAULT 0,
    best_backtest_run_id  uuid,
    best_objective_score  double precision,
    error_summary         text,
    plan                  jsonb NOT NULL,
    started_at            timestamptz
);

CREATE TABLE IF NOT EXISTS backtest_runs (
    id                      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at              timestamptz NOT NULL DEFAULT now(),
    workspace_id            uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    strategy_entity_id      uuid NOT NULL REFERENCES kb_entities ON DELETE CASCADE,
    strategy_spec_id        uuid REFERENCES kb_strategy_specs ON DELETE SET NULL,
    spec_version            integer,
    status                  text NOT NULL DEFAULT 'running'
                            CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped')),
    params                  jsonb NOT NULL DEFAULT '{}',
    engine                  text NOT NULL DEFAULT 'backtesting.py',
    dataset_meta            jsonb NOT NULL DEFAULT '{}',
    summary                 jsonb,
    equity_curve            jsonb,
    trades                  jsonb,
    warnings                jsonb DEFAULT '[]',
    error                   text,
    started_at              timestamptz,
    completed_at            timestamptz,
    run_plan_id             uuid REFERENCES run_plans ON DELETE SET NULL,
    variant_index           integer,
    variant_fingerprint     text,
    run_kind                text NOT NULL DEFAULT 'backtest'
                            CHECK (run_kind IN ('backtest', 'tune_variant', 'test_variant')),
    objective_score         double precision,
    skip_reason             text,
    has_equity_curve        boolean NOT NULL DEFAULT false,
    has_trades              boolean NOT NULL DEFAULT false,
    equity_points           integer,
    trade_count             integer,
    artifacts_ref           jsonb,
    kb_status               text DEFAULT 'excluded'
                            CHECK (kb_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    kb_status_changed_at    timestamptz,
    kb_status_changed_by    text,
    kb_status_reason        text,
    kb_promoted_at          timestamptz,
    kb_promoted_by          text,
    auto_candidate_gate     text,
    auto_candidate_breaker  text,
    regime_is               jsonb,
    regime_oos              jsonb,
    regime_schema_version   text
);

CREATE TABLE IF NOT EXISTS backtest_tunes (
    id                  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at          timestamptz NOT NULL DEFAULT now(),
    workspace_id        uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    strategy_entity_id  uuid NOT NULL REFERENCES kb_entities ON DELETE CASCADE,
    strategy_spec_id    uuid REFERENCES kb_strategy_specs ON DELETE SET NULL,
    search_type         text NOT NULL CHECK (search_type IN ('grid', 'random')),
    n_trials            integer NOT NULL CHECK (n_trials BETWEEN 1 AND 200),
    seed                integer,
    param_space         jsonb NOT NULL,
    objective_metric    text NOT NULL DEFAULT 'sharpe',
    min_trades          integer NOT NULL DEFAULT 5,
    status              text NOT NULL DEFAULT 'queued'
                        CHECK (status IN ('queued', 'running', 'completed', 'failed')),
    trials_completed    integer DEFAULT 0,
    best_run_id         uuid REFERENCES backtest_runs ON DELETE SET NULL,
    best_score          double precision,
    best_params         jsonb,
    leaderboard         jsonb,
    started_at          timestamptz,
    completed_at        timestamptz,
    error               text,
    oos_ratio           double precision
                        CONSTRAINT chk_oos_ratio_range CHECK (oos_ratio IS NULL OR (oos_ratio > 0 AND oos_ratio <= 0.5)),
    objective_type      varchar(50) DEFAULT 'sharpe',
    objective_params    jsonb,
    gates               jsonb
);

CREATE TABLE IF NOT EXISTS backtest_tune_runs (
    tune_id               uuid NOT NULL REFERENCES backtest_tunes ON DELETE CASCADE,
    run_id                uuid NOT NULL REFERENCES backtest_runs ON DELETE CASCADE,
    trial_index           integer NOT NULL,
    params                jsonb NOT NULL,
    score                 double precision,
    status                text NOT NULL DEFAULT 'queued'
                          CHECK (status IN ('queued', 'running', 'completed', 'failed', 'skipped')),
    created_at            timestamptz NOT NULL DEFAULT now(),
    failed_reason         text,
    started_at            timestamptz,
    finished_at           timestamptz,
    score_is              double precision,
    score_oos             double precision,
    metrics_is            jsonb,
    metrics_oos           jsonb,
    objective_score       double precision,
    kb_ingested_at        timestamptz,
    kb_embedding_model_id text,
    kb_vector_dim         integer,
    kb_text_hash          text,
    kb_status             text DEFAULT 'promoted'
                          CHECK (kb_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    kb_status_changed_at  timestamptz,
    kb_status_changed_by  text,
    kb_status_reason      text,
    kb_promoted_at        timestamptz DEFAULT now(),
    kb_promoted_by        text,
    PRIMARY KEY (tune_id, run_id),
    UNIQUE (tune_id, trial_index)
);

CREATE TABLE IF NOT EXISTS kb_status_history (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id  uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    source_type   text NOT NULL,
    source_id     uuid NOT NULL,
    from_status   text NOT NULL CHECK (from_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    to_status     text NOT NULL CHECK (to_status IN ('excluded', 'candidate', 'promoted', 'rejected')),
    actor_type    text NOT NULL CHECK (actor_type IN ('auto', 'admin')),
    actor_id      text,
    reason        text,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS kb_trial_index (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id           uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    source_type            text NOT NULL CHECK (source_type IN ('tune_run', 'test_variant')),
    source_id              uuid NOT NULL,
    qdrant_point_id        uuid NOT NULL,
    content_hash           text NOT NULL,
    content_hash_algo      text NOT NULL DEFAULT 'sha256_v1',
    regime_schema_version  text,
    embed_model            text NOT NULL,
    collection_name        text NOT NULL,
    ingested_at            timestamptz NOT NULL DEFAULT now(),
    archived_at            timestamptz,
    archived_reason        text,
    archived_by            text,
    UNIQUE (workspace_id, source_type, source_id)
);

CREATE TABLE IF NOT EXISTS kb_backfill_runs (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id           uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    backfill_type          text NOT NULL CHECK (backfill_type IN ('candidacy', 'regime')),
    status                 text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'completed', 'failed')),
    started_at             timestamptz NOT NULL DEFAULT now(),
    completed_at           timestamptz,
    processed_count        integer NOT NULL DEFAULT 0,
    skipped_count          integer NOT NULL DEFAULT 0,
    error_count            integer NOT NULL DEFAULT 0,
    last_processed_cursor  text,
    config                 jsonb NOT NULL DEFAULT '{}',
    error                  text,
    dry_run                boolean NOT NULL DEFAULT false,
    config_hash            text
);

-- The platform's indexes. One that is missing is made unless an adopted table lacks a column it needs
-- or, being unique, holds rows that break it. Looked up by name first, because CREATE INDEX IF NOT
-- EXISTS locks the table before it finds that there is nothing to do.
DO $indexes$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT *
          FROM (VALUES
            ('idx_workspaces_is_active', 'workspaces (is_active) WHERE is_active = true'),
            ('idx_workspaces_owner_id', 'workspaces (owner_id) WHERE owner_id IS NOT NULL'),
            ('idx_workspaces_slug', 'workspaces (slug)'),
            ('idx_kb_entities_aliases', 'kb_entities USING gin (aliases)'),
            ('idx_kb_entities_name', 'kb_entities (name)'),
            ('idx_kb_entities_type', 'kb_entities (type)'),
            ('idx_kb_entities_unique_name', 'kb_entities (workspace_id, type, lower(name))'),
            ('idx_kb_entities_workspace', 'kb_entities (workspace_id)'),
            ('idx_kb_strategy_specs_status', 'kb_strategy_specs (status)'),
            ('idx_kb_strategy_specs_workspace', 'kb_strategy_specs (workspace_id)'),
            ('idx_run_plans_status', 'run_plans (status, created_at DESC)'),
            ('idx_run_plans_workspace', 'run_plans (workspace_id, created_at DESC)'),
            ('idx_backtest_runs_created', 'backtest_runs (created_at DESC)'),
            ('idx_backtest_runs_kb_created', 'backtest_runs (workspace_id, created_at DESC)
                WHERE run_kind = ''test_variant'' AND kb_status IN (''candidate'', ''promoted'')'),
            ('idx_backtest_runs_kb_eligible', 'backtest_runs (workspace_id, run_kind, kb_status, status)
                WHERE run_kind = ''test_variant'' AND kb_status IN (''candidate'', ''promoted'')
                  AND status IN (''completed'', ''success'')'),
            ('idx_backtest_runs_kb_status', 'backtest_runs (workspace_id, kb_status)
                WHERE kb_status IN (''candidate'', ''promoted'')'),
            ('idx_backtest_runs_kind_created', 'backtest_runs (run_kind, created_at DESC)'),
            ('idx_backtest_runs_plan_score', 'backtest_runs (run_plan_id, objective_score DESC NULLS LAST)'),
            ('idx_backtest_runs_plan_variant', 'backtest_runs (run_plan_id, variant_index)'),
            ('idx_backtest_runs_status', 'backtest_runs (status)'),
            ('idx_backtest_runs_strategy', 'backtest_runs (strategy_entity_id)'),
            ('idx_backtest_runs_workspace', 'backtest_runs (workspace_id)'),
            ('idx_tunes_status', 'backtest_tunes (status)'),
            ('idx_tunes_strategy', 'backtest_tunes (strategy_entity_id, created_at DESC)'),
            ('idx_tunes_workspace', 'backtest_tunes (workspace_id)'),
            ('idx_tune_runs_eligible', 'backtest_tune_runs (tune_id, status, kb_status)
                WHERE status = ''completed'' AND kb_status IN (''candidate'', ''promoted'')'),
            ('idx_tune_runs_failed_reason', 'backtest_tune_runs (tune_id, failed_reason)
                WHERE failed_reason IS NOT NULL'),
            ('idx_tune_runs_kb_composite', 'backtest_tune_runs (tune_id, kb_status, status, created_at DESC)
                WHERE status = ''completed'' AND kb_status IN (''candidate'', ''promoted'')'),
            ('idx_tune_runs_kb_missing', 'backtest_tune_runs (kb_ingested_at)
                WHERE kb_ingested_at IS NULL AND status = ''completed'''),
            ('idx_tune_runs_kb_model', 'backtest_tune_runs (kb_embedding_model_id)
                WHERE kb_ingested_at IS NOT NULL'),
            ('idx_tune_runs_kb_status', 'backtest_tune_runs (kb_status)
                WHERE kb_status IN (''candidate'', ''promoted'')'),
            ('idx_tune_runs_score', 'backtest_tune_runs (tune_id, score DESC NULLS LAST)'),
            ('idx_tune_runs_status', 'backtest_tune_runs (tune_id, status)'),
            ('idx_tune_runs_tune_id', 'backtest_tune_runs (tune_id)'),
            ('idx_kb_status_history_source', 'kb_status_history (source_type, source_id)'),
            ('idx_kb_status_history_workspace_created', 'kb_status_history (workspace_id, created_at DESC)'),
            ('idx_kb_trial_index_archived', 'kb_trial_index (workspace_id, archived_at)
                WHERE archived_at IS NOT NULL'),
            ('idx_kb_trial_index_collection', 'kb_trial_index (collection_name, workspace_id)
                WHERE archived_at IS NULL'),
            ('idx_kb_trial_index_lookup', 'kb_trial_index (workspace_id, source_type, source_id)
                WHERE archived_at IS NULL'),
            ('idx_kb_trial_index_qdrant', 'kb_trial_index (qdrant_point_id)'),
            ('idx_kb_backfill_runs_config_hash', 'kb_backfill_runs (workspace_id, backfill_type, config_hash)
                WHERE config_hash IS NOT NULL'),
            ('idx_kb_backfill_runs_one_active', 'kb_backfill_runs (workspace_id, backfill_type, config_hash)
                WHERE status = ''running'' AND config_hash IS NOT NULL'),
            ('idx_kb_backfill_runs_recent', 'kb_backfill_runs (started_at DESC)'),
            ('idx_kb_backfill_runs_resume', 'kb_backfill_runs (workspace_id, backfill_type, status)
                WHERE status IN (''running'', ''failed'')'),
            ('idx_kb_backfill_runs_workspace_history', 'kb_backfill_runs (workspace_id, started_at DESC)')
          ) AS platform_index (name, definition)
         WHERE to_regclass(name) IS NULL
    LOOP
        BEGIN
            EXECUTE format(
                'CREATE %s INDEX %I ON %s',
                CASE WHEN wanted.name IN ('idx_kb_entities_unique_name', 'idx_kb_backfill_runs_one_active')
                     THEN 'UNIQUE' ELSE '' END,
                wanted.name,
                wanted.definition);
        EXCEPTION WHEN undefined_column OR unique_violation THEN
            RAISE NOTICE 'index % left out: %', wanted.name, SQLERRM;
        END;
    END LOOP;
END
$indexes$;

CREATE OR REPLACE FUNCTION kb_set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$;

-- A table with rows was adopted and keeps whatever it does about updated_at.
DO $triggers$
BEGIN
    IF NOT EXISTS (SELECT FROM workspaces)
       AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'workspaces'::regclass AND NOT tgisinternal) THEN
        CREATE TRIGGER update_workspaces_updated_at BEFORE UPDATE ON workspaces
            FOR EACH ROW EXECUTE FUNCTION kb_set_updated_at();
    END IF;
    IF NOT EXISTS (SELECT FROM kb_entities)
       AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'kb_entities'::regclass AND NOT tgisinternal) THEN
        CREATE TRIGGER tr_kb_entities_updated_at BEFORE UPDATE ON kb_entities
            FOR EACH ROW EXECUTE FUNCTION kb_set_updated_at();
    END IF;
END
$triggers$;

-- A stored metric as a number that arithmetic and ordering can use: NULL for anything but a JSON number
-- and for one too large for double precision, 0 for one too small. It never raises, so one broken row
-- cannot fail a read of its workspace. A single CASE in plain SQL, so that the planner can inline it.
CREATE OR REPLACE FUNCTION kb_finite_number(value jsonb) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT CASE
        WHEN jsonb_typeof(value) IS DISTINCT FROM 'number' THEN NULL
        WHEN abs(value::numeric) > 1.7976931348623158e308 THEN NULL
        WHEN abs(value::numeric) < 5e-324 THEN 0
        ELSE value::numeric::double precision
    END
$function$;

-- Every trial that may serve the knowledge base, of all workspaces; readers filter by workspace.
-- return_frac_oos and max_dd_frac_oos hold percent, as they do on the platform, despite their names.
DO $view$
BEGIN
    IF to_regclass('kb_eligible_trials') IS NULL THEN
        CREATE VIEW kb_eligible_trials AS
        SELECT 'tune_run'::text AS source_type,
               'tune'::text AS experiment_type,
               trial.run_id AS source_id,
               trial.tune_id AS group_id,
               tune.workspace_id,
               tune.strategy_entity_id,
               strategy.name AS strategy_name,
               trial.params,
               trial.status AS trial_status,
               trial.metrics_is -> 'regime' AS regime_is,
               trial.metrics_oos -> 'regime' AS regime_oos,
               coalesce(trial.metrics_is -> 'regime' ->> 'schema_version', 'regime_v1') AS regime_schema_version,
               kb_finite_number(trial.metrics_oos -> 'sharpe') AS sharpe_oos,
               kb_finite_number(trial.metrics_oos -> 'return_pct') AS return_frac_oos,
               kb_finite_number(trial.metrics_oos -> 'max_drawdown_pct') AS max_dd_frac_oos,
               CASE WHEN abs(kb_finite_number(trial.metrics_oos -> 'trades')) < 2147483647
                    THEN kb_finite_number(trial.metrics_oos -> 'trades')::integer END AS n_trades_oos,
               kb_finite_number(trial.metrics_is -> 'sharpe') AS sharpe_is,
               trial.kb_status,
               trial.kb_promoted_at,
               trial.kb_status_changed_at,
               tune.objective_type::varchar AS objective_type,
               trial.objective_score,
               trial.created_at
          FROM backtest_tune_runs AS trial
          JOIN backtest_tunes AS tune ON tune.id = trial.tune_id
          LEFT JOIN kb_entities AS strategy ON strategy.id = tune.strategy_entity_id
         WHERE trial.kb_status IN ('candidate', 'promoted')
           AND trial.status = 'completed'
        UNION ALL
        SELECT 'test_variant',
               coalesce(run.summary ->> 'experiment_type', 'sweep'),
               run.id,
               run.run_plan_id,
               run.workspace_id,
               run.strategy_entity_id,
               coalesce(run.summary ->> 'strategy_name', strategy.name),
               run.params,
               run.status,
               run.regime_is,
               run.regime_oos,
               run.regime_schema_version,
               kb_finite_number(run.summary -> 'sharpe'),
               kb_finite_number(run.summary -> 'return_pct'),
               kb_finite_number(run.summary -> 'max_drawdown_pct'),
               CASE WHEN abs(kb_finite_number(run.summary -> 'trade_count')) < 2147483647
                    THEN kb_finite_number(run.summary -> 'trade_count')::integer END,
               NULL,
               run.kb_status,
               run.kb_promoted_at,
               run.kb_status_changed_at,
               coalesce(plan.objective_name, 'sharpe')::varchar,
               run.objective_score,
               run.created_at
          FROM backtest_runs AS run
          LEFT JOIN kb_entities AS strategy ON strategy.id = run.strategy_entity_id
          LEFT JOIN run_plans AS plan ON plan.id = run.run_plan_id
         WHERE run.run_kind = 'test_variant'
           AND run.status IN ('completed', 'success')
           AND (run.kb_status = 'promoted' OR (run.kb_status = 'candidate' AND run.regime_oos IS NOT NULL));
    END IF;
END
$view$;
