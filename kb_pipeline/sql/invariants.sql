-- tags_against_key --
-- Attributed tunes and trials whose tag columns are not those of their regime key.
SELECT named.id::text, named.regime_key, concat_ws('|', coalesce(named.trend_tag, '_'),
                                                   coalesce(named.vol_tag, '_'),
                                                   coalesce(named.efficiency_tag, '_')) AS found
  FROM (SELECT id, regime_key, regime_schema_version, tag_ruleset_id, trend_tag, vol_tag, efficiency_tag
          FROM backtest_tunes
         WHERE workspace_id = %(workspace_id)s
         UNION ALL
        SELECT source_id, regime_key, regime_schema_version, %(ruleset_id)s, trend_tag, vol_tag, efficiency_tag
          FROM kb_trials
         WHERE workspace_id = %(workspace_id)s) AS named
 WHERE named.regime_key IS NOT NULL
   AND named.regime_key <> concat_ws('|', named.regime_schema_version, named.tag_ruleset_id,
                                     coalesce(named.trend_tag, '_'), coalesce(named.vol_tag, '_'),
                                     coalesce(named.efficiency_tag, '_'))
 ORDER BY named.id
 LIMIT %(rows)s

-- fingerprint_against_key --
-- Attributed tunes whose fingerprint is not the SHA-256 of their regime key.
SELECT id::text, regime_key, coalesce(regime_fingerprint, 'none') AS found
  FROM backtest_tunes
 WHERE workspace_id = %(workspace_id)s
   AND regime_key IS NOT NULL
   AND regime_fingerprint IS DISTINCT FROM encode(sha256(convert_to(regime_key, 'UTF8')), 'hex')
 ORDER BY id
 LIMIT %(rows)s

-- overwritten_decisions --
-- Runs that a backfill changed although the decision before it was a person's.
SELECT auto.source_id::text, before.actor_id, concat(before.to_status, ' -> ', auto.to_status) AS found
  FROM kb_status_history AS auto
 CROSS JOIN LATERAL (
       SELECT earlier.actor_type, earlier.actor_id, earlier.to_status
         FROM kb_status_history AS earlier
        WHERE earlier.workspace_id = auto.workspace_id
          AND earlier.source_type = auto.source_type
          AND earlier.source_id = auto.source_id
          AND earlier.created_at < auto.created_at
        ORDER BY earlier.created_at DESC
        LIMIT 1) AS before
 WHERE auto.workspace_id = %(workspace_id)s
   AND auto.actor_type = 'auto'
   AND auto.actor_id = %(actor)s
   AND before.actor_type = 'admin'
 ORDER BY auto.created_at DESC
 LIMIT %(rows)s

-- unaudited_changes --
-- Runs that a backfill of this project made candidates without exactly one audit row of the same
-- transaction, which has the same time.
SELECT run.id::text, 'candidate', concat(audit.rows, ' audit rows of ', run.kb_status_changed_at) AS found
  FROM backtest_runs AS run
 CROSS JOIN LATERAL (
       SELECT count(*) AS rows
         FROM kb_status_history AS history
        WHERE history.workspace_id = run.workspace_id
          AND history.source_type = 'test_variant'
          AND history.source_id = run.id
          AND history.to_status = 'candidate'
          AND history.actor_type = 'auto'
          AND history.actor_id = %(actor)s
          AND history.created_at = run.kb_status_changed_at) AS audit
 WHERE run.workspace_id = %(workspace_id)s
   AND run.kb_status = 'candidate'
   AND run.kb_status_changed_by = %(actor)s
   AND run.kb_status_changed_at >= (SELECT min(ledger.started_at)
                                      FROM kb_backfill_runs AS ledger
                                     WHERE ledger.workspace_id = %(workspace_id)s
                                       AND ledger.backfill_type = 'candidacy'
                                       AND ledger.holder IS NOT NULL)
   AND audit.rows <> 1
 ORDER BY run.id
 LIMIT %(rows)s

