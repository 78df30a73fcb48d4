-- name: put
-- Append a version, in one round trip and one commit. The file's row in memory_files is what concurrent writers race
-- for: whoever does not know the newest version changes nothing, reads it and tries again. Content that was stored
-- before keeps its place in its own chain, so its depth comes back. Where the user's limit is hard and does not let the
-- content in, nothing changes either.
WITH head AS (
    INSERT INTO memory_files AS f (user_id, project_id, snapshot_id, content_id, seq, path)
    SELECT %(user_id)s::uuid, %(project_id)s::uuid, %(id)s::uuid, %(id)s::uuid, 1, %(path)s::text
    WHERE memory_fits(%(user_id)s, %(sha256)s, %(data)s::bytea)
    ON CONFLICT (user_id, project_id, path) DO UPDATE
        SET seq = f.seq + 1, snapshot_id = excluded.snapshot_id, content_id = excluded.content_id
        WHERE f.snapshot_id = %(head_id)s
    RETURNING f.seq
), blob AS (
    INSERT INTO memory_blobs AS b (size, user_id, depth, sha256, base_sha256, data)
    SELECT %(size)s, %(user_id)s, %(depth)s, %(sha256)s, %(base_sha256)s, %(data)s::bytea FROM head
    -- Known content is stored already, unless it was over the limit of that day and is within today's.
    ON CONFLICT (user_id, sha256) DO UPDATE
        SET depth = excluded.depth, base_sha256 = excluded.base_sha256, data = excluded.data
        WHERE b.data IS NULL AND excluded.data IS NOT NULL
), version AS (
    INSERT INTO memory_snapshots (size, user_id, project_id, id, seq, mode, kind, path, sha256, link, folder_modes, context,
                                  attribution)
    SELECT %(size)s, %(user_id)s, %(project_id)s, %(id)s, head.seq, %(mode)s, %(kind)s, %(path)s, %(sha256)s, %(link)s,
           %(folder_modes)s::smallint[], %(context)s, %(attribution)s
    FROM head
    RETURNING seq, created_at
)
SELECT version.seq, version.created_at, (
    SELECT b.depth FROM memory_blobs b
    WHERE b.user_id = %(user_id)s AND b.sha256 = %(sha256)s AND b.data IS NOT NULL
) AS stored_depth
FROM version;

-- name: put_deletion
-- Append a deletion: the newest content stays on record.
WITH head AS (
    UPDATE memory_files f SET seq = f.seq + 1, snapshot_id = %(id)s
    WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s AND f.path = %(path)s
      AND f.snapshot_id = %(head_id)s
    RETURNING f.seq
)
INSERT INTO memory_snapshots (size, user_id, project_id, id, seq, mode, kind, path, sha256, attribution)
SELECT 0, %(user_id)s, %(project_id)s, %(id)s, head.seq, %(mode)s, %(kind)s, %(path)s, NULL, %(attribution)s FROM head
RETURNING seq, created_at;

-- name: head (read)
-- The newest version of a file, and the blob of its newest content to make the next delta with.
SELECT f.seq, f.snapshot_id, s.sha256, s.mode, s.link,
       b.sha256 AS blob_sha256, b.size AS blob_size, b.depth AS blob_depth, b.data IS NOT NULL AS blob_kept
FROM memory_files f
JOIN memory_snapshots s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path AND s.seq = f.seq
    AND s.id = f.snapshot_id
CROSS JOIN LATERAL (
    SELECT v.sha256 FROM memory_snapshots v
    WHERE v.user_id = f.user_id AND v.project_id = f.project_id AND v.path = f.path AND v.seq <= f.seq
      AND v.id = f.content_id
    ORDER BY v.seq DESC LIMIT 1
) c
CROSS JOIN LATERAL (
    SELECT k.sha256, k.size, k.depth, k.data FROM memory_blobs k
    WHERE k.user_id = f.user_id AND k.sha256 = c.sha256 LIMIT 1
) b
WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s AND f.path = %(path)s;

-- name: lock
-- Queue for a file: its newest version stays the newest until the end of the transaction.
SELECT snapshot_id FROM memory_files
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND path = %(path)s AND memory_lock_limit(%(user_id)s) FOR UPDATE;

