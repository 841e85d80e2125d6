-- read_sources_page --
-- Candidates, promoted runs and completed trials of tunes that are not ingested in their present
-- version, in (created_at, id) order after a position; a trial counts from its tune's creation. Each
-- branch reads an index in that order and stops at the page's size. What is ingested already is looked up by
-- its key for each row (LIMIT makes it so): before kb_trials was analysed, the planner would rather read all
-- of it for each row.
SELECT source.id::text,
       source.created_at::text,
       source.version,
       source.source_type,
       source.tune_id::text,
       source.strategy_entity_id::text,
       coalesce(source.strategy_name, entity.name),
       source.experiment_type,
       source.kb_status,
       source.params::text,
       source.timeframe,
       source.symbol,
       source.objective,
       source.objective_score,
       source.sharpe,
       source.return_pct,
       source.max_drawdown_pct,
       source.trades,
       source.sharpe_is,
       nullif(source.regime_oos, 'null')::text,
       source.known_hash
  FROM (
      (SELECT run.id, run.created_at, run.xmin::text AS version, 'test_variant' AS source_type,
              NULL::uuid AS tune_id, run.strategy_entity_id,
              run.summary ->> 'strategy_name' AS strategy_name,
              coalesce(run.summary ->> 'experiment_type', 'sweep') AS experiment_type,
              run.kb_status, run.params,
              run.dataset_meta ->> 'timeframe' AS timeframe, run.dataset_meta ->> 'symbol' AS symbol,
              coalesce(plan.objective_name, 'sharpe') AS objective, run.objective_score,
              kb_finite_number(read.metrics -> 'sharpe') AS sharpe,
              kb_finite_number(read.metrics -> 'return_pct') AS return_pct,
              kb_finite_number(read.metrics -> 'max_drawdown_pct') AS max_drawdown_pct,
              coalesce(run.trade_count, kb_finite_number(read.metrics -> 'trades'),
                       kb_finite_number(read.metrics -> 'trade_count')) AS trades,
              NULL::float8 AS sharpe_is, run.regime_oos,
              CASE WHEN known.archived_at IS NULL THEN known.content_hash END AS known_hash
         FROM backtest_runs AS run
         CROSS JOIN LATERAL (
              SELECT jsonb_object_agg(stored.name, CASE
                         WHEN jsonb_typeof(stored.value) = 'string'
                          AND stored.value #>> '{}' ~ '^[+-]?([0-9]{1,255}\.?[0-9]{0,255}|\.[0-9]{1,255})([eE][+-]?[0-9]{1,3})?$'
                         THEN to_jsonb((stored.value #>> '{}')::numeric)
                         ELSE stored.value END) AS metrics
                FROM jsonb_each(CASE WHEN jsonb_typeof(run.summary) = 'object' THEN run.summary END)
                     AS stored (name, value)
               WHERE stored.name IN ('sharpe', 'return_pct', 'max_drawdown_pct', 'trades', 'trade_count')
              ) AS read -- the gate reads numbers stored as text too
         LEFT JOIN run_plans AS plan
           ON plan.id = run.run_plan_id
          AND plan.workspace_id = run.workspace_id
         LEFT JOIN LATERAL (
              SELECT ingested.source_id, ingested.source_version, ingested.archived_at,
                     ingested.content_hash
                FROM kb_trials AS ingested
               WHERE ingested.workspace_id = %(workspace_id)s
                 AND ingested.source_type = 'test_variant'
                 AND ingested.source_id = run.id
               LIMIT 1
              ) AS known ON true
        WHERE run.workspace_id = %(workspace_id)s
          AND run.run_kind = 'test_variant'
          AND run.status IN ('completed', 'success')
          AND run.kb_status IN ('candidate', 'promoted')
          AND (known.source_id IS NULL
               OR known.source_version <> run.xmin::text
               OR known.archived_at IS NOT NULL)
          AND run.created_at >= %(since)s::timestamptz
          AND (run.created_at, run.id) > (%(after_created_at)s::timestamptz, %(after_id)s::uuid)
          AND (run.created_at, run.id) <= (%(until_created_at)s::timestamptz, %(until_id)s::uuid)
        ORDER BY run.created_at, run.id
        LIMIT %(rows)s)
    UNION ALL
      (SELECT trial.run_id, tune.created_at,
              concat_ws('/', trial.xmin, run.xmin, tune.xmin), 'tune_run',
              tune.id, tune.strategy_entity_id, NULL, 'tune', trial.kb_status, trial.params,
              run.dataset_meta ->> 'timeframe', run.dataset_meta ->> 'symbol',
              coalesce(tune.objective_type, tune.objective_metric), trial.objective_score,
              kb_finite_number(trial.metrics_oos -> 'sharpe'),
              kb_finite_number(trial.metrics_oos -> 'return_pct'),
              kb_finite_number(trial.metrics_oos -> 'max_drawdown_pct'),
              coalesce(kb_finite_number(trial.metrics_oos -> 'trades'),
                       kb_finite_number(trial.metrics_oos -> 'trade_count')),
              kb_finite_number(trial.metrics_is -> 'sharpe'),
              coalesce(nullif(run.regime_oos, 'null'), trial.metrics_oos -> 'regime'),
              CASE WHEN known.archived_at IS NULL THEN known.content_hash END
         FROM backtest_tunes AS tune
         JOIN backtest_tune_runs AS trial
           ON trial.tune_id = tune.id
          AND trial.status = 'completed'
          AND trial.kb_status IN ('candidate', 'promoted')
         LEFT JOIN backtest_runs AS run
           ON run.id = trial.run_id
          AND run.workspace_id = tune.workspace_id
         LEFT JOIN LATERAL (
              SELECT ingested.source_id, ingested.tune_id, ingested.source_version, ingested.archived_at,
                     ingested.content_hash
                FROM kb_trials AS ingested
               WHERE ingested.workspace_id = %(workspace_id)s
                 AND ingested.source_type = 'tune_run'
                 AND ingested.source_id = trial.run_id
               LIMIT 1
              ) AS known ON true
        WHERE tune.workspace_id = %(workspace_id)s
          AND tune.status = 'completed'
          AND (known.source_id IS NULL
               OR known.archived_at IS NOT NULL
               OR (known.tune_id = trial.tune_id -- the run may be a trial of another tune too
                   AND known.source_version <> concat_ws('/', trial.xmin, run.xmin, tune.xmin)))
          AND tune.created_at >= greatest(%(since)s::timestamptz, %(after_created_at)s::timestamptz)
          AND tune.created_at <= %(until_created_at)s::timestamptz
          AND (tune.created_at, trial.run_id) > (%(after_created_at)s::timestamptz, %(after_id)s::uuid)
          AND (tune.created_at, trial.run_id) <= (%(until_created_at)s::timestamptz, %(until_id)s::uuid)
        ORDER BY tune.created_at, trial.run_id
        LIMIT %(rows)s)
       ) AS source
  LEFT JOIN kb_entities AS entity
    ON entity.id = source.strategy_entity_id
   AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)
 ORDER BY source.created_at, source.id
 LIMIT %(rows)s

-- land_trials --
-- Insert trials, or bring known ones up to date; a row whose content is the same only learns the
-- version of its source, and an archived one is taken back. Single runs are noted for those who compare
-- regimes.
WITH landed AS (
    INSERT INTO kb_trials AS known
           (workspace_id, source_type, source_id, tune_id, strategy_entity_id, strategy_name, experiment_type,
            kb_status, params, params_fingerprint, timeframe, symbol, objective, objective_score, sharpe_oos,
            return_fraction_oos, max_drawdown_fraction_oos, trades_oos, sharpe_is, regime_schema_version,
            regime_oos, regime_key, trend_tag, vol_tag, efficiency_tag, content_hash, source_version,
            source_created_at)
    SELECT %(workspace_id)s, sent.source_type, sent.source_id, sent.tune_id, sent.strategy_entity_id,
           sent.strategy_name, sent.experiment_type, sent.kb_status, sent.params, sent.params_fingerprint,
           sent.timeframe, sent.symbol, sent.objective, sent.objective_score, sent.sharpe_oos,
           sent.return_fraction_oos, sent.max_drawdown_fraction_oos, sent.trades_oos, sent.sharpe_is,
           sent.regime_schema_version, sent.regime_oos, sent.regime_key, sent.trend_tag, sent.vol_tag,
           sent.efficiency_tag, sent.content_hash, sent.source_version, sent.source_created_at
      FROM jsonb_populate_recordset(NULL::kb_trials, %(trials)s::jsonb) AS sent
        ON CONFLICT (workspace_id, source_type, source_id) DO UPDATE
       SET tune_id = excluded.tune_id,
           strategy_entity_id = excluded.strategy_entity_id,
           strategy_name = excluded.strategy_name,
           experiment_type = excluded.experiment_type,
           kb_status = excluded.kb_status,
           params = excluded.params,
           params_fingerprint = excluded.params_fingerprint,
           timeframe = excluded.timeframe,
           symbol = excluded.symbol,
           objective = excluded.objective,
           objective_score = excluded.objective_score,
           sharpe_oos = excluded.sharpe_oos,
           return_fraction_oos = excluded.return_fraction_oos,
           max_drawdown_fraction_oos = excluded.max_drawdown_fraction_oos,
           trades_oos = excluded.trades_oos,
           sharpe_is = excluded.sharpe_is,
           regime_schema_version = excluded.regime_schema_version,
           regime_oos = excluded.regime_oos,
           regime_key = excluded.regime_key,
           trend_tag = excluded.trend_tag,
           vol_tag = excluded.vol_tag,
           efficiency_tag = excluded.efficiency_tag,
           content_hash = excluded.content_hash,
           source_version = excluded.source_version,
           source_created_at = excluded.source_created_at,
           ingested_at = CASE WHEN known.content_hash = excluded.content_hash
                              THEN known.ingested_at ELSE now() END,
           archived_at = NULL,
           archived_reason = NULL
    RETURNING known.source_type, known.source_id
), noted AS (
    INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
    SELECT %(workspace_id)s, 'run', array_agg(landed.source_id)
      FROM landed
     WHERE landed.source_type = 'test_variant'
    HAVING count(*) > 0
)
SELECT landed.source_id::text FROM landed

-- demoted --
-- Trials whose source is gone, or no longer a candidate, promoted or completed. OFFSET fences a look-up by
-- key: in tables that nobody has analysed yet the planner would compare every trial with every source.
SELECT known.source_type, known.source_id::text
  FROM kb_trials AS known
  LEFT JOIN LATERAL (
       SELECT found.status, found.kb_status
         FROM backtest_runs AS found
        WHERE found.id = known.source_id
          AND found.workspace_id = %(workspace_id)s
       OFFSET 0) AS run
    ON run.status IN ('completed', 'success')
   AND run.kb_status IN ('candidate', 'promoted')
 WHERE known.workspace_id = %(workspace_id)s
   AND known.archived_at IS NULL
   AND known.source_type = 'test_variant'
   AND run.status IS NULL
 UNION ALL
SELECT known.source_type, known.source_id::text
  FROM kb_trials AS known
  LEFT JOIN LATERAL (
       SELECT found.status, found.kb_status
         FROM backtest_tune_runs AS found
        WHERE found.tune_id = known.tune_id
          AND found.run_id = known.source_id
       OFFSET 0) AS trial
    ON trial.status = 'completed'
   AND trial.kb_status IN ('candidate', 'promoted')
  LEFT JOIN LATERAL (
       SELECT found.status
         FROM backtest_tunes AS found
        WHERE found.id = known.tune_id
          AND found.workspace_id = %(workspace_id)s
       OFFSET 0) AS tune
    ON tune.status = 'completed'
   AND trial.status IS NOT NULL
 WHERE known.workspace_id = %(workspace_id)s
   AND known.archived_at IS NULL
   AND known.source_type = 'tune_run'
   AND tune.status IS NULL

-- archive --
-- Put trials away; they keep their content and come back when their source does.
WITH archived AS (
    UPDATE kb_trials AS known
       SET archived_at = now(),
           archived_reason = 'the source is gone or no longer eligible'
      FROM unnest(%(source_types)s::text[], %(source_ids)s::uuid[]) AS demoted (source_type, source_id)
     WHERE known.workspace_id = %(workspace_id)s
       AND known.source_type = demoted.source_type
       AND known.source_id = demoted.source_id
       AND known.archived_at IS NULL
    RETURNING known.source_type, known.source_id
), noted AS (
    INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
    SELECT %(workspace_id)s, 'run', array_agg(archived.source_id)
      FROM archived
     WHERE archived.source_type = 'test_variant'
    HAVING count(*) > 0
)
SELECT count(*) FROM archived
