-- name: due_periods (read)
-- Users whose period has ended, the longest ago first.
WITH page AS (
    SELECT period_end, user_id FROM user_quotas
    WHERE period_end <= %(now)s AND (period_end, user_id) > (%(at)s::timestamptz, %(user_id)s::uuid)
    ORDER BY period_end, user_id LIMIT %(limit)s
)
SELECT (SELECT count(*) FROM page) AS examined, coalesce(array_agg(user_id), '{}') AS users,
       (SELECT period_end FROM page ORDER BY period_end DESC, user_id DESC LIMIT 1) AS at,
       (SELECT user_id FROM page ORDER BY period_end DESC, user_id DESC LIMIT 1) AS user_id
FROM page;

-- name: close_periods
SELECT maintenance_close_periods(%(users)s);

-- name: holds (read)
-- A page of all reservations, and the users of the expired ones. By the key: an index on the expiry would cost every
-- reservation.
WITH page AS (
    SELECT user_id, id, expires_at FROM quota_reservations
    WHERE (user_id, id) > (%(user_id)s::uuid, %(id)s::uuid)
    ORDER BY user_id, id LIMIT %(limit)s
)
SELECT (SELECT count(*) FROM page) AS examined,
       count(*) FILTER (WHERE expires_at <= %(now)s) AS expired,
       coalesce(array_agg(DISTINCT user_id) FILTER (WHERE expires_at <= %(now)s), '{}') AS users,
       (SELECT user_id FROM page ORDER BY user_id DESC, id DESC LIMIT 1) AS user_id,
       (SELECT id FROM page ORDER BY user_id DESC, id DESC LIMIT 1) AS id
FROM page;

-- name: reclaim
SELECT ended, busy FROM maintenance_reclaim(%(users)s, %(limit)s, %(wait)s);

-- name: sessions
-- The page stands apart: PostgreSQL may run a sub-select with a limit several times, and then deletes more.
WITH page AS (
    SELECT user_id, id FROM sessions WHERE expires_at <= %(before)s AND expires_at >= %(at)s
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM sessions WHERE expires_at <= %(before)s AND (user_id, id) IN (SELECT user_id, id FROM page)
    RETURNING expires_at
)
SELECT count(*) AS removed, max(expires_at) AS at FROM gone;

-- name: sessions_left (read)
SELECT count(*) FROM sessions WHERE expires_at <= %(before)s;

-- name: previews
-- A stopped preview never comes back.
WITH page AS (
    SELECT user_id, id FROM previews WHERE status = 'stopped' AND stopped_at < %(before)s AND stopped_at >= %(at)s
    ORDER BY stopped_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM previews WHERE status = 'stopped' AND (user_id, id) IN (SELECT user_id, id FROM page)
    RETURNING stopped_at
)
SELECT count(*) AS removed, max(stopped_at) AS at FROM gone;

-- name: previews_left (read)
SELECT count(*) FROM previews WHERE status = 'stopped' AND stopped_at < %(before)s;

-- name: failed_previews
-- Failing is the last change of a row. The order is that of created_at, which is earlier: the index has no other
-- column.
WITH page AS (
    SELECT user_id, id FROM previews
    WHERE status = 'failed' AND updated_at < %(before)s AND created_at < %(before)s AND created_at >= %(at)s
    ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM previews WHERE status = 'failed' AND (user_id, id) IN (SELECT user_id, id FROM page)
    RETURNING created_at
)
SELECT count(*) AS removed, max(created_at) AS at FROM gone;

-- name: failed_previews_left (read)
SELECT count(*) FROM previews WHERE status = 'failed' AND updated_at < %(before)s AND created_at < %(before)s;

-- name: events
WITH page AS (
    SELECT user_id, id FROM events WHERE created_at < %(before)s AND created_at >= %(at)s
    ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM events WHERE (user_id, id) IN (SELECT user_id, id FROM page)
    RETURNING created_at
)
SELECT count(*) AS removed, max(created_at) AS at FROM gone;

-- name: events_left (read)
SELECT count(*) FROM events WHERE created_at < %(before)s;

-- name: claims (read)
-- A page of all names, and the lost ones among them.
WITH page AS (
    SELECT value, kind, user_id FROM claims WHERE (value, kind) > (%(value)s, %(kind)s)
    ORDER BY value, kind LIMIT %(limit)s
), lost AS (
    SELECT value, kind FROM page WHERE claim_is_lost(kind, value, user_id)
)
SELECT (SELECT count(*) FROM page) AS examined, coalesce(array_agg(value), '{}') AS values,
       coalesce(array_agg(kind), '{}') AS kinds,
       (SELECT value FROM page ORDER BY value DESC, kind DESC LIMIT 1) AS value,
       (SELECT kind FROM page ORDER BY value DESC, kind DESC LIMIT 1) AS kind
FROM lost;

-- name: lock_claims
-- Whoever takes a name over holds its row, see previews.
SELECT coalesce(array_agg(value), '{}') AS values, coalesce(array_agg(kind), '{}') AS kinds
FROM (
    SELECT c.value, c.kind FROM claims AS c
    JOIN unnest(%(values)s::text[], %(kinds)s::text[]) AS found (value, kind) ON found.value = c.value AND found.kind = c.kind
    FOR UPDATE OF c SKIP LOCKED
) AS locked;

-- name: free_claims
-- Free those of the locked names that are still lost.
DELETE FROM claims AS c USING unnest(%(values)s::text[], %(kinds)s::text[]) AS found (value, kind)
WHERE c.value = found.value AND c.kind = found.kind AND claim_is_lost(c.kind, c.value, c.user_id);

-- name: ports (read)
WITH page AS (
    SELECT machine, port, user_id, preview_id FROM preview_ports WHERE (machine, port) > (%(machine)s, %(port)s)
    ORDER BY machine, port LIMIT %(limit)s
), lost AS (
    SELECT machine, port FROM page WHERE claim_is_lost('preview_port', preview_id::text, user_id)
)
SELECT (SELECT count(*) FROM page) AS examined, coalesce(array_agg(machine), '{}') AS machines,
       coalesce(array_agg(port), '{}') AS ports,
       (SELECT machine FROM page ORDER BY machine DESC, port DESC LIMIT 1) AS machine,
       (SELECT port FROM page ORDER BY machine DESC, port DESC LIMIT 1) AS port
FROM lost;

-- name: lock_ports
SELECT coalesce(array_agg(machine), '{}') AS machines, coalesce(array_agg(port), '{}') AS ports
FROM (
    SELECT p.machine, p.port FROM preview_ports AS p
    JOIN unnest(%(machines)s::text[], %(ports)s::integer[]) AS found (machine, port)
        ON found.machine = p.machine AND found.port = p.port
    FOR UPDATE OF p SKIP LOCKED
) AS locked;

-- name: free_ports
DELETE FROM preview_ports AS p USING unnest(%(machines)s::text[], %(ports)s::integer[]) AS found (machine, port)
WHERE p.machine = found.machine AND p.port = found.port
  AND claim_is_lost('preview_port', p.preview_id::text, p.user_id);
