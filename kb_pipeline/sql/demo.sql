-- workspaces --
-- The demo's tenant. Every statement here takes a JSON array of rows and leaves rows alone that are there.
INSERT INTO workspaces (id, name, slug, created_at, updated_at)
SELECT id, name, slug, created_at, updated_at
  FROM jsonb_to_recordset(%(rows)s::jsonb)
       AS r(id uuid, name text, slug text, created_at timestamptz, updated_at timestamptz)
 WHERE id = %(workspace_id)s
    ON CONFLICT DO NOTHING

-- workspace_exists --
-- Whether the demo's tenant is there under its own id; another one may hold its short name.
SELECT EXISTS (SELECT FROM workspaces WHERE id = %(workspace_id)s)

-- kb_entities --
-- The demo's strategies.
INSERT INTO kb_entities (id, workspace_id, type, name, description, created_at, updated_at)
SELECT id, workspace_id, type, name, description, created_at, updated_at
  FROM jsonb_to_recordset(%(rows)s::jsonb)
       AS r(id uuid, workspace_id uuid, type text, name text, description text, created_at timestamptz,
            updated_at timestamptz)
 WHERE workspace_id = %(workspace_id)s
    ON CONFLICT DO NOTHING

-- kb_strategy_specs --
-- What the strategies declare, their default parameters above all.
INSERT INTO kb_strategy_specs (id, strategy_entity_id, workspace_id, spec_json, status, created_at, updated_at)
SELECT id, strategy_entity_id, workspace_id, spec_json, status, created_at, updated_at
  FROM jsonb_to_recordset(%(rows)s::jsonb)
       AS r(id uuid, strategy_entity_id uuid, workspace_id uuid, spec_json jsonb, status text,
            created_at timestamptz, updated_at timestamptz)
 WHERE workspace_id = %(workspace_id)s
    ON CONFLICT DO NOTHING

-- run_plans --
-- The sweeps that the test variants belong to.
INSERT INTO run_plans (id, workspace_id, strategy_entity_id, status, objective_name, created_at, started_at,
                       completed_at, n_variants, n_completed, n_failed, best_backtest_run_id,
                       best_objective_score, plan)
SELECT id, workspace_id, strategy_entity_id, status, objective_name, created_at, started_at,
       completed_at, n_variants, n_completed, n_failed, best_backtest_run_id,
       best_objective_score, plan
  FROM jsonb_to_recordset(%(rows)s::jsonb)
       AS r(id uuid, workspace_id uuid, strategy_entity_id uuid, status text, objective_name text,
            created_at timestamptz, started_at timestamptz, completed_at timestamptz, n_variants integer,
            n_completed integer, n_failed integer, best_backtest_run_id uuid,
            best_objective_score double precision, plan jsonb)
 WHERE workspace_id = %(workspace_id)s
    ON CONFLICT DO NOTHING

-- backtest_runs --
-- Trials and test variants. A run nobody has looked at starts as the platform starts it: excluded.
INSERT INTO backtest_runs (id, workspace_id, strategy_entity_id, strategy_spec_id, spec_version, status, params,
                           dataset_meta, summary, error, created_at, started_at, completed_at, run_kind,
                           run_plan_id, variant_index, variant_fingerprint, objective_score, trade_count,
                           kb_status, kb_status_changed_at, kb_status_changed_by, kb_status_reason)
SELECT id, workspace_id, strategy_entity_id, strategy_spec_id, spec_version, status, params,
       dataset_meta, summary, error, created_at, started_at, completed_at, run_kind,
       run_plan_id, variant_index, variant_fingerprint, objective_score, trade_count,
       coalesce(kb_status, 'excluded'), kb_status_changed_at, kb_status_changed_by, kb_status_reason
  FROM jsonb_to_recordset(%(rows)s::jsonb)
       AS r(id uuid, workspace_id uuid, strategy_entity_id uuid, strategy_spec_id uuid, spec_version integer,
            status text, params jsonb, dataset_meta jsonb, summary jsonb, error text, created_at timestamptz,
            started_at timestamptz, completed_at timestamptz, run_kind text, run_plan_id uuid,
            variant_index integer, variant_fingerprint text, objective_score double precision,
            trade_count integer, kb_status text, kb_status_changed_at timestamptz, kb_status_changed_by text,
            kb_status_reason text)
 WHERE workspace_id = %(workspace_id)s
    ON CONFLICT DO NOTHING

-- backtest_tunes --
-- The parameter searches, as yet without a regime.
INSERT INTO backtest_tunes (id, workspace_id, strategy_entity_id, strategy_spec_id, search_type, n_trials,
                            param_space, objective_metric, objective_type, min_trades, oos_ratio, status,
                            trials_completed, best_run_id, best_score, best_params, leaderboard, created_at,
                            started_at, completed_at)
SELECT id, workspace_id, strategy_entity_id, strategy_spec_id, search_type, n_trials,
       param_space, objective_metric, objective_type, min_trades, oos_ratio, status,
       trials_completed, best_run_id, best_score, best_params, leaderboard, created_at,
       started_at, completed_at
  FROM jsonb_to_recordset(%(rows)s::jsonb)
       AS r(id uuid, workspace_id uuid, strategy_entity_id uuid, strategy_spec_id uuid, search_type text,
            n_trials integer, param_space jsonb, objective_metric text, objective_type text,
            min_trades integer, oos_ratio double precision, status text, trials_completed integer,
            best_run_id uuid, best_score double precision, best_params jsonb, leaderboard jsonb,
            created_at timestamptz, started_at timestamptz, completed_at timestamptz)
 WHERE workspace_id = %(workspace_id)s
    ON CONFLICT DO NOTHING

-- backtest_tune_runs --
-- The trials of the searches. Their knowledge-base columns take the platform's defaults.
INSERT INTO backtest_tune_runs (tune_id, run_id, trial_index, params, score, score_is, score_oos, metrics_is,
                                metrics_oos, status, failed_reason, created_at, started_at, finished_at)
SELECT tune_id, run_id, trial_index, params, score, score_is, score_oos, metrics_is,
       metrics_oos, status, failed_reason, created_at, started_at, finished_at
  FROM jsonb_to_recordset(%(rows)s::jsonb)
       AS r(tune_id uuid, run_id uuid, trial_index integer, params jsonb, score double precision,
            score_is double precision, score_oos double precision, metrics_is jsonb, metrics_oos jsonb,
            status text, failed_reason text, created_at timestamptz, started_at timestamptz,
            finished_at timestamptz)
 WHERE coalesce((SELECT tune.workspace_id = %(workspace_id)s
                   FROM backtest_tunes AS tune
                  WHERE tune.id = r.tune_id), true) -- a trial of no tune is not passed over but refused
    ON CONFLICT DO NOTHING
