-- name: columns
user_id, id, project_id, host, status, host_port, container_port, machine, container_id, network_id,
health_status AS health, resource_limits, auto_sleep, make_interval(secs => sleep_after_seconds) AS sleep_after,
last_accessed_at, stopped_at, created_at, updated_at;

-- name: claim_host
-- A host belongs to one live preview of the whole database: claim it before the preview is made.
INSERT INTO claims (kind, value, user_id) VALUES ('preview_host', %(host)s, %(user_id)s) ON CONFLICT DO NOTHING;

-- name: lock_claim
-- A tenant gets no row for the claim of another one.
SELECT user_id FROM claims WHERE kind = 'preview_host' AND value = %(host)s FOR UPDATE;

-- name: serves (read)
-- Tell whether a user has a live preview at a host. A deleted row may have left its claim behind.
SELECT EXISTS (
    SELECT FROM previews
    WHERE user_id = %(user_id)s AND host = %(host)s AND status IN ('creating', 'running', 'sleeping')
);

-- name: take_over_claim
UPDATE claims SET user_id = %(user_id)s WHERE kind = 'preview_host' AND value = %(host)s;

-- name: release_host
DELETE FROM claims WHERE kind = 'preview_host' AND value = %(host)s AND user_id = %(user_id)s;

-- name: create
-- Return no row when the project is deleted or gone. The lock waits for a deletion that is under way.
INSERT INTO previews AS n (user_id, id, project_id, host, container_port, machine, resource_limits, auto_sleep,
                           sleep_after_seconds)
SELECT user_id, %(preview_id)s, id, %(host)s, %(container_port)s, %(machine)s, %(resource_limits)s, %(auto_sleep)s,
       %(sleep_after_s)s
FROM projects WHERE user_id = %(user_id)s AND id = %(project_id)s AND status <> 'deleted' FOR KEY SHARE
RETURNING n.user_id, n.id, n.project_id, n.host, n.status, n.host_port, n.container_port, n.machine, n.container_id,
          n.network_id, n.health_status AS health, n.resource_limits, n.auto_sleep,
          make_interval(secs => n.sleep_after_seconds) AS sleep_after, n.last_accessed_at, n.stopped_at, n.created_at,
          n.updated_at;

-- name: get (read)
SELECT {columns} FROM previews
WHERE user_id = %(user_id)s AND id = %(preview_id)s;

-- name: lock
SELECT {columns} FROM previews
WHERE user_id = %(user_id)s AND id = %(preview_id)s FOR UPDATE;

-- name: live
-- Of one project, in the order of ids, so that two calls cannot deadlock.
SELECT {columns} FROM previews
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND status IN ('creating', 'running', 'sleeping')
ORDER BY id FOR UPDATE;

-- name: change_status
-- Return no row when it has this status already. One trigger refuses an illegal change, another one sets the times.
UPDATE previews
SET status = %(status)s,
    container_id = coalesce(%(container_id)s, container_id),
    network_id = coalesce(%(network_id)s, network_id),
    host_port = coalesce(%(host_port)s, host_port),
    health_status = coalesce(%(health)s, health_status)
WHERE user_id = %(user_id)s AND id = %(preview_id)s AND status <> %(status)s
RETURNING {columns};

-- name: describe
-- Return no row when nothing of it is new.
UPDATE previews
SET container_id = coalesce(%(container_id)s, container_id),
    network_id = coalesce(%(network_id)s, network_id),
    host_port = coalesce(%(host_port)s, host_port),
    health_status = coalesce(%(health)s, health_status)
WHERE user_id = %(user_id)s AND id = %(preview_id)s AND status = %(status)s
  AND status IN ('creating', 'running', 'sleeping')
  AND (container_id, network_id, host_port, health_status) IS DISTINCT FROM (
      coalesce(%(container_id)s, container_id), coalesce(%(network_id)s, network_id),
      coalesce(%(host_port)s, host_port), coalesce(%(health)s, health_status))
RETURNING {columns};

-- name: touch
-- Write once a second at most, not at every request. No index has the column, so the row stays in place.
UPDATE previews SET last_accessed_at = now()
WHERE user_id = %(user_id)s AND id = %(preview_id)s AND status IN ('creating', 'running', 'sleeping')
  AND last_accessed_at < now() - interval '1 second';

-- name: idle (read)
-- Previews of all users that nobody has visited for their time and one second, which touch may lag; the longest idle
-- first.
SELECT {columns} FROM previews
WHERE status = 'running' AND auto_sleep
  AND last_accessed_at < now() - make_interval(secs => sleep_after_seconds + 1)
ORDER BY last_accessed_at LIMIT %(limit)s;

-- name: sleep_if_idle
-- The condition is tested again: a visitor may have come since.
UPDATE previews SET status = 'sleeping'
WHERE user_id = %(user_id)s AND id = %(preview_id)s AND status = 'running' AND auto_sleep
  AND last_accessed_at < now() - make_interval(secs => sleep_after_seconds + 1)
RETURNING {columns};

-- name: active (read)
-- The preview that serves a project now, if any: a running one before a sleeping one, the newest first.
SELECT {columns} FROM previews
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND status IN ('running', 'sleeping')
ORDER BY (status = 'running') DESC, id DESC LIMIT 1;

-- name: by_host (read)
SELECT {columns} FROM previews
WHERE host = %(host)s AND status IN ('creating', 'running', 'sleeping')
  AND user_id = (SELECT user_id FROM claims WHERE kind = 'preview_host' AND value = %(host)s);

-- name: list (read)
-- The newest first.
SELECT {columns} FROM previews
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND (%(status)s::text IS NULL OR status = %(status)s)
  AND id < coalesce(%(before)s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
ORDER BY id DESC LIMIT %(limit)s;

-- name: set_port
UPDATE previews SET host_port = %(port)s WHERE user_id = %(user_id)s AND id = %(preview_id)s
RETURNING {columns};
