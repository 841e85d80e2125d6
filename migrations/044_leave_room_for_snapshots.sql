-- Room in the pages of backtest_runs, so that a snapshot lands beside the row it belongs to.
--
-- A snapshot more than doubles a run's row. Where the page has room for the new version, no index entry is
-- written: landing is half as fast again. The space is not lost, snapshots fill it; a full page would be
-- left with holes of the old rows instead. No index holds a snapshot, which this rests on.
--
-- It says how pages are filled from now on and rewrites nothing. Another program's table is left as it is.
--
-- depends: 000_note_adopted_tables 001_create_platform_tables

DO $room$
BEGIN
    IF NOT EXISTS (SELECT FROM kb_adopted_tables WHERE table_name = 'backtest_runs') THEN
        ALTER TABLE backtest_runs SET (fillfactor = 30);
    END IF;
END
$room$;
