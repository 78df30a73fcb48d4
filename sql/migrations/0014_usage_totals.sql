-- Sums of the ledger. A function because its plan must be made for what is asked: one for any question reads the ledger
-- by an index and joins it with itself row by row, which took five times as long for a million rows. And the planner takes
-- every moment for a day of its own, and would sort the rows instead of hashing a few hundred groups. No JIT: to compile
-- takes longer than to sum up. Settings of a function hold behind a pooler, too.
--
-- What an expired promise was charged are tokens, as in the ledger; a released one used nothing. The late settlement of an
-- expired one is a correction without the promise's meta: what that says is in the row that it corrects.
CREATE FUNCTION usage_totals(
    p_user uuid, p_since timestamptz, p_until timestamptz, p_by_day boolean, p_by_model boolean, p_by_project boolean
) RETURNS TABLE (day date, kind text, model text, project text, entries bigint, amount numeric, cost numeric)
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_custom_plan SET enable_sort = off SET work_mem = '64MB' SET jit = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH sums AS MATERIALIZED (
        SELECT
            CASE WHEN p_by_day THEN (l.created_at AT TIME ZONE q.time_zone)::date END AS day,
            CASE WHEN l.reservation_id IS NOT NULL THEN 'tokens' ELSE l.kind::text END AS kind,
            CASE WHEN p_by_model THEN coalesce(l.meta ->> 'model', e.meta ->> 'model') END AS model,
            CASE WHEN p_by_project THEN coalesce(l.project_id::text, l.meta ->> 'project', e.meta ->> 'project') END
                AS project,
            count(*) AS entries, sum(l.amount) AS amount, sum(l.cost) AS cost
        FROM usage_ledger AS l
        JOIN user_quotas AS q ON q.user_id = l.user_id
        LEFT JOIN usage_ledger AS e
            ON (p_by_model OR p_by_project)
            AND e.user_id = l.user_id AND e.reservation_id = l.reservation_id AND e.kind = 'expired' AND l.kind = 'tokens'
        WHERE l.user_id = p_user
          AND l.created_at >= coalesce(p_since, '-infinity'::timestamptz)
          AND l.created_at < coalesce(p_until, 'infinity'::timestamptz)
          AND NOT (l.reservation_id IS NOT NULL AND l.kind = 'released')
        GROUP BY 1, 2, 3, 4
    )
    SELECT * FROM sums ORDER BY 1, 2, 3, 4;
END
$$;
