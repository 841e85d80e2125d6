-- The ranking indexes over expressions that row-level security may evaluate before it has checked a row.
--
-- Under row-level security an index serves a condition only if Postgres knows that evaluating it tells
-- nothing of the row. It knows that of CASE and of the cast to name, which cuts to 63 bytes, well within
-- an index entry; it does not of coalesce() and left(). Both functions are plain SQL, so that the planner
-- sees what they are made of. The second index has the same columns as text, so that the planner never
-- takes it for the first, which alone begins with a strategy.
--
-- depends: 039_extend_recommendations

CREATE OR REPLACE FUNCTION kb_named(given text) RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$ SELECT (CASE WHEN given IS NULL THEN 'unknown' ELSE given END)::name $function$;

CREATE OR REPLACE FUNCTION kb_objective(objective_type varchar, objective_metric text) RETURNS name
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$ SELECT (CASE WHEN objective_type IS NULL THEN objective_metric ELSE objective_type END)::name $function$;

DROP INDEX IF EXISTS idx_tunes_recommendation, idx_tunes_comparable_ranking, idx_kb_trials_recommendation;

CREATE INDEX IF NOT EXISTS idx_tunes_ranking_in_strategy
    ON backtest_tunes (workspace_id, strategy_entity_id, kb_named(timeframe),
                       kb_objective(objective_type, objective_metric), regime_key,
                       best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_tunes_ranking_in_regime
    ON backtest_tunes (workspace_id, regime_key, (kb_named(timeframe)::text),
                       (kb_objective(objective_type, objective_metric)::text),
                       best_oos_score DESC NULLS LAST, id)
 WHERE regime_key IS NOT NULL;

CREATE INDEX IF NOT EXISTS idx_kb_trials_ranking_in_strategy
    ON kb_trials (workspace_id, strategy_entity_id, kb_named(timeframe), kb_named(objective),
                  (CASE WHEN regime_key IS NULL THEN '' ELSE regime_key END),
                  sharpe_oos DESC NULLS LAST, source_id)
 WHERE archived_at IS NULL AND source_type = 'test_variant';
