-- Uplift of choosing parameters by regime: medians with their intervals, by regime and by strategy.
--
-- All rows of a workspace are replaced at once; the ledger row they name tells of the computation.
-- A strategy or regime of NULL means all of them, a timeframe of NULL that the runs name none. Scores of
-- different timeframes or objectives are not comparable and so are never in one row. low and high are
-- the 95 % interval of the median; NULL is unknown, never zero. over_blind is against the parameters
-- best whatever the regime, gap is in-sample minus out-of-sample score of the parameters selected.
--
-- depends: 001_create_platform_tables 034_extend_backfill_ledger

ALTER TABLE kb_backfill_runs
    DROP CONSTRAINT IF EXISTS kb_backfill_runs_backfill_type_check,
    ADD CONSTRAINT kb_backfill_runs_backfill_type_check
        CHECK (backfill_type IN ('candidacy', 'regime', 'attribution', 'trials', 'uplift'));

CREATE TABLE IF NOT EXISTS kb_regime_uplift (
    id                  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    workspace_id        uuid NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    ledger_id           uuid REFERENCES kb_backfill_runs ON DELETE SET NULL,
    computed_at         timestamptz NOT NULL DEFAULT now(),
    scope               text NOT NULL CHECK (scope IN ('strategy', 'regime', 'strategy_regime')),
    strategy_entity_id  uuid REFERENCES kb_entities ON DELETE CASCADE,
    regime_key          text,
    trend_tag           text,
    vol_tag             text,
    efficiency_tag      text,
    timeframe           text,
    objective           text,
    tunes               integer NOT NULL,
    n                   integer NOT NULL,
    median              double precision,
    low                 double precision,
    high                double precision,
    share_positive      double precision,
    same                integer NOT NULL,
    by_default          integer NOT NULL,
    thin                boolean NOT NULL,
    symbols             integer NOT NULL,
    clustered_by        text NOT NULL CHECK (clustered_by IN ('symbol', 'tune')),
    few_symbols         boolean NOT NULL,
    over_blind_n        integer NOT NULL,
    over_blind_median   double precision,
    over_blind_low      double precision,
    over_blind_high     double precision,
    gap_n               integer NOT NULL,
    gap                 double precision,
    tiers               jsonb NOT NULL,
    unknown             jsonb NOT NULL
);

CREATE INDEX IF NOT EXISTS idx_kb_regime_uplift_workspace
    ON kb_regime_uplift (workspace_id, scope, strategy_entity_id, regime_key);
