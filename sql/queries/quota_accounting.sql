-- name: usage (read)
-- Return the quota as the next reservation will see it: an ended period, an earlier day, old requests and expired
-- top-ups do not count, and expired reservations are charged (`x`, see quota_reclaim). `over` is what
-- quota_consume_grants would charge to the top-ups, the soonest to expire first.
SELECT
    CASE WHEN t.open THEN q.tokens_used + x.tokens ELSE 0 END AS tokens_used,
    CASE WHEN t.open THEN q.tokens_held - x.tokens ELSE 0 END AS tokens_held,
    q.tokens_limit - q.tokens_granted + d.tokens_granted AS tokens_limit,
    d.tokens_granted,
    CASE WHEN t.open THEN q.cost_used + x.cost ELSE 0 END AS cost_used,
    CASE WHEN t.open THEN q.cost_held - x.cost ELSE 0 END AS cost_held,
    q.cost_limit - q.cost_granted + d.cost_granted AS cost_limit,
    d.cost_granted,
    q.containers_used - x.slots AS slots_held,
    q.containers_limit AS slots_limit,
    (quota_ring_add(quota_ring_take(q.request_cells, q.request_minute, t.now, 0, NULL), x.ends, x.counts)).used
        AS requests_last_hour,
    q.requests_held - x.requests AS requests_held,
    q.requests_limit,
    CASE WHEN q.build_day >= (t.now AT TIME ZONE q.time_zone)::date THEN q.builds_used ELSE 0 END AS builds_today,
    q.builds_limit,
    CASE WHEN t.open THEN q.period_start
         ELSE greatest((quota_month(q.period_anchor, q.time_zone, t.now)).period_start, q.period_end)
    END AS period_start,
    CASE WHEN t.open THEN q.period_end
         ELSE (quota_month(q.period_anchor, q.time_zone, t.now)).period_end
    END AS period_end,
    q.time_zone,
    q.overridden,
    (SELECT count(*) FROM quota_waiters AS w WHERE w.user_id = q.user_id AND w.alive_until > q.now)::integer AS waiting
FROM (SELECT n.*, clock_timestamp() AS now FROM user_quotas AS n WHERE n.user_id = %(user_id)s) AS q
CROSS JOIN LATERAL (
    SELECT q.now, q.period_end > q.now AS open,
           greatest(q.tokens_used + q.tokens_held - (q.tokens_limit - q.tokens_granted) - q.tokens_burned, 0) AS tokens_over,
           greatest(q.cost_used + q.cost_held - (q.cost_limit - q.cost_granted) - q.cost_burned, 0) AS cost_over
) AS t
CROSS JOIN LATERAL (
    SELECT coalesce(sum(r.tokens) FILTER (WHERE r.period_start = q.period_start), 0)::bigint AS tokens,
           coalesce(sum(r.cost) FILTER (WHERE r.period_start = q.period_start), 0) AS cost,
           coalesce(sum(r.slots), 0)::integer AS slots,
           coalesce(sum(r.requests) FILTER (WHERE r.leased), 0)::integer AS requests,
           array_agg(r.expires_at) FILTER (WHERE r.leased) AS ends, array_agg(r.requests) FILTER (WHERE r.leased) AS counts
    FROM quota_reservations AS r WHERE r.user_id = q.user_id AND r.expires_at <= q.now
) AS x
CROSS JOIN LATERAL (
    SELECT coalesce(sum(o.tokens - o.tokens_burned) FILTER (WHERE o.expires_at <= q.now), 0)::bigint AS tokens_gone,
           coalesce(sum(o.cost - o.cost_burned) FILTER (WHERE o.expires_at <= q.now), 0) AS cost_gone,
           coalesce(sum(o.tokens - o.tokens_burned) FILTER (WHERE o.expires_at > q.now OR o.expires_at IS NULL), 0)::bigint
               AS tokens_left,
           coalesce(sum(o.cost - o.cost_burned) FILTER (WHERE o.expires_at > q.now OR o.expires_at IS NULL), 0) AS cost_left
    FROM quota_grants AS o WHERE o.user_id = q.user_id AND o.closed_at IS NULL
) AS g
CROSS JOIN LATERAL (
    SELECT CASE WHEN t.open THEN q.tokens_granted - greatest(g.tokens_gone - t.tokens_over, 0)
                ELSE greatest(g.tokens_left - greatest(t.tokens_over - g.tokens_gone, 0), 0) END AS tokens_granted,
           CASE WHEN t.open THEN q.cost_granted - greatest(g.cost_gone - t.cost_over, 0)
                ELSE greatest(g.cost_left - greatest(t.cost_over - g.cost_gone, 0), 0) END AS cost_granted
) AS d;

-- name: reservations (read)
-- Soonest to expire first.
SELECT id, tokens, cost, slots, tokens_progressed, cost_progressed, holder, meta, epoch, created_at, expires_at,
       leased, requests