-- audited_twice --
-- Changes by a backfill that follow on another one by a backfill, with nothing between them that could
-- have undone it.
SELECT changes.source_id::text, changes.actor_id, concat(changes.before_status, ' -> ', changes.to_status) AS found
  FROM (SELECT history.*,
               lag(history.actor_type) OVER earlier AS before_type,
               lag(history.actor_id) OVER earlier AS before_actor,
               lag(history.to_status) OVER earlier AS before_status
          FROM kb_status_history AS history
         WHERE history.workspace_id = %(workspace_id)s
        WINDOW earlier AS (PARTITION BY history.source_type, history.source_id ORDER BY history.created_at)
       ) AS changes
 WHERE changes.actor_type = 'auto'
   AND changes.actor_id = %(actor)s
   AND (changes.before_type, changes.before_actor) = ('auto', %(actor)s)
 ORDER BY changes.created_at DESC
 LIMIT %(rows)s

-- unbalanced_ledger --
-- Backfills, ended or killed, whose counts do not add up to the rows they scanned.
SELECT id::text, backfill_type, concat(scanned_count, ' scanned, ', processed_count, ' written, ',
                                       skipped_count, ' left, ', error_count, ' in conflict') AS found
  FROM kb_backfill_runs
 WHERE workspace_id = %(workspace_id)s
   AND holder IS NOT NULL
   AND scanned_count <> processed_count + skipped_count + error_count
 ORDER BY started_at DESC
 LIMIT %(rows)s

-- oversized_transactions --
-- Transactions that changed more rows than one batch. Restoring a dump is such a transaction too, but
-- as a rule it also wrote rows that a backfill has not come to yet.
SELECT written.version, written.kind, concat(written.rows, ' rows') AS found
  FROM (SELECT 'candidacy' AS kind, xmin::text AS version, count(*) AS rows
          FROM kb_status_history
         WHERE workspace_id = %(workspace_id)s
           AND actor_type = 'auto'
           AND actor_id = %(actor)s
         GROUP BY xmin::text, created_at
         UNION ALL
        SELECT 'regime', xmin::text, count(*)
          FROM backtest_runs
         WHERE workspace_id = %(workspace_id)s
         GROUP BY xmin::text
        HAVING bool_and(coalesce(regime_oos ->> 'computation_source' = 'backfill', false))
         UNION ALL
        SELECT 'attribution', xmin::text, count(*)
          FROM backtest_tunes
         WHERE workspace_id = %(workspace_id)s
         GROUP BY xmin::text
        HAVING bool_and(attributed_completed_at IS NOT NULL)
         UNION ALL
        SELECT 'trials', xmin::text, count(*)
          FROM kb_trials
         WHERE workspace_id = %(workspace_id)s
         GROUP BY xmin::text, ingested_at) AS written
 WHERE written.rows > %(batch_rows)s
 ORDER BY written.rows DESC, written.kind, written.version
 LIMIT %(rows)s

-- trials_against_source --
-- Trials in use that were made of the present version of their source and are not what it says.
SELECT known.source_id::text, known.source_type, concat_ws(' ', known.kb_status, known.sharpe_oos) AS found
  FROM kb_trials AS known
 CROSS JOIN LATERAL (
       SELECT run.xmin::text AS version, run.kb_status, read.metrics, run.regime_oos
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
        WHERE known.source_type = 'test_variant'
          AND run.id = known.source_id
          AND run.workspace_id = known.workspace_id
        UNION ALL
       SELECT concat_ws('/', trial.xmin, run.xmin, tune.xmin), trial.kb_status, trial.metrics_oos,
              coalesce(nullif(run.regime_oos, 'null'), trial.metrics_oos -> 'regime')
         FROM backtest_tune_runs AS trial
         JOIN backtest_tunes AS tune
           ON tune.id = trial.tune_id
          AND tune.workspace_id = known.workspace_id
         LEFT JOIN backtest_runs AS run
           ON run.id = trial.run_id
          AND run.workspace_id = known.workspace_id
        WHERE known.source_type = 'tune_run'
          AND trial.tune_id = known.tune_id
          AND trial.run_id = known.source_id) AS source
 WHERE known.workspace_id = %(workspace_id)s
   AND known.archived_at IS NULL
   AND known.source_version = source.version
   AND (known.kb_status, known.sharpe_oos, known.return_fraction_oos, known.max_drawdown_fraction_oos,
        known.regime_oos -> 'regime_tags')
       IS DISTINCT FROM
       (source.kb_status, kb_finite_number(source.metrics -> 'sharpe'),
        kb_finite_number(source.metrics -> 'return_pct') / 100,
        abs(kb_finite_number(source.metrics -> 'max_drawdown_pct')) / 100,
        CASE WHEN known.regime_oos IS NOT NULL THEN source.regime_oos -> 'regime_tags' END)
 ORDER BY known.source_id
 LIMIT %(rows)s

