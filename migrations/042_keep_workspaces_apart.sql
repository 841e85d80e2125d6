-- Row-level security: a transaction sees and writes the rows of the workspace that app.workspace_id names.
--
-- Unset, or left empty by an earlier transaction, it is an error and not an empty answer. The setting is
-- read once a statement, in a sub-select. FORCE makes the tables' owner obey too. Foreign keys between
-- rows of tenants carry the workspace, so that no row can name another workspace's.
--
-- A trial has no workspace of its own on the platform. Asking its tune for it would cost an index probe a
-- row, so a table of our own has a column for it, filled in from the tune where an insert does not name it.
-- Strategies may be shared by all workspaces (workspace_id NULL), which foreign keys cannot express; they
-- may be read by all and written by none.
--
-- Tables listed in kb_adopted_tables are left alone. `kb-pipeline db secure` shows what it would do to
-- them, which is what kb_missing_guards() returns, and does it when told to. A later migration that changes
-- rows must lift FORCE for it: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.
--
-- depends: 000_note_adopted_tables 001_create_platform_tables 032_tune_regime_attribution 038_create_regime_uplift 040_create_drift_events 041_rank_by_leakproof_expressions

CREATE OR REPLACE FUNCTION kb_name_trials_workspace() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NEW.workspace_id IS NULL THEN
        SELECT tune.workspace_id INTO NEW.workspace_id FROM backtest_tunes AS tune WHERE tune.id = NEW.tune_id;
    END IF;
    RETURN NEW;
END
$function$;

-- The statements that are missing until workspaces are kept apart, in their order.
CREATE OR REPLACE FUNCTION kb_missing_guards() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $function$
DECLARE
    mine CONSTANT text := 'workspace_id = (SELECT current_setting(''app.workspace_id'')::uuid)';
    wanted record;
