-- name: usage (read)
-- Return the bytes that a user's memory takes, and the level that was reported. Unless `always`, return no row when
-- there is nothing to report: the contents of an unlimited user need not be counted.
SELECT (SELECT coalesce(sum(octet_length(b.data)), 0) FROM memory_blobs AS b WHERE b.user_id = q.user_id) AS bytes,
       q.memory_limit AS "limit", q.memory_hard AS hard, q.memory_level AS told
FROM user_quotas AS q
WHERE q.user_id = %(user_id)s AND (%(always)s OR q.memory_limit IS NOT NULL OR q.memory_level > 0);

-- name: set_level
-- Only the caller that changes the level reports it.
UPDATE user_quotas SET memory_level = %(level)s WHERE user_id = %(user_id)s AND memory_level = %(told)s;

-- name: fits
SELECT memory_fits(%(user_id)s, %(sha256)s, %(data)s::bytea);

-- name: turn
-- Lock the limit before a transaction stores several contents, so that the order of the contents does not matter.
SELECT memory_lock_limit(%(user_id)s);
