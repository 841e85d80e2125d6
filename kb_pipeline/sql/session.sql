-- try_lock --
-- Take the session lock of one workspace and kind, or answer false at once.
SELECT pg_try_advisory_lock(%(key)s)

-- try_shared_lock --
-- Take the session lock of one workspace and kind beside others who do the same, or answer false at once.
SELECT pg_try_advisory_lock_shared(%(key)s)

-- unlock_shared --
-- Give back a session lock that was taken beside others.
SELECT pg_advisory_unlock_shared(%(key)s)

-- unlock --
-- Give the session lock back.
SELECT pg_advisory_unlock(%(key)s)

-- lock_holder --
-- Who holds a session lock: process, program, and since when it is connected.
SELECT activity.pid, activity.application_name, activity.backend_start::text
  FROM pg_locks AS held
  JOIN pg_stat_activity AS activity ON activity.pid = held.pid
 WHERE held.locktype = 'advisory'
   AND held.granted
   AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (held.classid::bigint << 32) | held.objid::bigint = %(key)s

-- work_in --
-- For the transaction: the workspace whose rows it may see and write. SET takes no parameters, so the id
-- is put in as a quoted literal.
SET LOCAL app.workspace_id = {workspace_id}

-- one_snapshot --
-- All statements of the transaction see the same moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ

-- allow_long_read --
-- For the transaction: a statement that reads all the history of a strategy.
SELECT set_config('statement_timeout', '10min', true)

-- now --
-- The database's clock, the only clock.
SELECT now()

-- workspace --
-- The name and slug of a workspace.
SELECT name, slug FROM workspaces WHERE id = %(workspace_id)s

-- workspaces --
-- Every workspace, the oldest first. The list of workspaces is no workspace's own.
SELECT id FROM workspaces ORDER BY created_at, id

-- first_workspaces --
-- The first workspaces by slug, for a message, and how many there are.
SELECT slug, id::text, count(*) OVER ()
  FROM workspaces
 ORDER BY slug
 LIMIT %(rows)s

-- refresh_statistics --
-- Count what lies in the platform's tables, so that the next plans fit it.
ANALYZE backtest_runs, backtest_tunes, backtest_tune_runs, kb_entities, workspaces, kb_trials
