-- training --
-- The newest attributed tunes of each series (strategy, symbol, timeframe), one for each window of
-- bars, each with the snapshot of its best trial.
SELECT found.strategy_id::text,
       entity.name,
       found.symbol,
       found.timeframe,
       found.regime::text
  FROM (SELECT windows.*,
               row_number() OVER (PARTITION BY strategy_id, symbol, timeframe
                                  ORDER BY completed_at DESC, tune_id) AS place
          FROM (SELECT tune.id AS tune_id,
                       tune.strategy_entity_id AS strategy_id,
                       tune.completed_at,
                       upper(coalesce(run.dataset_meta ->> 'symbol', snapshot.regime ->> 'instrument')) AS symbol,
                       coalesce(tune.timeframe, run.dataset_meta ->> 'timeframe',
                                snapshot.regime ->> 'timeframe') AS timeframe,
                       snapshot.regime,
                       row_number() OVER (PARTITION BY tune.strategy_entity_id,
                                                       upper(coalesce(run.dataset_meta ->> 'symbol',
                                                                      snapshot.regime ->> 'instrument')),
                                                       coalesce(tune.timeframe, run.dataset_meta ->> 'timeframe',
                                                                snapshot.regime ->> 'timeframe'),
                                                       snapshot.regime ->> 'ts_start',
                                                       snapshot.regime ->> 'ts_end'
                                          ORDER BY tune.completed_at DESC, tune.id) AS repetition
                  FROM backtest_tunes AS tune
                  LEFT JOIN backtest_runs AS run
                    ON run.id = tune.best_oos_run_id
                   AND run.workspace_id = tune.workspace_id
                  LEFT JOIN backtest_tune_runs AS trial
                    ON trial.tune_id = tune.id
                   AND trial.run_id = tune.best_oos_run_id
                 CROSS JOIN LATERAL (
                       SELECT coalesce(nullif(run.regime_oos, 'null'),
                                       nullif(trial.metrics_oos -> 'regime', 'null')) AS regime) AS snapshot
                 WHERE tune.workspace_id = %(workspace_id)s
                   AND tune.regime_key IS NOT NULL
                   AND tune.status = 'completed'
                   AND (%(strategy_id)s::uuid IS NULL OR tune.strategy_entity_id = %(strategy_id)s::uuid)
                   AND snapshot.regime IS NOT NULL) AS windows
         WHERE repetition = 1
           AND (%(symbol)s::text IS NULL OR symbol = upper(%(symbol)s::text))) AS found
  JOIN kb_entities AS entity
    ON entity.id = found.strategy_id
   AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)
 WHERE found.place <= %(windows)s
 ORDER BY entity.name, found.strategy_id, found.symbol, found.timeframe, found.place

-- before --
-- What the evaluations of a series over fewer bars found, the last one first.
SELECT departed, is_alarm
  FROM kb_drift_evaluations
 WHERE workspace_id = %(workspace_id)s
   AND strategy_entity_id = %(strategy_id)s
   AND symbol = %(symbol)s
   AND timeframe = %(timeframe)s
   AND newest_bar < %(newest_bar)s
 ORDER BY newest_bar DESC
 LIMIT %(evaluations)s

-- land_evaluation --
-- Keep what was found; a second look at the same newest bar takes the place of the first. Answers
-- whether these are the newest bars of the series that were ever looked at.
INSERT INTO kb_drift_evaluations AS known
       (workspace_id, strategy_entity_id, symbol, timeframe, newest_bar, reason, is_alarm, departed,
        regime_key, training_keys, key_share, distance, distance_limit, null_percentile, moved,
        training_snapshots, seed)
VALUES (%(workspace_id)s, %(strategy_id)s, %(symbol)s, %(timeframe)s, %(newest_bar)s, %(reason)s,
        %(is_alarm)s, %(departed)s, %(regime_key)s, %(training_keys)s, %(key_share)s, %(distance)s,
        %(distance_limit)s, %(null_percentile)s, %(moved)s::jsonb, %(training_snapshots)s, %(seed)s)
    ON CONFLICT (workspace_id, strategy_entity_id, symbol, timeframe, newest_bar) DO UPDATE
   SET evaluated_at = now(),
       reason = excluded.reason,
       is_alarm = excluded.is_alarm,
       departed = excluded.departed,
       regime_key = excluded.regime_key,
       training_keys = excluded.training_keys,
       key_share = excluded.key_share,
       distance = excluded.distance,
       distance_limit = excluded.distance_limit,
       null_percentile = excluded.null_percentile,
       moved = excluded.moved,
       training_snapshots = excluded.training_snapshots,
       seed = excluded.seed
