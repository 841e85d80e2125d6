-- workspace --
-- One workspace with two strategies.
WITH made AS (
    INSERT INTO workspaces (id, name, slug) VALUES (%(workspace_id)s, 'Benchmark', 'benchmark') RETURNING id
)
INSERT INTO kb_entities (id, workspace_id, type, name)
SELECT md5('strategy' || number)::uuid, made.id, 'strategy', 'strategy ' || number
  FROM made, generate_series(1, 2) AS number

-- runs --
-- Test variants: about a third pass the gate. Metrics repeat with the row number, so that every
-- database is the same; windows are either shared by many runs or each run's own.
INSERT INTO backtest_runs
       (id, created_at, workspace_id, strategy_entity_id, status, run_kind, params, dataset_meta, summary)
SELECT md5('run' || number)::uuid,
       timestamptz '2025-01-01 00:00+00' + number * interval '1 second',
       %(workspace_id)s,
       md5('strategy' || 1 + number %% 2)::uuid,
       'completed',
       'test_variant',
       jsonb_build_object('fast', 5 + number %% 40, 'slow', 50 + number %% 150),
       jsonb_build_object(
           'symbol', 'BENCH', 'timeframe', '1h', 'filename', 'BENCH_1h.csv', 'row_count', 5000,
           'oos_start', timestamp '2000-01-01' + (number * 7919 %% %(windows)s) * interval '1 hour',
           'oos_end', timestamp '2000-01-01'
               + (number * 7919 %% %(windows)s + 60 + number * 7919 %% %(windows)s * 104729 %% 500) * interval '1 hour'),
       jsonb_build_object(
           'return_pct', round((number %% 977) / 10.0 - 20, 4),
           'max_drawdown_pct', round((number * 31 %% 500) / 10.0, 4),
           'sharpe', round((number * 17 %% 3000) / 1000.0 - 0.5, 6),
           'win_rate', round((number %% 100) / 1.0, 2),
           'trade_count', number * 13 %% 60)
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number

-- tunes --
-- Completed tunes of ten trials each.
INSERT INTO backtest_tunes
       (id, created_at, workspace_id, strategy_entity_id, search_type, n_trials, param_space, status, completed_at)
SELECT md5('tune' || number)::uuid,
       timestamptz '2025-01-01 00:00+00' + number * interval '1 second',
       %(workspace_id)s,
       md5('strategy' || 1 + number %% 2)::uuid,
       'grid', 10, '{}', 'completed',
       timestamptz '2025-01-02 00:00+00' + number * interval '1 second'
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number

-- trial_runs --
-- The runs behind the trials; the tenth of each tune carries the snapshot of the tune's window.
INSERT INTO backtest_runs
       (id, created_at, workspace_id, strategy_entity_id, status, run_kind, params)
SELECT md5('trial' || number || '/' || trial)::uuid,
       timestamptz '2025-01-01 00:00+00' + number * interval '1 second',
       %(workspace_id)s,
       md5('strategy' || 1 + number %% 2)::uuid,
       'completed', 'tune_variant',
       jsonb_build_object('fast', 5 + trial, 'slow', 50 + number %% 5)
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number, generate_series(0, 9) AS trial

-- trials --
-- Trials with metrics and the snapshot of their tune's window, as the platform stores them.
INSERT INTO backtest_tune_runs
       (tune_id, run_id, trial_index, params, status, score, score_oos, metrics_oos)
SELECT md5('tune' || number)::uuid,
       md5('trial' || number || '/' || trial)::uuid,
       trial,
       jsonb_build_object('fast', 5 + trial, 'slow', 50 + number %% 5),
       'completed',
       (number * 17 + trial * 389) %% 3000 / 1000.0,
       (number * 17 + trial * 389) %% 3000 / 1000.0,
       jsonb_build_object(
           'sharpe', (number * 17 + trial * 389) %% 3000 / 1000.0,
           'return_pct', (number + trial) %% 50, 'max_drawdown_pct', -((number + trial) %% 40), 'trades', 12,
           'regime', %(snapshot)s::jsonb || jsonb_build_object('regime_tags',
               (array['["flat", "low_vol", "noisy"]', '["high_vol", "uptrend"]', '["downtrend", "efficient"]'])
               [1 + number %% 3]::jsonb))
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number, generate_series(0, 9) AS trial

