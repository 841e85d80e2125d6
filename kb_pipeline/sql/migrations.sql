-- try_lock --
-- Take the migration lock of this database, if it is free.
SELECT pg_try_advisory_lock(%(key)s)

-- lock_holder --
-- Who holds the migration lock of this database.
SELECT activity.pid, activity.application_name
  FROM pg_locks AS held
  JOIN pg_database AS here ON here.oid = held.database AND here.datname = current_database()
  JOIN pg_stat_activity AS activity ON activity.pid = held.pid
 WHERE held.locktype = 'advisory'
   AND held.granted
   AND (held.classid::bigint << 32) | held.objid::bigint = %(key)s

-- table_users --
-- Open transactions that hold a lock on a table of this schema, the longest first.
SELECT activity.pid,
       coalesce(nullif(activity.application_name, ''), activity.usename) AS who,
       activity.state,
       extract(epoch FROM clock_timestamp() - activity.xact_start)::bigint AS seconds
  FROM pg_stat_activity AS activity
 WHERE activity.pid <> pg_backend_pid()
   AND EXISTS (SELECT
                 FROM pg_locks AS held
                 JOIN pg_class AS locked ON locked.oid = held.relation
                WHERE held.pid = activity.pid
                  AND held.granted
                  AND locked.relkind = 'r'
                  AND locked.relnamespace = current_schema()::regnamespace)
 ORDER BY activity.xact_start
 LIMIT 3

-- has_history --
-- Whether any migration was ever applied here.
SELECT to_regclass('_yoyo_migration') IS NOT NULL

-- applied --
-- Names of the migrations applied.
SELECT migration_id FROM _yoyo_migration
