-- name: claim_session
-- A session id names one project of the whole database.
INSERT INTO claims (kind, value, user_id) VALUES ('project_session', %(session_id)s, %(user_id)s) ON CONFLICT DO NOTHING;

-- name: create
INSERT INTO projects (user_id, id, session_id, name, path, root_device, root_inode, framework, language)
VALUES (%(user_id)s, %(project_id)s, %(session_id)s, %(name)s, %(path)s, %(root_device)s, %(root_inode)s, %(framework)s,
        %(language)s)
ON CONFLICT DO NOTHING
RETURNING user_id, id, session_id, name, path, status, created_at, updated_at;

-- name: get
SELECT user_id, id, session_id, name, path, status, created_at, updated_at FROM projects
WHERE user_id = %(user_id)s AND id = %(project_id)s;

-- name: by_session
SELECT user_id, id, session_id, name, path, status, created_at, updated_at FROM projects
WHERE session_id = %(session_id)s
  AND user_id = (SELECT user_id FROM claims WHERE kind = 'project_session' AND value = %(session_id)s);

-- name: by_paths
-- The innermost active project among these folders; without a user the newest registration wins.
SELECT user_id, id, session_id, name, path, status, created_at, updated_at FROM projects
WHERE path = ANY(%(paths)s) AND status = 'active' AND (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s)
ORDER BY length(path) DESC, created_at DESC LIMIT 1;

-- name: at
-- What is registered for exactly this folder; a deleted one made room.
SELECT user_id, id, session_id, name, path, status, created_at, updated_at FROM projects
WHERE user_id = %(user_id)s AND path = %(path)s AND status <> 'deleted';

-- name: change_status
-- No row when it is so already, or deleted: that is final.
UPDATE projects SET status = %(status)s
WHERE user_id = %(user_id)s AND id = %(project_id)s AND status NOT IN ('deleted', %(status)s)
RETURNING user_id, id, session_id, name, path, status, created_at, updated_at;

-- name: list
SELECT user_id, id, session_id, name, path, status, created_at, updated_at FROM projects
WHERE (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s) AND status = 'active'
ORDER BY created_at, id;

-- name: remember_memory
-- What the dashboards show: refreshed at checkpoints and scans, not at every version.
UPDATE projects SET has_memory = m.files > 0, memory_size = m.bytes
FROM (
    SELECT count(*) AS files, coalesce(sum(s.size), 0) AS bytes
    FROM memory_files f
    JOIN memory_snapshots s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path
        AND s.seq = f.seq AND s.id = f.snapshot_id
    WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s AND s.sha256 IS NOT NULL
) m
WHERE projects.user_id = %(user_id)s AND projects.id = %(project_id)s
  AND (projects.has_memory, projects.memory_size) IS DISTINCT FROM (m.files > 0, m.bytes);
