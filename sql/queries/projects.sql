-- name: columns
user_id, id, session_id, name, path, root_inode IS NOT NULL AS had_folder, status, has_memory, memory_size, framework,
language, created_at, updated_at;

-- name: claim_session
-- A session id names one project of the whole database.
INSERT INTO claims (kind, value, user_id) VALUES ('project_session', %(session_id)s, %(user_id)s) ON CONFLICT DO NOTHING;

-- name: create
INSERT INTO projects (user_id, id, session_id, name, path, root_device, root_inode, first_commit, framework, language)
VALUES (%(user_id)s, %(project_id)s, %(session_id)s, %(name)s, %(path)s, %(root_device)s, %(root_inode)s,
        %(first_commit)s, %(framework)s, %(language)s)
ON CONFLICT DO NOTHING
RETURNING {columns};

-- name: get (read)
SELECT {columns} FROM projects
WHERE user_id = %(user_id)s AND id = %(project_id)s;

-- name: by_session (read)
SELECT {columns} FROM projects
WHERE session_id = %(session_id)s AND status <> 'deleted'
  AND user_id = (SELECT user_id FROM claims WHERE kind = 'project_session' AND value = %(session_id)s);

-- name: by_paths (read)
-- The innermost active project among these folders; without a user the newest registration wins.
SELECT {columns} FROM projects
WHERE path = ANY(%(paths)s) AND status = 'active' AND (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s)
ORDER BY length(path) DESC, created_at DESC LIMIT 1;

-- name: at (read)
-- The project of exactly this folder, except deleted ones.
SELECT {columns} FROM projects
WHERE user_id = %(user_id)s AND path = %(path)s AND status <> 'deleted';

-- name: change_status
-- Return no row when the project has this status already, or is deleted, which is final.
UPDATE projects SET status = %(status)s
WHERE user_id = %(user_id)s AND id = %(project_id)s AND status NOT IN ('deleted', %(status)s)
RETURNING {columns};

-- name: list (read)
-- Return the oldest project first; a page begins after the row (after_at, after_id). LIMIT NULL means no limit.
SELECT {columns} FROM projects
WHERE user_id = %(user_id)s AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (created_at, id) > (
      coalesce(%(after_at)s, '-infinity'::timestamptz),
      coalesce(%(after_id)s, '00000000-0000-0000-0000-000000000000'::uuid))
ORDER BY created_at, id LIMIT %(limit)s::bigint;

-- name: list_all (read)
-- Return the projects of all users in the same order, by an index. One statement for this and `list` would have one
-- plan, which would be wrong for one of the two.
SELECT {columns} FROM projects
WHERE (%(status)s::text IS NULL OR status = %(status)s)
  AND (created_at, id) > (
      coalesce(%(after_at)s, '-infinity'::timestamptz),
      coalesce(%(after_id)s, '00000000-0000-0000-0000-000000000000'::uuid))
ORDER BY created_at, id LIMIT %(limit)s::bigint;

