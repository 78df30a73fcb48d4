-- name: log
-- Outside of the quota: no period. No row when the id is taken.
INSERT INTO usage_ledger (user_id, id, project_id, kind, amount, cost, meta)
VALUES (%(user_id)s, %(usage_id)s, %(project_id)s, %(kind)s, %(amount)s, %(cost)s, %(meta)s)
ON CONFLICT (user_id, id) DO NOTHING
RETURNING user_id, id, project_id, kind, amount, cost, meta, created_at;

-- name: get
SELECT user_id, id, project_id, kind, amount, cost, meta, created_at FROM usage_ledger
WHERE user_id = %(user_id)s AND id = %(usage_id)s;

-- name: totals
-- What an expired promise was charged are tokens, as in the books; a released one used nothing. The late settlement of an
-- expired one is a correction without the promise's meta: what that says is in the row that it corrects.
SELECT
    CASE WHEN %(by_day)s::boolean THEN (l.created_at AT TIME ZONE q.time_zone)::date END AS day,
    CASE WHEN l.reservation_id IS NOT NULL THEN 'tokens' ELSE l.kind::text END AS kind,
    CASE WHEN %(by_model)s::boolean THEN coalesce(l.meta ->> 'model', e.meta ->> 'model') END AS model,
    CASE WHEN %(by_project)s::boolean THEN coalesce(l.project_id::text, l.meta ->> 'project', e.meta ->> 'project')
    END AS project,
    count(*) AS entries,
    sum(l.amount) AS amount,
    sum(l.cost) AS cost
FROM usage_ledger AS l
JOIN user_quotas AS q ON q.user_id = l.user_id
LEFT JOIN usage_ledger AS e
    ON (%(by_model)s::boolean OR %(by_project)s::boolean)
    AND e.user_id = l.user_id AND e.reservation_id = l.reservation_id AND e.kind = 'expired' AND l.kind = 'tokens'
WHERE l.user_id = %(user_id)s
  AND l.created_at >= coalesce(%(since)s, '-infinity'::timestamptz)
  AND l.created_at < coalesce(%(until)s, 'infinity'::timestamptz)
  AND NOT (l.reservation_id IS NOT NULL AND l.kind = 'released')
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4;
