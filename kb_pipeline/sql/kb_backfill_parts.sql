-- forget_old --
-- Plans of more than a week ago.
DELETE FROM kb_backfill_parts WHERE created_at < now() - interval '7 days'

-- is_planned --
-- Whether a plan has its parts already.
SELECT EXISTS (SELECT FROM kb_backfill_parts WHERE plan = %(plan)s)

-- plan --
-- Write down the parts of a plan; one that is there already is left as it is.
INSERT INTO kb_backfill_parts
       (plan, ordinal, partition_key, backfill_type, workspace_id, symbol,
        after_created_at, after_id, until_created_at, until_id, lock_key, settings)
VALUES (%(plan)s, %(ordinal)s, %(key)s, %(kind)s, %(workspace_id)s, %(symbol)s,
        %(after_created_at)s, %(after_id)s, %(until_created_at)s, %(until_id)s, %(lock_key)s, %(settings)s::jsonb)
    ON CONFLICT (plan, ordinal) DO NOTHING

-- open_parts --
-- How many parts of a plan are not done and may still be tried.
SELECT count(*)
  FROM kb_backfill_parts
 WHERE plan = %(plan)s
   AND done_at IS NULL
   AND attempts < %(attempts)s

-- candidates --
-- The next parts of a plan that may be tried and that nobody holds.
SELECT part.ordinal, part.lock_key
  FROM kb_backfill_parts AS part
 WHERE part.plan = %(plan)s
   AND part.done_at IS NULL
   AND part.attempts < %(attempts)s
   AND part.retry_at <= now()
   AND NOT EXISTS (
       SELECT
         FROM pg_locks AS held
        WHERE held.locktype = 'advisory'
          AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (held.classid::bigint << 32) | held.objid::bigint = part.lock_key)
 ORDER BY part.ordinal
 LIMIT 20

-- holder_elsewhere --
-- Who works on rows of this part in another plan. Asked by the holder of the part's lock: of two that ask
-- at once, at least one sees the other.
SELECT other.partition_key, coalesce(other.holder, 'a process that has just begun')
  FROM kb_backfill_parts AS part
  JOIN kb_backfill_parts AS other
    ON other.workspace_id = part.workspace_id
   AND other.backfill_type = part.backfill_type
   AND other.plan <> part.plan
   AND other.done_at IS NULL
   AND (other.symbol IS NULL OR part.symbol IS NULL OR upper(other.symbol) = upper(part.symbol))
   AND (other.after_created_at, other.after_id) < (part.until_created_at, part.until_id)
   AND (part.after_created_at, part.after_id) < (other.until_created_at, other.until_id)
  JOIN pg_locks AS held
    ON held.locktype = 'advisory'
   AND held.granted
   AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (held.classid::bigint << 32) | held.objid::bigint = other.lock_key
 WHERE part.plan = %(plan)s
   AND part.ordinal = %(ordinal)s
 LIMIT 1

-- begin --
-- Begin a part, for the holder of its lock; no row where somebody has done it meanwhile.
UPDATE kb_backfill_parts AS part
   SET attempts = attempts + 1,
       holder = %(holder)s
 WHERE part.plan = %(plan)s
   AND part.ordinal = %(ordinal)s
   AND part.done_at IS NULL
   AND part.attempts < %(attempts)s
RETURNING part.partition_key, part.symbol, part.after_created_at::text, part.after_id::text,
          part.until_created_at::text, part.until_id::text, part.attempts,
          (SELECT count(*) FROM kb_backfill_parts AS sibling
            WHERE sibling.plan = part.plan AND sibling.partition_key = part.partition_key)

-- finish --
-- A part is done, with these counts.
UPDATE kb_backfill_parts
   SET done_at = now(), result = %(result)s::jsonb, error = NULL
 WHERE plan = %(plan)s
   AND ordinal = %(ordinal)s

-- fail --
-- A part did not succeed: to be tried again after a while, or never.
UPDATE kb_backfill_parts
   SET error = %(error)s,
       attempts = CASE WHEN %(final)s THEN 1000000 ELSE attempts END,
       retry_at = now() + make_interval(secs => %(seconds)s)
 WHERE plan = %(plan)s
   AND ordinal = %(ordinal)s

-- settings --
-- What a plan was made for.
SELECT settings::text FROM kb_backfill_parts WHERE plan = %(plan)s LIMIT 1

-- outcome --
-- What became of every part of a plan, in order.
SELECT partition_key, done_at IS NOT NULL, result, error, holder
  FROM kb_backfill_parts
 WHERE plan = %(plan)s
 ORDER BY ordinal
