-- name: reserve
CALL quota_call_reserve(
    %(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(min_tokens)s::bigint, %(cost)s::numeric,
    %(slots)s::integer, %(requests)s::integer, %(builds)s::integer, %(ttl)s::interval, %(holder)s::text,
    %(meta)s::jsonb,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
);

-- name: reserve_in_transaction
-- The same inside a transaction, as always when acting for a tenant: then it cannot commit by itself.
SELECT d.* FROM quota_reserve(
    %(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(min_tokens)s::bigint, %(cost)s::numeric,
    %(slots)s::integer, %(requests)s::integer, %(builds)s::integer, %(ttl)s::interval, %(holder)s::text,
    %(meta)s::jsonb
) AS d;

-- name: wait
SELECT d.* FROM quota_wait(
    %(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(min_tokens)s::bigint, %(cost)s::numeric,
    %(slots)s::integer, %(requests)s::integer, %(builds)s::integer, %(ttl)s::interval, %(holder)s::text,
    %(meta)s::jsonb, %(wait)s::interval
) AS d;

-- name: leave
SELECT quota_leave(%(user_id)s, %(reservation_id)s);

-- name: settle
SELECT s.* FROM quota_settle(
    %(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric, %(requests)s::integer, %(meta)s::jsonb
) AS s;

-- name: release
SELECT s.* FROM quota_release(%(user_id)s, %(reservation_id)s) AS s;

-- name: extend
SELECT d.* FROM quota_extend(%(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric, %(ttl)s::interval) AS d;

-- name: progress
SELECT quota_progress(%(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric);

-- name: add
SELECT s.* FROM quota_add(%(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric, %(meta)s::jsonb) AS s;

-- name: lease
SELECT d.* FROM quota_lease(
    %(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(min_tokens)s::bigint, %(cost)s::numeric,
    %(min_cost)s::numeric, %(requests)s::integer, %(min_requests)s::integer, %(ttl)s::interval, %(holder)s::text,
    %(meta)s::jsonb
) AS d;

-- name: hit
CALL quota_call_hit(%(user_id)s, %(requests)s::integer, %(durable)s, NULL, NULL, NULL, NULL);

-- name: hit_in_transaction
SELECT d.* FROM quota_hit(%(user_id)s, %(requests)s::integer) AS d;

-- name: hit_in_transaction_not_durable
-- The setting only matters for the commit, so the order of the two calls does not.
SELECT d.* FROM quota_hit(%(user_id)s, %(requests)s::integer) AS d, set_config('synchronous_commit', 'off', true);

-- name: holders (read)
-- Return the holders of the containers.
SELECT DISTINCT holder FROM quota_reservations
WHERE user_id = %(user_id)s AND slots > 0 AND holder <> ''
ORDER BY holder;
