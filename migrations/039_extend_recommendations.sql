-- What recommendations read: tunes and runs ranked inside a strategy, a timeframe and an objective, and
-- the features of their regimes packed for a scan by distance.
--
-- Scores of different timeframes or objectives are not ranked against each other, so both stand in the
-- index; a recommendation probes it once for each regime key that may serve. Trend and volatility are
-- part of those keys, so the index on the tags alone is not needed any more, and there are no more
-- indexes to keep than before. Texts that anybody may write are cut to what an index entry can hold.
--
-- Features are packed by the thousand, because a million rows take longer to read than to compare. What
-- attribution and ingestion wrote is noted in kb_regime_changes, a row a batch, and packed by whoever
-- asks for a distance next.
--
-- depends: 033_create_recommend_events 036_add_backfill_indexes 037_create_kb_trials

CREATE TABLE IF NOT EXISTS kb_regime_changes (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id  uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    source_type   text NOT NULL CHECK (source_type IN ('tune', 'run')),
    ids           uuid[] NOT NULL
);

COMMENT ON TABLE kb_regime_changes IS 'Tunes and runs whose packed regime features are missing or out of date.';

CREATE INDEX IF NOT EXISTS idx_kb_regime_changes_workspace
    ON kb_regime_changes (workspace_id, id);

DO $attributed_before$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                    WHERE attrelid = 'backtest_tunes'::regclass AND attname = 'timeframe' AND NOT attisdropped) THEN
        ALTER TABLE backtest_tunes ADD COLUMN timeframe text;
        UPDATE backtest_tunes AS tune
           SET timeframe = left(run.dataset_meta ->> 'timeframe', 32)
          FROM backtest_runs AS run
         WHERE run.id = tune.best_oos_run_id
           AND tune.regime_key IS NOT NULL;
        INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
        SELECT workspace_id, 'tune', array_agg(id)
          FROM backtest_tunes
         WHERE regime_key IS NOT NULL
         GROUP BY workspace_id, get_byte(uuid_send(id), 15);
        INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
        SELECT workspace_id, 'run', array_agg(source_id)
          FROM kb_trials
         WHERE source_type = 'test_variant' AND regime_key IS NOT NULL
         GROUP BY workspace_id, get_byte(uuid_send(source_id), 15);
    END IF;
END
$attributed_before$;

COMMENT ON COLUMN backtest_tunes.timeframe IS 'Bar length of the best trial''s data; NULL where it names none.';

CREATE INDEX IF NOT EXISTS idx_tunes_recommendation
    ON backtest_tunes (workspace_id, strategy_entity_id, coalesce(timeframe, 'unknown'),
                       left(coalesce(objective_type, objective_metric), 50), regime_key,
                       best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

DROP INDEX IF EXISTS idx_tunes_trend_vol_ranking;

-- An array, so that the planner never takes it for the index above, which alone begins with a strategy.
CREATE INDEX IF NOT EXISTS idx_tunes_comparable_ranking
    ON backtest_tunes (workspace_id, regime_key,
                       (ARRAY[coalesce(timeframe, 'unknown'), left(coalesce(objective_type, objective_metric), 50)]),
                       best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

DROP INDEX IF EXISTS idx_tunes_regime_ranking;

CREATE INDEX IF NOT EXISTS idx_kb_trials_recommendation
    ON kb_trials (workspace_id, strategy_entity_id, left(coalesce(timeframe, 'unknown'), 32),
                  left(coalesce(objective, 'unknown'), 50), coalesce(regime_key, ''),
                  sharpe_oos DESC NULLS LAST, source_id)
 WHERE archived_at IS NULL AND source_type = 'test_variant';

DROP INDEX IF EXISTS idx_kb_trials_ranking;

ALTER TABLE recommend_events
    ADD COLUMN IF NOT EXISTS partial_trend_vol_count integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS timeframe text,
    ADD COLUMN IF NOT EXISTS objective text;

COMMENT ON COLUMN recommend_events.tier_used IS
    'exact, partial_trend_vol, partial_trend, partial_vol, distance, global_best; none where nothing was found.';

CREATE TABLE IF NOT EXISTS kb_regime_vectors (
    workspace_id        uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    strategy_entity_id  uuid NOT NULL REFERENCES kb_entities ON DELETE CASCADE,
    timeframe           text NOT NULL,
    objective           text NOT NULL,
    source_type         text NOT NULL CHECK (source_type IN ('tune', 'run')),
    bucket              smallint NOT NULL CHECK (bucket BETWEEN 0 AND 255),
    ids                 bytea NOT NULL,
    features            bytea NOT NULL,
    PRIMARY KEY (workspace_id, strategy_entity_id, timeframe, objective, source_type, bucket)
);

COMMENT ON TABLE kb_regime_vectors IS
    'Regime features of the attributed tunes and ingested runs whose id ends in the byte `bucket`; made '
    'from the snapshots and safe to delete once each is noted in kb_regime_changes.';
COMMENT ON COLUMN kb_regime_vectors.ids IS '16 bytes a row.';
COMMENT ON COLUMN kb_regime_vectors.features IS
    'Little-endian float4, all rows of one feature after the other; NaN where a feature is undefined.';

-- Random bits do not compress, and a value kept whole is read fastest.
ALTER TABLE kb_regime_vectors
    ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN features SET STORAGE EXTERNAL;

CREATE TABLE IF NOT EXISTS kb_regime_scales (
    workspace_id  uuid PRIMARY KEY REFERENCES workspaces ON DELETE CASCADE,
    scales        double precision[] NOT NULL,
    snapshots     bigint NOT NULL,
    computed_at   timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE kb_regime_scales IS
    'The robust scale of each regime feature over the packed snapshots of a workspace.';
