-- name: create
-- Name the newest version of every file, all at one instant. The ids of the rows begin with the time and the counter of
-- the checkpoint's own id (a uuid v7: 24 hex digits), so they sort behind all ids that this client made before, those
-- of the same millisecond too. The last 8 digits number the rows.
WITH made AS (
    INSERT INTO checkpoints (user_id, project_id, id, name, kind, note, attribution, created_at)
    VALUES (%(user_id)s, %(project_id)s, %(id)s, %(name)s, %(kind)s, %(note)s, %(attribution)s,
            least(%(captured_at)s::timestamptz, now()))
    ON CONFLICT DO NOTHING
    RETURNING user_id, project_id, id, name, kind, note, attribution, created_at
), named AS (
    INSERT INTO memory_snapshots AS n
        (size, user_id, project_id, id, seq, mode, kind, path, sha256, link, folder_modes, checkpoint, context, attribution)
    SELECT s.size, s.user_id, s.project_id,
           (left(replace(made.id::text, '-', ''), 24) || lpad(to_hex(row_number() OVER (ORDER BY s.path)), 8, '0'))::uuid,
           s.seq, s.mode, 'checkpoint', s.path, s.sha256, s.link, s.folder_modes, made.name, s.context, s.attribution
    FROM made
    JOIN memory_files f ON f.user_id = %(user_id)s AND f.project_id = %(project_id)s
    JOIN memory_snapshots s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path
        AND s.seq = f.seq AND s.id = f.snapshot_id
    WHERE s.sha256 IS NOT NULL
    RETURNING n.size
)
SELECT made.id, made.user_id, made.project_id, made.name, made.kind, made.note, made.attribution, made.created_at,
       (SELECT count(*) FROM named) AS files, (SELECT coalesce(sum(size), 0)::bigint FROM named) AS size
FROM made;

-- name: list (read)
-- Return the newest checkpoint first.
SELECT c.id, c.user_id, c.project_id, c.name, c.kind, c.note, c.attribution, c.created_at, coalesce(n.files, 0) AS files,
       coalesce(n.size, 0) AS size
FROM checkpoints c
LEFT JOIN (
    SELECT s.user_id, s.project_id, s.checkpoint, count(*) AS files, sum(s.size)::bigint AS size FROM memory_snapshots s
    WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND s.checkpoint IS NOT NULL
    GROUP BY s.user_id, s.project_id, s.checkpoint
) n ON n.user_id = c.user_id AND n.project_id = c.project_id AND n.checkpoint = c.name
WHERE c.user_id = %(user_id)s AND c.project_id = %(project_id)s
ORDER BY c.id DESC;

-- name: name_of (read)
SELECT name FROM checkpoints WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND id = %(id)s;

-- name: exists (read)
SELECT EXISTS (
    SELECT 1 FROM checkpoints
    WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND name = %(name)s
);