RETURNING NOT EXISTS (
       SELECT FROM kb_drift_evaluations AS later
        WHERE later.workspace_id = known.workspace_id
          AND later.strategy_entity_id = known.strategy_entity_id
          AND later.symbol = known.symbol
          AND later.timeframe = known.timeframe
          AND later.newest_bar > known.newest_bar)

-- open_event --
-- Begin an event of a series, unless one lasts already.
INSERT INTO kb_drift_events
       (workspace_id, strategy_entity_id, symbol, timeframe, first_bar, reason, regime_key, training_keys,
        key_share, distance, distance_limit, null_percentile, moved, training_snapshots, seed, sentence)
VALUES (%(workspace_id)s, %(strategy_id)s, %(symbol)s, %(timeframe)s, %(newest_bar)s, %(reason)s,
        %(regime_key)s, %(training_keys)s, %(key_share)s, %(distance)s, %(distance_limit)s,
        %(null_percentile)s, %(moved)s::jsonb, %(training_snapshots)s, %(seed)s, %(sentence)s)
    ON CONFLICT (workspace_id, strategy_entity_id, symbol, timeframe) WHERE last_bar IS NULL DO NOTHING
RETURNING id

-- end_event --
-- End the event of a series that lasts, if there is one.
UPDATE kb_drift_events
   SET last_bar = greatest(first_bar, %(newest_bar)s::timestamptz)
 WHERE workspace_id = %(workspace_id)s
   AND strategy_entity_id = %(strategy_id)s
   AND symbol = %(symbol)s
   AND timeframe = %(timeframe)s
   AND last_bar IS NULL
RETURNING id

-- claim_alert --
-- Take one event that lasts and nobody was told of, so that no other process tells of it too.
UPDATE kb_drift_events AS event
   SET alerted_at = now(),
       alert_error = NULL
 WHERE event.workspace_id = %(workspace_id)s
   AND event.id = (SELECT waiting.id
                     FROM kb_drift_events AS waiting
                    WHERE waiting.workspace_id = %(workspace_id)s
                      AND waiting.last_bar IS NULL
                      AND waiting.alerted_at IS NULL
                      AND NOT waiting.id = ANY (%(tried)s::uuid[])
                    ORDER BY waiting.detected_at, waiting.id
                    LIMIT 1
                      FOR UPDATE SKIP LOCKED)
   AND event.alerted_at IS NULL
RETURNING event.id::text, event.strategy_entity_id::text,
          (SELECT entity.name
             FROM kb_entities AS entity
            WHERE entity.id = event.strategy_entity_id
              AND (entity.workspace_id = %(workspace_id)s OR entity.workspace_id IS NULL)),
          event.symbol, event.timeframe, event.first_bar, event.reason, event.sentence

-- give_back_alert --
-- An event was not told after all: the next evaluation tries again.
UPDATE kb_drift_events
   SET alerted_at = NULL,
       alert_error = %(error)s
 WHERE workspace_id = %(workspace_id)s
   AND id = %(event_id)s::uuid

-- events --
-- The events of a workspace, the newest first.
SELECT event.id::text, event.strategy_entity_id::text AS strategy_id, strategy.name AS strategy_name,
       event.symbol, event.timeframe, event.first_bar, event.last_bar, event.detected_at, event.reason,
       event.regime_key, event.training_keys, event.distance, event.distance_limit, event.null_percentile,
       event.moved, event.sentence, event.alerted_at, event.alert_error
  FROM kb_drift_events AS event
  JOIN kb_entities AS strategy
    ON strategy.id = event.strategy_entity_id
   AND (strategy.workspace_id = %(workspace_id)s OR strategy.workspace_id IS NULL)
 WHERE event.workspace_id = %(workspace_id)s
 ORDER BY event.detected_at DESC, event.id
 LIMIT %(rows)s