-- bare_candidacy --
-- What a user would write by hand: gate, update and audit rows of a whole workspace in one statement.
WITH changed AS (
    UPDATE backtest_runs AS run
       SET kb_status = 'candidate',
           kb_status_changed_at = now(),
           kb_status_changed_by = 'backfill',
           auto_candidate_gate = 'passed_all_gates'
     WHERE run.workspace_id = %(workspace_id)s
       AND run.run_kind = 'test_variant'
       AND run.status IN ('completed', 'success')
       AND (run.kb_status = 'excluded' OR run.kb_status IS NULL)
       AND (run.kb_status_changed_by IS NULL OR run.kb_status_changed_by = 'backfill')
       AND coalesce(run.summary ->> 'experiment_type', 'sweep') IN ('tune', 'sweep', 'ablation')
       AND coalesce(run.trade_count, (run.summary ->> 'trades')::float8,
                    (run.summary ->> 'trade_count')::float8, 0) >= 5
       AND coalesce(abs((run.summary ->> 'max_drawdown_pct')::float8) / 100, 0) <= 0.25
       AND coalesce((run.summary ->> 'sharpe')::float8 >= 0.1, true)
 RETURNING run.id
)
INSERT INTO kb_status_history
       (workspace_id, source_type, source_id, from_status, to_status, actor_type, actor_id, reason)
SELECT %(workspace_id)s, 'test_variant', changed.id, 'excluded', 'candidate', 'auto', 'backfill',
       'passed_all_gates'
  FROM changed

-- bare_attribution --
-- What a user would write by hand: the best trial of each tune and its regime in one statement. It
-- trusts every number and every snapshot, and writes no baseline.
UPDATE backtest_tunes AS tune
   SET regime_schema_version = best.regime ->> 'schema_version',
       tag_ruleset_id = 'default_v1',
       regime_key = concat_ws('|', best.regime ->> 'schema_version', 'default_v1', coalesce(best.trend, '_'),
                              coalesce(best.vol, '_'), coalesce(best.efficiency, '_')),
       regime_fingerprint = encode(sha256(convert_to(
           concat_ws('|', best.regime ->> 'schema_version', 'default_v1', coalesce(best.trend, '_'),
                     coalesce(best.vol, '_'), coalesce(best.efficiency, '_')), 'UTF8')), 'hex'),
       trend_tag = best.trend,
       vol_tag = best.vol,
       efficiency_tag = best.efficiency,
       best_oos_score = best.sharpe,
       best_oos_params = best.params,
       best_oos_run_id = best.run_id,
       attributed_completed_at = tune.completed_at
  FROM (SELECT ranked.*,
               CASE WHEN ranked.tags ? 'uptrend' THEN 'uptrend' WHEN ranked.tags ? 'downtrend' THEN 'downtrend'
                    WHEN ranked.tags ? 'trending' THEN 'trending' WHEN ranked.tags ? 'flat' THEN 'flat' END AS trend,
               CASE WHEN ranked.tags ? 'high_vol' THEN 'high_vol'
                    WHEN ranked.tags ? 'low_vol' THEN 'low_vol' END AS vol,
               CASE WHEN ranked.tags ? 'efficient' THEN 'efficient'
                    WHEN ranked.tags ? 'noisy' THEN 'noisy' END AS efficiency
          FROM (SELECT DISTINCT ON (trial.tune_id)
                       trial.tune_id, trial.run_id, trial.params,
                       (trial.metrics_oos ->> 'sharpe')::float8 AS sharpe,
                       trial.metrics_oos -> 'regime' AS regime,
                       trial.metrics_oos -> 'regime' -> 'regime_tags' AS tags
                  FROM backtest_tune_runs AS trial
                 WHERE trial.status = 'completed'
                 ORDER BY trial.tune_id,
                          coalesce(trial.objective_score, trial.score_oos,
                                   (trial.metrics_oos ->> 'sharpe')::float8) DESC NULLS LAST,
                          trial.trial_index, trial.run_id) AS ranked
         WHERE jsonb_typeof(ranked.regime) = 'object') AS best
 WHERE tune.id = best.tune_id
   AND tune.workspace_id = %(workspace_id)s
   AND tune.status = 'completed'

