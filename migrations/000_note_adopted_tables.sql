-- The tables that were there before this project's first migration: they belong to another program.
--
-- Row-level security is forced on the tables this project makes. On a table that was there it would take
-- the rows away from the program that writes them, so that is done only when asked for, by
-- `kb-pipeline db secure`, which takes the names away from here. A database that was migrated before this
-- file existed counts as adopted, but for the tables that nobody else makes.

DO $adopted$
BEGIN
    IF to_regclass('kb_adopted_tables') IS NOT NULL THEN
        RETURN;
    END IF;
    CREATE TABLE kb_adopted_tables (table_name text PRIMARY KEY, found_at timestamptz NOT NULL DEFAULT now());
    COMMENT ON TABLE kb_adopted_tables IS
        'Tables and views that belong to another program, which row-level security is not forced on.';
    INSERT INTO kb_adopted_tables (table_name)
    SELECT relname
      FROM pg_class
     WHERE relnamespace = current_schema()::regnamespace
       AND relkind IN ('r', 'p', 'v')
       AND relname NOT LIKE '%yoyo%'
       AND relname NOT IN ('kb_adopted_tables', 'kb_trials', 'kb_regime_uplift', 'kb_regime_changes',
                           'kb_regime_vectors', 'kb_regime_scales', 'kb_drift_evaluations', 'kb_drift_events');
END
$adopted$;