-- name: heal
-- Replace stored bytes that are damaged or were never kept, by the same content as a keyframe.
UPDATE memory_blobs SET depth = 0, base_sha256 = NULL, data = %(data)s
WHERE user_id = %(user_id)s AND sha256 = %(sha256)s;

-- name: chain (read)
-- A blob and the bases that it was made from, down to the keyframe, or to a content that the client has already. The
-- order is that of the steps: a depth is only a bound. One row by its whole key a step, spelled so that a planner
-- without statistics does not read a tenant's blobs each time.
WITH RECURSIVE chain AS (
    SELECT 0 AS step, b.sha256, b.size, b.depth, b.base_sha256, b.data FROM memory_blobs b
    WHERE b.user_id = %(user_id)s AND b.sha256 = %(sha256)s
    UNION ALL
    SELECT chain.step + 1, b.sha256, b.size, b.depth, b.base_sha256, b.data FROM chain
    CROSS JOIN LATERAL (
        SELECT k.sha256, k.size, k.depth, k.base_sha256, k.data FROM memory_blobs k
        WHERE k.user_id = %(user_id)s AND k.sha256 = chain.base_sha256 LIMIT 1
    ) b
    WHERE chain.base_sha256 IS DISTINCT FROM %(known_sha256)s::bytea
)
SELECT sha256, size, depth, base_sha256, data FROM chain ORDER BY step;

-- name: files (read)
-- The newest version of every file of a project, deletions too, and whether its content is stored.
SELECT s.*, s.sha256 IS NULL OR b.kept AS kept
FROM memory_files f
JOIN memory_versions s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path AND s.seq = f.seq
    AND s.id = f.snapshot_id
LEFT JOIN LATERAL (
    SELECT k.data IS NOT NULL AS kept FROM memory_blobs k
    WHERE k.user_id = s.user_id AND k.sha256 = s.sha256 LIMIT 1
) b ON true
WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s
ORDER BY s.path;

-- name: files_at (read)
-- The version of every file that was the newest at a moment, deletions too: back from the newest, file by file.
SELECT s.* FROM memory_files f
CROSS JOIN LATERAL (
    SELECT v.* FROM memory_versions v
    WHERE v.user_id = f.user_id AND v.project_id = f.project_id AND v.path = f.path AND v.created_at <= %(moment)s
      AND v.kind <> 'checkpoint'
    ORDER BY v.seq DESC LIMIT 1
) s
WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s
ORDER BY s.path;

-- name: files_of_checkpoint (read)
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND s.checkpoint = %(name)s
ORDER BY s.path;

-- name: versions (read)
-- Versions by id, for undo and redo.
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND s.id = ANY(%(ids)s::uuid[]);

-- name: by_id_range (read)
-- An id prefix is a range of ids. Rows of checkpoints share their first digits and go by the checkpoint's name instead.
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND s.id BETWEEN %(low)s AND %(high)s
  AND (s.kind <> 'checkpoint' OR %(low)s = %(high)s) AND (%(path)s::text IS NULL OR s.path = %(path)s)
ORDER BY s.id LIMIT 5;

-- name: history_of_file (read)
-- Newest first, from below a version on. A version and the checkpoints that name it share a number, and the version is
-- the older one whatever their ids say: those come from the clocks of the clients that made them.
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND s.path = %(path)s
  AND (%(before_seq)s::integer IS NULL
       OR (s.seq, s.kind = 'checkpoint', s.id) < (%(before_seq)s, %(before_kind)s::text = 'checkpoint', %(before_id)s::uuid))
ORDER BY s.seq DESC, s.kind = 'checkpoint' DESC, s.id DESC LIMIT %(limit)s;

-- name: history_of_project (read)
-- Newest first, from below an id on.
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND (%(before_id)s::uuid IS NULL OR s.id < %(before_id)s)
ORDER BY s.id DESC LIMIT %(limit)s;

-- name: known_contents (read)
-- Which of these contents some version in a project has, and can give back.
SELECT b.sha256 FROM memory_blobs b
WHERE b.user_id = %(user_id)s AND b.sha256 = ANY(%(hashes)s::bytea[]) AND b.data IS NOT NULL
  AND EXISTS (
      SELECT 1 FROM memory_snapshots s
      WHERE s.user_id = b.user_id AND s.sha256 = b.sha256 AND s.project_id = %(project_id)s
  );