-- attributed_runs --
-- Runs with a snapshot of their own, features spread evenly, one for each attributed tune.
INSERT INTO backtest_runs
       (id, created_at, workspace_id, strategy_entity_id, status, run_kind, params, dataset_meta, regime_oos,
        regime_schema_version)
SELECT md5('best' || number)::uuid,
       timestamptz '2025-01-01 00:00+00' + number * interval '1 second',
       %(workspace_id)s,
       md5('strategy1')::uuid,
       'completed', 'tune_variant',
       jsonb_build_object('fast', 5 + number %% 40, 'slow', 50 + number %% 150),
       jsonb_build_object('symbol', 'BENCH', 'timeframe', '1h'),
       %(snapshot)s::jsonb || jsonb_build_object(
           'atr_pct', 0.03 * spread.one, 'std_pct', 0.05 * spread.two, 'bb_width_pct', 0.2 * spread.two,
           'trend_strength', spread.three, 'trend_dir', number %% 3 - 1, 'zscore', 4 * spread.one - 2,
           'rsi', 100 * spread.four, 'efficiency_ratio', spread.five),
       'regime_v1_1'
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
 CROSS JOIN LATERAL (
       SELECT (hashint8extended(number, 1) & 65535) / 65535.0 AS one,
              (hashint8extended(number, 2) & 65535) / 65535.0 AS two,
              (hashint8extended(number, 3) & 65535) / 65535.0 AS three,
              (hashint8extended(number, 4) & 65535) / 65535.0 AS four,
              (hashint8extended(number, 5) & 65535) / 65535.0 AS five
       ) AS spread

-- attributed_tunes --
-- Tunes of one strategy as attribution leaves them, of the twenty regimes with a volatility and an efficiency tag.
INSERT INTO backtest_tunes
       (id, created_at, workspace_id, strategy_entity_id, search_type, n_trials, param_space, status, completed_at,
        attributed_completed_at, timeframe, regime_schema_version, tag_ruleset_id, regime_key, trend_tag, vol_tag,
        efficiency_tag, best_oos_score, best_oos_params, best_oos_run_id)
SELECT md5('attributed' || number)::uuid,
       timestamptz '2025-01-01 00:00+00' + number * interval '1 second',
       %(workspace_id)s,
       md5('strategy1')::uuid,
       'grid', 10, '{}', 'completed', finished.at, finished.at, '1h', 'regime_v1_1', 'default_v1',
       concat_ws('|', 'regime_v1_1', 'default_v1', tag.trend, tag.vol, tag.efficiency),
       nullif(tag.trend, '_'), tag.vol, tag.efficiency,
       (hashint8extended(number, 6) & 65535) / 20000.0,
       jsonb_build_object('fast', 5 + number %% 40, 'slow', 50 + number %% 150),
       md5('best' || number)::uuid
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
 CROSS JOIN LATERAL (SELECT timestamptz '2025-01-02 00:00+00' + number * interval '1 second' AS at) AS finished
 CROSS JOIN LATERAL (
       SELECT (array['uptrend', 'downtrend', 'trending', 'flat', '_'])[1 + number / 2 %% 5] AS trend,
              (array['high_vol', 'low_vol'])[1 + number / 10 %% 2] AS vol,
              (array['efficient', 'noisy'])[1 + number / 20 %% 2] AS efficiency
       ) AS tag

-- bare_recommendation --
-- What a user would write by hand for the best parameters of a strategy under some regime keys.
SELECT best.*
  FROM unnest(%(regime_keys)s::text[]) AS asked (regime_key)
 CROSS JOIN LATERAL (
       SELECT id, regime_key, best_oos_score, best_oos_params, best_oos_run_id
         FROM backtest_tunes
        WHERE workspace_id = %(workspace_id)s
          AND strategy_entity_id = %(strategy_id)s
          AND kb_named(timeframe) = '1h'::text
          AND kb_objective(objective_type, objective_metric) = 'sharpe'::text
          AND regime_key = asked.regime_key
        ORDER BY best_oos_score DESC NULLS LAST, id
        LIMIT %(rows)s
       ) AS best
 ORDER BY best.best_oos_score DESC NULLS LAST, best.id
 LIMIT %(rows)s
