-- session --
-- Who the session is: role, whether row-level security or any check is beyond it, whether it could lift
-- row-level security as the owner of the tables, and whether there is the role kb_app.
SELECT current_user::text, role.rolsuper OR role.rolbypassrls,
       (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'backtest_runs'::regclass),
       to_regrole('kb_app') IS NOT NULL
  FROM pg_roles AS role
 WHERE role.rolname = current_user

-- refused_privileges --
-- What the backfills need and this role may not do.
SELECT needed.table_name, needed.privilege
  FROM (VALUES ('workspaces', 'SELECT'), ('kb_entities', 'SELECT'), ('kb_strategy_specs', 'SELECT'),
               ('run_plans', 'SELECT'), ('backtest_tune_runs', 'SELECT'),
               ('backtest_runs', 'SELECT'), ('backtest_runs', 'UPDATE'),
               ('backtest_tunes', 'SELECT'), ('backtest_tunes', 'UPDATE'),
               ('kb_status_history', 'INSERT'),
               ('kb_trials', 'SELECT'), ('kb_trials', 'INSERT'), ('kb_trials', 'UPDATE'),
               ('kb_backfill_runs', 'SELECT'), ('kb_backfill_runs', 'INSERT'), ('kb_backfill_runs', 'UPDATE'))
       AS needed (table_name, privilege)
 WHERE NOT has_table_privilege(needed.table_name, needed.privilege)

-- unguarded_tables --
-- Tables that row-level security is not forced on, because another program made them.
SELECT table_name
  FROM kb_adopted_tables
  JOIN pg_class ON oid = to_regclass(table_name)
  JOIN pg_attribute ON attrelid = oid AND attname = 'workspace_id' AND NOT attisdropped
 WHERE relkind IN ('r', 'p')
   AND NOT (relrowsecurity AND relforcerowsecurity)
 ORDER BY table_name

-- open_ledger_rows --
-- Backfills of a workspace that the ledger says are running: kind, who runs them and since when they last
-- committed, in seconds.
SELECT run.backfill_type, run.holder,
       extract(epoch FROM clock_timestamp() - run.updated_at)::float8
  FROM kb_backfill_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.status = 'running'
   AND run.holder IS NOT NULL
 ORDER BY run.started_at

-- blocked_sessions --
-- Sessions of this database that wait for another one: who, for how many seconds, and for whom.
SELECT waiting.pid, waiting.application_name,
       extract(epoch FROM clock_timestamp() - waiting.query_start)::float8,
       pg_blocking_pids(waiting.pid)
  FROM pg_stat_activity AS waiting
 WHERE waiting.datname = current_database()
   AND cardinality(pg_blocking_pids(waiting.pid)) > 0
 ORDER BY waiting.query_start

-- waiting_tunes --
-- The completed tunes of a workspace without an attribution and the seconds since the first of them
-- completed. The partial index holds just these.
SELECT count(*),
       extract(epoch FROM clock_timestamp() - min(tune.completed_at))::float8
  FROM backtest_tunes AS tune
 WHERE tune.workspace_id = %(workspace_id)s
   AND tune.status = 'completed'
   AND (tune.regime_key IS NULL OR tune.attributed_completed_at IS DISTINCT FROM tune.completed_at)