-- name: list_by_use (read)
-- Return first the project that was touched or changed last.
SELECT {columns} FROM projects
WHERE user_id = %(user_id)s AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (updated_at, id) < (
      coalesce(%(after_at)s, 'infinity'::timestamptz),
      coalesce(%(after_id)s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
ORDER BY updated_at DESC, id DESC LIMIT %(limit)s::bigint;

-- name: list_all_by_use (read)
SELECT {columns} FROM projects
WHERE (%(status)s::text IS NULL OR status = %(status)s)
  AND (updated_at, id) < (
      coalesce(%(after_at)s, 'infinity'::timestamptz),
      coalesce(%(after_id)s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
ORDER BY updated_at DESC, id DESC LIMIT %(limit)s::bigint;

-- name: touch
-- Record the use of a project, unless the project is deleted, at most once per `every`.
UPDATE projects SET updated_at = now()
WHERE user_id = %(user_id)s AND id = %(project_id)s AND status <> 'deleted'
  AND updated_at <= now() - %(every)s::interval;

-- name: lock
-- Lock the project. An insert of a build, preview or version locks the key of this row, so either the insert waits for
-- this lock or this lock waits for the insert.
SELECT {columns} FROM projects
WHERE user_id = %(user_id)s AND id = %(project_id)s FOR UPDATE;

-- name: release_session
DELETE FROM claims WHERE kind = 'project_session' AND value = %(session_id)s AND user_id = %(user_id)s;

-- name: delete
-- The session id becomes free for another project of the user, so this project gets its own id as session id.
UPDATE projects SET status = 'deleted', session_id = 'deleted:' || id::text
WHERE user_id = %(user_id)s AND id = %(project_id)s
RETURNING {columns};

-- name: belongings (read)
-- Count the rows that a purge deletes.
SELECT
    %(user_id)s::uuid AS user_id,
    %(project_id)s::uuid AS project_id,
    (SELECT count(*) FROM memory_snapshots WHERE user_id = %(user_id)s AND project_id = %(project_id)s) AS memory_snapshots,
    (SELECT count(*) FROM checkpoints WHERE user_id = %(user_id)s AND project_id = %(project_id)s) AS checkpoints,
    (SELECT count(*) FROM builds WHERE user_id = %(user_id)s AND project_id = %(project_id)s) AS builds,
    (SELECT count(*) FROM previews WHERE user_id = %(user_id)s AND project_id = %(project_id)s) AS previews;

-- name: memory_paths (read)
SELECT path FROM memory_files WHERE user_id = %(user_id)s AND project_id = %(project_id)s;

-- name: purge
-- Foreign keys delete everything else of the project.
DELETE FROM projects WHERE user_id = %(user_id)s AND id = %(project_id)s;

-- name: remember_memory
-- Refresh the columns that dashboards show. The SDK does so at checkpoints and scans, not at every version.
UPDATE projects SET has_memory = m.files > 0, memory_size = m.bytes
FROM (
    SELECT count(*) AS files, coalesce(sum(s.size), 0) AS bytes
    FROM memory_files f
    JOIN memory_snapshots s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path
        AND s.seq = f.seq AND s.id = f.snapshot_id
    WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s AND s.sha256 IS NOT NULL
) m
WHERE projects.user_id = %(user_id)s AND projects.id = %(project_id)s
  AND (projects.has_memory, projects.memory_size) IS DISTINCT FROM (m.files > 0, m.bytes)
RETURNING projects.user_id, projects.id, projects.session_id, projects.name, projects.path,
          projects.root_inode IS NOT NULL AS had_folder, projects.status, projects.has_memory, projects.memory_size,
          projects.framework, projects.language, projects.created_at, projects.updated_at;

-- name: move
UPDATE projects SET path = %(path)s, name = %(name)s, root_device = %(root_device)s, root_inode = %(root_inode)s,
    first_commit = %(first_commit)s
WHERE user_id = %(user_id)s AND id = %(project_id)s
RETURNING {columns};

-- name: registered (read)
-- The folders of a user's projects, with what recognises them at another path.
SELECT id, path, root_device, root_inode, first_commit FROM projects
WHERE user_id = %(user_id)s AND status <> 'deleted' AND path <> %(path)s;

-- name: same_files (read)
-- For each of these projects, the number of its files now, and how many of the given files its history has: with the
-- same path, and with the content of any version.
SELECT p.id,
    (SELECT count(*) FROM memory_files f
     JOIN memory_snapshots s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path
         AND s.seq = f.seq AND s.id = f.snapshot_id
     WHERE f.user_id = %(user_id)s AND f.project_id = p.id AND s.sha256 IS NOT NULL) AS files,
    (SELECT count(*) FROM unnest(%(paths)s::text[], %(hashes)s::bytea[]) AS given (path, sha256)
     WHERE EXISTS (SELECT FROM memory_snapshots s
                   WHERE s.user_id = %(user_id)s AND s.project_id = p.id AND s.path = given.path
                     AND s.sha256 = given.sha256)) AS same_files
FROM unnest(%(project_ids)s::uuid[]) AS p (id);
