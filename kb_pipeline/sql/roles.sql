-- make_server_roles --
-- The roles of the embedded server: one that owns the tables, one that works in them. The owner is a
-- member of the other, so that it may see who holds a table it is to change.
DO $roles$
BEGIN
    IF to_regrole('kb_owner') IS NULL THEN
        CREATE ROLE kb_owner LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
    IF to_regrole('kb_app') IS NULL THEN
        CREATE ROLE kb_app NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
    ALTER ROLE kb_app LOGIN;
    GRANT kb_app TO kb_owner;
END
$roles$

-- give_database --
-- Let a role own a database. Names cannot be parameters, so they are put in as quoted identifiers.
ALTER DATABASE {name} OWNER TO {owner}

-- give_tables --
-- Let a role own what the server's superuser made in the schema, as earlier versions did.
DO $tables$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('ALTER %s %s OWNER TO {owner}',
                      CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass)
          FROM pg_class
         WHERE relnamespace = 'public'::regnamespace
           AND relkind IN ('r', 'v')
           AND relowner = current_user::regrole
         UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO {owner}', oid::regprocedure)
          FROM pg_proc
         WHERE pronamespace = 'public'::regnamespace
           AND proowner = current_user::regrole
    LOOP
        EXECUTE command;
    END LOOP;
END
$tables$

-- make_app --
-- Make the role that works in the tables, where this one may make roles.
DO $app$
BEGIN
    IF to_regrole('kb_app') IS NULL
       AND (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        CREATE ROLE kb_app NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- a role is the whole server's, and another migration made it between the two
END
$app$

-- grant_to_app --
-- Let kb_app, where there is one, read and write rows and nothing else. What this role may not grant is
-- left to the owner of the table; kb-pipeline doctor says what is missing.
DO $grants$
DECLARE
    wanted record;
    commands text[] := '{}';
    command text;
BEGIN
    IF to_regrole('kb_app') IS NULL THEN
        RETURN;
    END IF;
    FOR wanted IN
        SELECT name::regclass AS name, privileges
          FROM (VALUES
            ('workspaces', 'SELECT, INSERT'), ('kb_entities', 'SELECT, INSERT'),
            ('kb_strategy_specs', 'SELECT, INSERT'), ('run_plans', 'SELECT, INSERT'),
            ('backtest_runs', 'SELECT, INSERT, UPDATE'), ('backtest_tunes', 'SELECT, INSERT, UPDATE'),
            ('backtest_tune_runs', 'SELECT, INSERT'), ('kb_status_history', 'SELECT, INSERT'),
            ('kb_eligible_trials', 'SELECT'), ('kb_backfill_runs', 'SELECT, INSERT, UPDATE'),
            ('recommend_events', 'SELECT, INSERT'), ('kb_trials', 'SELECT, INSERT, UPDATE'),
            ('kb_regime_uplift', 'SELECT, INSERT, DELETE'), ('kb_regime_changes', 'SELECT, INSERT, DELETE'),
            ('kb_regime_vectors', 'SELECT, INSERT, UPDATE, DELETE'),
            ('kb_regime_scales', 'SELECT, INSERT, UPDATE'),
            ('kb_drift_evaluations', 'SELECT, INSERT, UPDATE'), ('kb_drift_events', 'SELECT, INSERT, UPDATE'),
            ('kb_backfill_parts', 'SELECT, INSERT, UPDATE, DELETE'),
            ('kb_adopted_tables', 'SELECT'), ('_yoyo_migration', 'SELECT'))
            AS grants (name, privileges)
         WHERE to_regclass(name) IS NOT NULL
    LOOP
        commands := commands || format('GRANT %s ON %s TO kb_app', wanted.privileges, wanted.name);
        IF current_setting('server_version_num')::int >= 170000 THEN
            commands := commands || format('GRANT MAINTAIN ON %s TO kb_app', wanted.name);
        END IF;
    END LOOP;
    FOREACH command IN ARRAY format('GRANT USAGE ON SCHEMA %I TO kb_app', current_schema()) || commands LOOP
        BEGIN
            EXECUTE command;
        EXCEPTION WHEN insufficient_privilege OR wrong_object_type THEN
            RAISE NOTICE '%: %', command, SQLERRM;
        END;
    END LOOP;
END
$grants$

-- trust_functions --
-- Mark what tells nothing of the row it is given, where this role may: only a superuser can.
DO $trust$
BEGIN
    ALTER FUNCTION kb_run_symbol(jsonb) LEAKPROOF;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END
$trust$