FROM quota_reservations
WHERE user_id = %(user_id)s
ORDER BY expires_at, id;

-- name: verify (read)
-- Return the periods of every user, or of one, that do not balance, and how many were examined. Each table has the
-- condition of its own: a condition on the result of the outer join would read all rows.
WITH counted AS (
    SELECT user_id, period_start, tokens_used, cost_used, tokens_held, cost_held, containers_used,
           requests_held, true AS present
    FROM user_quotas
    WHERE %(user_id)s::uuid IS NULL OR user_id = %(user_id)s
    UNION ALL
    SELECT user_id, period_start, tokens_used, cost_used, 0, 0, 0, 0, false FROM quota_history
    WHERE %(user_id)s::uuid IS NULL OR user_id = %(user_id)s
), charged AS (
    SELECT user_id, period_start, sum(amount) FILTER (WHERE kind IN ('tokens', 'expired')) AS tokens, sum(cost) AS cost
    FROM usage_ledger
    WHERE period_start IS NOT NULL AND (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s)
    GROUP BY user_id, period_start
), promised AS (
    SELECT user_id, period_start, sum(tokens) AS tokens, sum(cost) AS cost
    FROM quota_reservations
    WHERE %(user_id)s::uuid IS NULL OR user_id = %(user_id)s
    GROUP BY user_id, period_start
), running AS (
    SELECT user_id, sum(slots) AS slots, sum(requests) FILTER (WHERE leased) AS requests
    FROM quota_reservations
    WHERE %(user_id)s::uuid IS NULL OR user_id = %(user_id)s
    GROUP BY user_id
), accounting AS (
    SELECT
        coalesce(c.user_id, l.user_id) AS user_id,
        coalesce(c.period_start, l.period_start) AS period_start,
        coalesce(c.tokens_used, 0) AS tokens_used, coalesce(l.tokens, 0)::bigint AS tokens_charged,
        coalesce(c.cost_used, 0) AS cost_used, coalesce(l.cost, 0) AS cost_charged,
        coalesce(c.tokens_held, 0) AS tokens_held,
        CASE WHEN c.present THEN coalesce(h.tokens, 0) ELSE 0 END::bigint AS tokens_reserved,
        coalesce(c.cost_held, 0) AS cost_held,
        CASE WHEN c.present THEN coalesce(h.cost, 0) ELSE 0 END AS cost_reserved,
        coalesce(c.containers_used, 0) AS slots_held,
        CASE WHEN c.present THEN coalesce(r.slots, 0) ELSE 0 END::bigint AS slots_reserved,
        coalesce(c.requests_held, 0) AS requests_held,
        CASE WHEN c.present THEN coalesce(r.requests, 0) ELSE 0 END::bigint AS requests_reserved
    FROM counted AS c
    FULL JOIN charged AS l ON l.user_id = c.user_id AND l.period_start = c.period_start
    LEFT JOIN promised AS h ON h.user_id = c.user_id AND h.period_start = c.period_start
    LEFT JOIN running AS r ON r.user_id = c.user_id
)
SELECT
    n.periods, b.user_id, b.period_start, b.tokens_used, b.tokens_charged, b.cost_used, b.cost_charged,
    b.tokens_held, b.tokens_reserved, b.cost_held, b.cost_reserved, b.slots_held, b.slots_reserved,
    b.requests_held, b.requests_reserved
FROM (SELECT count(*) AS periods FROM accounting) AS n
LEFT JOIN accounting AS b
    ON (b.tokens_used, b.cost_used, b.tokens_held, b.cost_held, b.slots_held, b.requests_held)
       <> (b.tokens_charged, b.cost_charged, b.tokens_reserved, b.cost_reserved, b.slots_reserved, b.requests_reserved)
ORDER BY b.user_id, b.period_start;

-- name: history (read)
-- The newest first.
SELECT period_start, period_end, tokens_used, tokens_limit, cost_used, cost_limit, closed_at
FROM quota_history
WHERE user_id = %(user_id)s
ORDER BY period_start DESC
LIMIT %(limit)s;

-- name: rates (read)
-- Return what was charged to this period in its last seven days.
SELECT
    t.now,
    t.now - t.since AS observed,
    coalesce(sum(l.amount) FILTER (WHERE l.kind IN ('tokens', 'expired')), 0)::bigint AS tokens,
    coalesce(sum(l.cost), 0) AS cost
FROM (
    SELECT clock_timestamp() AS now,
           greatest(%(period_start)s::timestamptz, clock_timestamp() - interval '7 days') AS since
) AS t
LEFT JOIN usage_ledger AS l
    ON l.user_id = %(user_id)s AND l.created_at >= t.since AND l.period_start = %(period_start)s
GROUP BY t.now, t.since;
