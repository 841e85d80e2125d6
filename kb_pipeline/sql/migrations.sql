-- may_create --
-- Where a new table would go, and whether this user may create one there.
SELECT current_schema(), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), current_user

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
