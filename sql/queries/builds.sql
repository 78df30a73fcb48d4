-- name: columns
user_id, id, project_id, status, container_id, image_id, error_message, resource_usage, log_bytes, started_at,
finished_at, created_at;

-- name: create
-- Return no row when the project is deleted or gone. The lock waits for a deletion that is under way.
INSERT INTO builds AS n (user_id, id, project_id, resource_usage)
SELECT user_id, %(build_id)s, id, %(resource_usage)s
FROM projects WHERE user_id = %(user_id)s AND id = %(project_id)s AND status <> 'deleted' FOR KEY SHARE
RETURNING n.user_id, n.id, n.project_id, n.status, n.container_id, n.image_id, n.error_message, n.resource_usage,
          n.log_bytes, n.started_at, n.finished_at, n.created_at;

-- name: get (read)
SELECT {columns}
FROM builds WHERE user_id = %(user_id)s AND id = %(build_id)s;

-- name: change
-- Return no row when it has this status already. One trigger refuses an illegal change, another one sets the times.
UPDATE builds
SET status = %(status)s,
    container_id = coalesce(%(container_id)s, container_id),
    image_id = coalesce(%(image_id)s, image_id),
    error_message = coalesce(%(error_message)s, error_message),
    resource_usage = resource_usage || coalesce(%(resource_usage)s::jsonb, '{}')
WHERE user_id = %(user_id)s AND id = %(build_id)s AND status <> %(status)s
RETURNING {columns};

-- name: append_log
SELECT build_log_append(%(user_id)s, %(build_id)s, %(content)s, %(bytes)s) AS found;

-- name: fold_log
-- Called in the transaction that ends the build.
SELECT build_log_fold(%(user_id)s, %(build_id)s);

-- name: log (read)
-- NULL: no such build.
SELECT build_log_text(%(user_id)s, %(build_id)s) AS content;

-- name: unfinished
-- Of one project, in the order of ids, so that two calls cannot deadlock.
SELECT {columns} FROM builds
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND status IN ('queued', 'running')
ORDER BY id FOR UPDATE;

-- name: list (read)
-- The newest first.
SELECT {columns} FROM builds
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND (%(status)s::text IS NULL OR status = %(status)s)
  AND id < coalesce(%(before)s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
ORDER BY id DESC LIMIT %(limit)s;

-- name: list_after (read)
-- The builds after one, the oldest first.
SELECT {columns} FROM builds
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND (%(status)s::text IS NULL OR status = %(status)s)
  AND id > %(after)s
ORDER BY id LIMIT %(limit)s;

-- name: stats (read)
-- Of the builds that were queued since a moment. An index has every column that this reads.
SELECT s.total, s.queued, s.running, s.succeeded, s.failed,
       -- As in the view project_health.
       round(s.succeeded::numeric / nullif(s.succeeded + s.failed, 0), 4) AS success_rate,
       s.durations[1] AS duration_p50, s.durations[2] AS duration_p95
FROM (
    SELECT count(*) AS total,
           count(*) FILTER (WHERE status = 'queued') AS queued,
           count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY finished_at - started_at) AS durations
    FROM builds
    WHERE user_id = %(user_id)s AND project_id = %(project_id)s
      AND created_at >= coalesce(%(since)s, now() - interval '30 days')
) AS s;