BEGIN
    IF NOT EXISTS (SELECT FROM kb_adopted_tables WHERE table_name IN ('backtest_tunes', 'backtest_tune_runs'))
       AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'backtest_tune_runs'::regclass
                                                  AND attname = 'workspace_id' AND NOT attisdropped) THEN
        RETURN NEXT 'ALTER TABLE backtest_tune_runs ADD COLUMN workspace_id uuid';
        RETURN NEXT 'UPDATE backtest_tune_runs AS trial SET workspace_id = tune.workspace_id'
                    ' FROM backtest_tunes AS tune WHERE tune.id = trial.tune_id';
        RETURN NEXT 'ALTER TABLE backtest_tune_runs ALTER COLUMN workspace_id SET NOT NULL';
        RETURN NEXT 'CREATE TRIGGER tr_backtest_tune_runs_workspace BEFORE INSERT ON backtest_tune_runs'
                    ' FOR EACH ROW EXECUTE FUNCTION kb_name_trials_workspace()';
    END IF;

    -- Foreign keys: what they refer to, then the keys in place of those without a workspace.
    FOR wanted IN
        SELECT name
          FROM unnest(ARRAY['run_plans', 'kb_strategy_specs', 'backtest_runs', 'backtest_tunes',
                            'kb_backfill_runs']) AS parent (name)
         WHERE name NOT IN (SELECT table_name FROM kb_adopted_tables)
           AND NOT EXISTS (SELECT FROM pg_constraint
                            WHERE conrelid = name::regclass AND conname = name || '_in_workspace')
    LOOP
        RETURN NEXT format('ALTER TABLE %1$I ADD CONSTRAINT %2$I UNIQUE (id, workspace_id)',
                           wanted.name, wanted.name || '_in_workspace');
    END LOOP;
    FOR wanted IN
        SELECT child, key, parent, on_delete, format('%s_%s_in_workspace', child, key) AS name,
               (SELECT relforcerowsecurity FROM pg_class WHERE oid = child::regclass) AS is_forced,
               (SELECT string_agg(format(' DROP CONSTRAINT %I,', conname), '' ORDER BY conname)
                  FROM pg_constraint
                  JOIN pg_attribute ON attrelid = conrelid AND conkey = ARRAY[attnum]
                 WHERE contype = 'f' AND conrelid = child::regclass AND attname = key) AS dropped
          FROM (VALUES
            ('backtest_runs', 'run_plan_id', 'run_plans', 'SET NULL (run_plan_id)'),
            ('backtest_runs', 'strategy_spec_id', 'kb_strategy_specs', 'SET NULL (strategy_spec_id)'),
            ('backtest_tunes', 'strategy_spec_id', 'kb_strategy_specs', 'SET NULL (strategy_spec_id)'),
            ('backtest_tunes', 'best_run_id', 'backtest_runs', 'SET NULL (best_run_id)'),
            ('backtest_tunes', 'best_oos_run_id', 'backtest_runs', 'SET NULL (best_oos_run_id)'),
            ('backtest_tune_runs', 'tune_id', 'backtest_tunes', 'CASCADE'),
            ('backtest_tune_runs', 'run_id', 'backtest_runs', 'CASCADE'),
            ('kb_regime_uplift', 'ledger_id', 'kb_backfill_runs', 'SET NULL (ledger_id)'))
            AS link (child, key, parent, on_delete)
         WHERE NOT EXISTS (SELECT FROM kb_adopted_tables WHERE table_name IN (child, parent))
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_constraint
                               WHERE conrelid = wanted.child::regclass AND conname = wanted.name);
        -- The check of the rows that are there is made as the owner, who must see them all.
        IF wanted.is_forced THEN
            RETURN NEXT format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY', wanted.child);
        END IF;
        RETURN NEXT format('ALTER TABLE %I%s ADD CONSTRAINT %I FOREIGN KEY (%I, workspace_id)'
                           ' REFERENCES %I (id, workspace_id) ON DELETE %s',
                           wanted.child, coalesce(wanted.dropped, ''), wanted.name, wanted.key,
                           wanted.parent, wanted.on_delete);
        IF wanted.is_forced THEN
            RETURN NEXT format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', wanted.child);
        END IF;
    END LOOP;

    FOR wanted IN
        SELECT name, relrowsecurity AND relforcerowsecurity AS is_forced,
               EXISTS (SELECT FROM pg_policy WHERE polrelid = name::regclass AND polname = 'kb_workspace')
                   AS has_policy
          FROM unnest(ARRAY['kb_entities', 'kb_strategy_specs', 'run_plans', 'backtest_runs',
                            'backtest_tunes', 'backtest_tune_runs', 'kb_status_history', 'kb_trial_index',
                            'kb_backfill_runs', 'recommend_events', 'kb_trials', 'kb_regime_uplift',
                            'kb_regime_changes', 'kb_regime_vectors', 'kb_regime_scales',
                            'kb_drift_evaluations', 'kb_drift_events']) AS tenant (name)
          JOIN pg_class ON pg_class.oid = name::regclass
         WHERE name NOT IN (SELECT table_name FROM kb_adopted_tables)
    LOOP
        IF NOT wanted.has_policy AND wanted.name = 'kb_entities' THEN
            RETURN NEXT format('CREATE POLICY kb_workspace ON kb_entities'
                               ' USING (%1$s OR workspace_id IS NULL) WITH CHECK (%1$s)', mine);
        ELSIF NOT wanted.has_policy THEN
            RETURN NEXT format('CREATE POLICY kb_workspace ON %I USING (%s)', wanted.name, mine);
        END IF;
        IF NOT wanted.is_forced THEN
            RETURN NEXT format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', wanted.name);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_class WHERE oid = 'kb_eligible_trials'::regclass
                                      AND NOT coalesce(reloptions @> '{security_invoker=true}', false))
       AND 'kb_eligible_trials' NOT IN (SELECT table_name FROM kb_adopted_tables) THEN
        RETURN NEXT 'ALTER VIEW kb_eligible_trials SET (security_invoker = true)';
    END IF;
END
$function$;

DO $guards$
DECLARE
    command text;
BEGIN
    FOR command IN SELECT kb_missing_guards() LOOP
        EXECUTE command;
    END LOOP;
END
$guards$;
