-- name: columns
user_id, id, project_id, kind, amount, cost, meta, created_at;

-- name: log
-- Without a period, because it is outside of the quota. Return no row when the id is taken.
INSERT INTO usage_ledger (user_id, id, project_id, kind, amount, cost, meta)
VALUES (%(user_id)s, %(usage_id)s, %(project_id)s, %(kind)s, %(amount)s, %(cost)s, %(meta)s)
ON CONFLICT (user_id, id) DO NOTHING
RETURNING {columns};

-- name: get (read)
SELECT {columns} FROM usage_ledger
WHERE user_id = %(user_id)s AND id = %(usage_id)s;

-- name: totals (read)
SELECT day, kind, model, project, entries, amount, cost
FROM usage_totals(%(user_id)s, %(since)s::timestamptz, %(until)s::timestamptz, %(by_day)s, %(by_model)s, %(by_project)s);

-- name: sum_up
SELECT examined, at, finished FROM maintenance_sum_usage(%(after)s, %(users)s, %(limit)s);
