-- living_runs --
-- The Dagster runs that hold a session now, by the digits of their id that end the session's name.
SELECT DISTINCT substring(application_name FROM '^dagster .* run ([0-9a-f]{8})$')
  FROM pg_stat_activity
 WHERE application_name ~ '^dagster .* run [0-9a-f]{8}$'

-- written_rows --
-- How many rows were ever written to the tables that decide whether a tune is due, by Postgres's own
-- counters, which follow a commit within seconds; NULL where it keeps none. A run is there before the
-- trial that names it, so new runs alone decide nothing.
SELECT string_agg(concat_ws(' ', relname, CASE WHEN relname <> 'backtest_runs' THEN n_tup_ins END,
                            n_tup_upd, n_tup_del), ', ' ORDER BY relname)
  FROM pg_stat_user_tables
 WHERE relid IN ('workspaces'::regclass, 'backtest_tunes'::regclass, 'backtest_tune_runs'::regclass,
                 'backtest_runs'::regclass)
   AND current_setting('track_counts')::boolean
