-- name: reserve
SELECT granted, state, tokens, cost, dimension, remaining, retry_after, resets_at, expires_at, epoch, repeated
FROM quota_reserve(
    %(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(min_tokens)s::bigint, %(cost)s::numeric,
    %(slots)s::integer, %(requests)s::integer, %(builds)s::integer, %(ttl)s::interval, %(holder)s::text,
    %(meta)s::jsonb
);

-- name: settle
SELECT outcome, tokens, cost, overrun
FROM quota_settle(%(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric, %(meta)s::jsonb);

-- name: release
SELECT outcome, tokens, cost, overrun FROM quota_release(%(user_id)s, %(reservation_id)s);

-- name: extend
SELECT granted, state, tokens, cost, dimension, remaining, retry_after, resets_at, expires_at, epoch, repeated
FROM quota_extend(%(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric, %(ttl)s::interval);

-- name: progress
SELECT quota_progress(%(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric);

-- name: add
SELECT outcome, tokens, cost, overrun
FROM quota_add(%(user_id)s, %(reservation_id)s, %(tokens)s::bigint, %(cost)s::numeric, %(meta)s::jsonb);

-- name: roll
SELECT quota_roll(%(limit)s);

-- name: usage
-- As the next reservation will see it: an ended period, an earlier day and old requests count no more.
SELECT
    CASE WHEN q.period_end > t.now THEN q.tokens_used ELSE 0 END AS tokens_used,
    CASE WHEN q.period_end > t.now THEN q.tokens_held ELSE 0 END AS tokens_held,
    q.tokens_limit,
    CASE WHEN q.period_end > t.now THEN q.cost_used ELSE 0 END AS cost_used,
    CASE WHEN q.period_end > t.now THEN q.cost_held ELSE 0 END AS cost_held,
    q.cost_limit,
    q.containers_used AS slots_held,
    q.containers_limit AS slots_limit,
    (quota_ring_take(q.request_cells, q.request_minute, t.now, 0, NULL)).used AS requests_last_hour,
    q.requests_limit,
    CASE WHEN q.build_day >= (t.now AT TIME ZONE q.time_zone)::date THEN q.builds_used ELSE 0 END AS builds_today,
    q.builds_limit,
    CASE WHEN q.period_end > t.now THEN q.period_start
         ELSE greatest((quota_month(q.period_anchor, q.time_zone, t.now)).period_start, q.period_end)
    END AS period_start,
    CASE WHEN q.period_end > t.now THEN q.period_end
         ELSE (quota_month(q.period_anchor, q.time_zone, t.now)).period_end
    END AS period_end,
    q.time_zone
FROM user_quotas AS q
CROSS JOIN (SELECT clock_timestamp() AS now) AS t
WHERE q.user_id = %(user_id)s;

-- name: holds
-- Soonest to expire first.
SELECT id, tokens, cost, slots, tokens_progressed, cost_progressed, holder, meta, epoch, created_at, expires_at
FROM quota_reservations
WHERE user_id = %(user_id)s
ORDER BY expires_at, id;

-- name: set_limits
UPDATE user_quotas SET
    tokens_limit = CASE WHEN %(set_tokens)s THEN %(tokens)s::bigint ELSE tokens_limit END,
    cost_limit = CASE WHEN %(set_cost)s THEN %(cost)s::numeric ELSE cost_limit END,
    containers_limit = CASE WHEN %(set_containers)s THEN %(containers)s::integer ELSE containers_limit END,
    requests_limit = CASE WHEN %(set_requests)s THEN %(requests)s::integer ELSE requests_limit END,
    builds_limit = CASE WHEN %(set_builds)s THEN %(builds)s::integer ELSE builds_limit END
WHERE user_id = %(user_id)s;

-- name: verify
-- Every period of every user, or of one, that does not balance; and of how many were looked at.
WITH counted AS (
    SELECT user_id, period_start, tokens_used, cost_used, tokens_held, cost_held, containers_used, true AS present
    FROM user_quotas
    UNION ALL
    SELECT user_id, period_start, tokens_used, cost_used, 0, 0, 0, false FROM quota_history
), charged AS (
    SELECT user_id, period_start, sum(amount) FILTER (WHERE kind IN ('tokens', 'expired')) AS tokens, sum(cost) AS cost
    FROM usage_ledger WHERE period_start IS NOT NULL GROUP BY user_id, period_start
), promised AS (
    SELECT user_id, period_start, sum(tokens) AS tokens, sum(cost) AS cost
    FROM quota_reservations GROUP BY user_id, period_start
), running AS (
    SELECT user_id, sum(slots) AS slots FROM quota_reservations GROUP BY user_id
), books AS (
    SELECT
        coalesce(c.user_id, l.user_id) AS user_id,
        coalesce(c.period_start, l.period_start) AS period_start,
        coalesce(c.tokens_used, 0) AS tokens_used, coalesce(l.tokens, 0)::bigint AS tokens_charged,
        coalesce(c.cost_used, 0) AS cost_used, coalesce(l.cost, 0) AS cost_charged,
        coalesce(c.tokens_held, 0) AS tokens_held,
        CASE WHEN c.present THEN coalesce(h.tokens, 0) ELSE 0 END::bigint AS tokens_promised,
        coalesce(c.cost_held, 0) AS cost_held,
        CASE WHEN c.present THEN coalesce(h.cost, 0) ELSE 0 END AS cost_promised,
        coalesce(c.containers_used, 0) AS slots_held,
        CASE WHEN c.present THEN coalesce(r.slots, 0) ELSE 0 END::bigint AS slots_promised
    FROM counted AS c
    FULL JOIN charged AS l ON l.user_id = c.user_id AND l.period_start = c.period_start
    LEFT JOIN promised AS h ON h.user_id = c.user_id AND h.period_start = c.period_start
    LEFT JOIN running AS r ON r.user_id = c.user_id
    WHERE %(user_id)s::uuid IS NULL OR coalesce(c.user_id, l.user_id) = %(user_id)s
)
SELECT
    n.periods, b.user_id, b.period_start, b.tokens_used, b.tokens_charged, b.cost_used, b.cost_charged,
    b.tokens_held, b.tokens_promised, b.cost_held, b.cost_promised, b.slots_held, b.slots_promised
FROM (SELECT count(*) AS periods FROM books) AS n
LEFT JOIN books AS b
    ON (b.tokens_used, b.cost_used, b.tokens_held, b.cost_held, b.slots_held)
       <> (b.tokens_charged, b.cost_charged, b.tokens_promised, b.cost_promised, b.slots_promised)
ORDER BY b.user_id, b.period_start;
