-- name: usage
-- What a user's memory takes, and what was told of it. No row also when there is nothing to tell, unless `always`: an
-- unlimited user's contents need not be counted.
SELECT memory_bytes(q.user_id) AS bytes, q.memory_limit AS "limit", q.memory_hard AS hard, q.memory_level AS told
FROM user_quotas AS q
WHERE q.user_id = %(user_id)s AND (%(always)s OR q.memory_limit IS NOT NULL OR q.memory_level > 0);

-- name: set_level
-- Only whoever changes it tells of it.
UPDATE user_quotas SET memory_level = %(level)s WHERE user_id = %(user_id)s AND memory_level = %(told)s;

-- name: refusal
-- What a hard limit leaves; no row when the content fits.
SELECT memory_bytes(q.user_id) AS bytes, q.memory_limit AS "limit", q.memory_hard AS hard
FROM user_quotas AS q
WHERE q.user_id = %(user_id)s AND NOT memory_fits(%(user_id)s, %(sha256)s, %(data)s::bytea);

-- name: turn
-- Before a transaction that may store several contents: their order must not matter.
SELECT memory_lock_limit(%(user_id)s);