-- attributions_against_trials --
-- Tunes that are not attributed what the best of their trials says, though nothing they were attributed
-- from has changed since.
SELECT tune.id::text, tune.regime_key, concat_ws(' ', best.run_id, best.sharpe, snapshot.tags) AS found
  FROM backtest_tunes AS tune
 CROSS JOIN LATERAL (
       SELECT trial.run_id, trial.metrics_oos, kb_finite_number(trial.metrics_oos -> 'sharpe') AS sharpe
         FROM backtest_tune_runs AS trial
        WHERE trial.tune_id = tune.id
          AND trial.status = 'completed'
          AND jsonb_typeof(trial.metrics_oos) = 'object'
        ORDER BY nullif(nullif(nullif(
                     coalesce(trial.objective_score, trial.score_oos, kb_finite_number(trial.metrics_oos -> 'sharpe')),
                     'NaN'), 'Infinity'), '-Infinity') DESC NULLS LAST,
                 trial.trial_index, trial.run_id
        LIMIT 1) AS best
  LEFT JOIN backtest_runs AS run
    ON run.id = best.run_id
   AND run.workspace_id = tune.workspace_id
 CROSS JOIN LATERAL (
       SELECT coalesce(nullif(run.regime_oos, 'null'), best.metrics_oos -> 'regime') -> 'regime_tags' AS tags
       ) AS snapshot
 WHERE tune.workspace_id = %(workspace_id)s
   AND tune.status = 'completed'
   AND tune.regime_key IS NOT NULL
   AND tune.attributed_completed_at IS NOT DISTINCT FROM tune.completed_at
   AND coalesce(age(run.xmin) >= age(tune.xmin), true)
   AND NOT EXISTS (SELECT FROM backtest_tune_runs AS newer
                    WHERE newer.tune_id = tune.id
                      AND age(newer.xmin) < age(tune.xmin))
   AND (tune.best_oos_run_id IS DISTINCT FROM best.run_id
        OR tune.best_oos_score IS DISTINCT FROM best.sharpe
        OR NOT coalesce(snapshot.tags @> to_jsonb(array_remove(
               ARRAY[tune.trend_tag, tune.vol_tag, tune.efficiency_tag], NULL)), false))
 ORDER BY tune.id
 LIMIT %(rows)s

-- untouched_candidates --
-- The newest candidates of a backfill that nobody changed since: their audit row is of the same
-- transaction, so what they were decided from is what stands there.
SELECT run.id
  FROM kb_status_history AS history
  JOIN backtest_runs AS run
    ON run.id = history.source_id
   AND run.workspace_id = history.workspace_id
   AND run.xmin = history.xmin
 WHERE history.workspace_id = %(workspace_id)s
   AND history.source_type = 'test_variant'
   AND history.actor_type = 'auto'
   AND history.actor_id = %(actor)s
   AND run.kb_status = 'candidate'
   AND run.kb_status_changed_by = %(actor)s
 ORDER BY history.created_at DESC, run.id
 LIMIT %(rows)s

-- newest_regimes --
-- The newest runs with a regime of a backfill: what the snapshot says as JSON text, and its tags.
SELECT run.id::text, run.regime_oos::text
  FROM backtest_runs AS run
 WHERE run.workspace_id = %(workspace_id)s
   AND run.run_kind = 'test_variant'
   AND run.status IN ('completed', 'success')
   AND run.regime_oos ->> 'computation_source' = 'backfill'
 ORDER BY run.created_at DESC, run.id DESC
 LIMIT %(rows)s
