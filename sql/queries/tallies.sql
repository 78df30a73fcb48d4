-- name: mismatches (read)
-- Where the sums of the tallies are not what a count of the builds gives. Both from one snapshot, so what goes on
-- meanwhile is no difference. The hours are those that user_usage_summary looks at.
WITH tallied AS (
    SELECT t.project_id, '-infinity'::timestamptz AS hour, jsonb_build_object(
        'builds', sum(t.builds), 'running', sum(t.running), 'succeeded', sum(t.succeeded), 'failed', sum(t.failed),
        'newest', (array_agg(n.id ORDER BY n.created_at DESC NULLS LAST, n.id DESC))[1]) AS counts
    FROM build_tallies AS t
    LEFT JOIN builds AS n
        ON n.user_id = t.user_id AND n.id = t.newest_id
        AND t.project_id IN (n.project_id, '00000000-0000-0000-0000-000000000000')
    WHERE t.user_id = %(user_id)s
    GROUP BY t.project_id
    UNION ALL
    SELECT t.project_id, t.hour, jsonb_build_object('builds', sum(t.builds))
    FROM build_tallies AS t
    WHERE t.user_id = %(user_id)s AND t.hour > now() - interval '7 days'
    GROUP BY t.project_id, t.hour
), counted AS (
    SELECT b.project_id, '-infinity'::timestamptz AS hour, jsonb_build_object(
        'builds', count(*), 'running', count(*) FILTER (WHERE b.status = 'running'),
        'succeeded', count(*) FILTER (WHERE b.status = 'succeeded'), 'failed', count(*) FILTER (WHERE b.status = 'failed'),
        'newest', (array_agg(b.id ORDER BY b.created_at DESC, b.id DESC))[1]) AS counts
    FROM builds AS b
    WHERE b.user_id = %(user_id)s
    GROUP BY b.project_id
    UNION ALL
    SELECT '00000000-0000-0000-0000-000000000000', '-infinity'::timestamptz, jsonb_build_object(
        'builds', count(*), 'running', 0, 'succeeded', 0, 'failed', 0,
        'newest', (array_agg(b.id ORDER BY b.created_at DESC, b.id DESC))[1])
    FROM builds AS b
    WHERE b.user_id = %(user_id)s
    UNION ALL
    SELECT '00000000-0000-0000-0000-000000000000', build_hour(b.created_at), jsonb_build_object('builds', count(*))
    FROM builds AS b
    WHERE b.user_id = %(user_id)s AND build_hour(b.created_at) > now() - interval '7 days'
    GROUP BY build_hour(b.created_at)
), nothing AS (
    SELECT '{"builds": 0, "running": 0, "succeeded": 0, "failed": 0, "newest": null}'::jsonb AS counts
)
SELECT
    nullif(coalesce(t.project_id, c.project_id), '00000000-0000-0000-0000-000000000000') AS project_id,
    nullif(coalesce(t.hour, c.hour), '-infinity'::timestamptz) AS hour,
    nothing.counts || coalesce(t.counts, '{}') AS tallied,
    nothing.counts || coalesce(c.counts, '{}') AS counted
FROM tallied AS t
FULL JOIN counted AS c ON c.project_id = t.project_id AND c.hour = t.hour
CROSS JOIN nothing
WHERE nothing.counts || coalesce(t.counts, '{}') <> nothing.counts || coalesce(c.counts, '{}')
ORDER BY 1 NULLS FIRST, 2 NULLS FIRST;

-- name: recount
SELECT build_recount(%(user_id)s);

-- name: heaps (read)
-- The counts of a page of users that more rows say than a few, and how many of those one row can stand for. The hours of
-- long ago are one count, as in build_tally_fold, and have none here: Python has no such hour.
WITH page AS (
    SELECT DISTINCT user_id FROM build_tallies WHERE user_id > %(user_id)s ORDER BY user_id LIMIT %(limit)s
), counts AS (
    SELECT t.user_id, t.project_id,
           CASE WHEN t.hour >= now() - interval '8 days' THEN t.hour ELSE '-infinity' END AS hour, count(*) AS rows
    FROM build_tallies AS t
    JOIN page AS p ON p.user_id = t.user_id
    GROUP BY 1, 2, 3
), heaps AS (
    SELECT user_id, project_id, hour, rows FROM counts WHERE rows > %(few)s
)
SELECT (SELECT count(*) FROM page) AS users, coalesce((SELECT sum(rows) FROM counts), 0)::bigint AS examined,
       coalesce(sum(rows - 1), 0)::bigint AS surplus, coalesce(array_agg(user_id), '{}') AS user_ids,
       coalesce(array_agg(project_id), '{}') AS project_ids, coalesce(array_agg(nullif(hour, '-infinity')), '{}') AS hours,
       (SELECT user_id FROM page ORDER BY user_id DESC LIMIT 1) AS user_id
FROM heaps;

-- name: fold
SELECT coalesce(sum(build_tally_fold(k.user_id, k.project_id, coalesce(k.hour, '-infinity'))), 0)::bigint
FROM unnest(%(user_ids)s::uuid[], %(project_ids)s::uuid[], %(hours)s::timestamptz[]) AS k (user_id, project_id, hour);
