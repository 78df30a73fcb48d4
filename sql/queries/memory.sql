-- name: put
SELECT seq, created_at, stored_depth
FROM memory_put(
    %(user_id)s, %(project_id)s, %(path)s, %(id)s, %(head_id)s, %(size)s::bigint, %(depth)s::smallint, %(sha256)s,
    %(base_sha256)s, %(data)s::bytea, %(mode)s::integer, %(kind)s, %(link)s, %(folder_modes)s::smallint[],
    %(context)s::jsonb, %(attribution)s::jsonb, %(captured_at)s::timestamptz,
    %(not_before)s::timestamptz
);

-- name: put_many
SELECT done, seqs, stored_at, known_sha256, known_depth
FROM memory_put_many(
    %(user_id)s, %(chosen_ids)s, %(attributions)s::text[]::jsonb[],
    %(f_project)s::uuid[], %(f_path)s::text[], %(f_head)s::uuid[], %(f_last)s::uuid[], %(f_content)s::uuid[],
    %(f_count)s::integer[], %(f_equal)s::text[],
    %(b_last)s::uuid[], %(b_sha256)s::bytea[], %(b_size)s::bigint[], %(b_depth)s::integer[],
    %(b_base_sha256)s::bytea[], %(b_data)s::bytea[],
    %(v_last)s::uuid[], %(v_back)s::integer[], %(v_project)s::uuid[], %(v_path)s::text[], %(v_id)s::uuid[],
    %(v_size)s::bigint[], %(v_mode)s::integer[], %(v_kind)s::text[], %(v_sha256)s::bytea[], %(v_link)s::text[],
    %(v_folder_modes)s::text[], %(v_context)s::text[], %(v_attribution)s::integer[],
    %(v_captured_at)s::timestamptz[], %(v_not_before)s::timestamptz[]
);

-- name: put_deletion
-- Append a version that records the deletion of the file; the newest content stays stored.
WITH head AS (
    UPDATE memory_files f SET seq = f.seq + 1, snapshot_id = %(id)s
    WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s AND f.path = %(path)s
      AND f.snapshot_id = %(head_id)s
    RETURNING f.seq
)
INSERT INTO memory_snapshots AS n (size, user_id, project_id, id, seq, mode, kind, path, context, attribution, created_at)
SELECT 0, %(user_id)s, %(project_id)s, %(id)s, head.seq, %(mode)s, %(kind)s, %(path)s, %(context)s::jsonb,
       %(attribution)s, greatest(least(%(captured_at)s::timestamptz, now()), %(not_before)s::timestamptz)
FROM head
RETURNING n.seq, n.created_at;

-- name: has_project (read)
SELECT EXISTS (SELECT FROM projects p WHERE p.user_id = %(user_id)s AND p.id = %(project_id)s);

-- name: knows (read)
SELECT memory_knows(%(user_id)s, %(project_id)s, %(path)s, %(id)s);

-- name: note_equal
-- Remember the id of a version that is equal to the newest one, so that it counts as stored.
UPDATE memory_files f SET equal_ids = (ARRAY[%(id)s::uuid] || f.equal_ids)[1:16]
WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s AND f.path = %(path)s AND f.snapshot_id = %(head_id)s;

-- name: head (read)
-- The newest version of a file, and the blob of its newest content to make the next delta with.
SELECT f.seq, f.snapshot_id, s.sha256, s.mode, s.link, s.created_at,
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

-- name: heads (read)
-- The same as `head`, for many files of a user. Each step reads one row by its whole key: see `chain`.
SELECT n.number, f.seq, f.snapshot_id, s.sha256, s.mode, s.link, s.created_at,
       b.sha256 AS blob_sha256, b.size AS blob_size, b.depth AS blob_depth, b.kept AS blob_kept
FROM unnest(%(projects)s::uuid[], %(paths)s::text[]) WITH ORDINALITY AS n (project_id, path, number)
CROSS JOIN LATERAL (
    SELECT k.seq, k.snapshot_id, k.content_id FROM memory_files k
    WHERE k.user_id = %(user_id)s AND k.project_id = n.project_id AND k.path = n.path LIMIT 1
) f
CROSS JOIN LATERAL (
    SELECT k.sha256, k.mode, k.link, k.created_at FROM memory_snapshots k
    WHERE k.user_id = %(user_id)s AND k.project_id = n.project_id AND k.id = f.snapshot_id LIMIT 1
) s
CROSS JOIN LATERAL (
    SELECT k.sha256 FROM memory_snapshots k
    WHERE k.user_id = %(user_id)s AND k.project_id = n.project_id AND k.id = f.content_id LIMIT 1
) c
CROSS JOIN LATERAL (
    SELECT k.sha256, k.size, k.depth, k.data IS NOT NULL AS kept FROM memory_blobs k
    WHERE k.user_id = %(user_id)s AND k.sha256 = c.sha256 LIMIT 1
) b;

-- name: known_ids (read)
-- Return the ids of the versions that the client has sent before.
SELECT n.id FROM unnest(%(projects)s::uuid[], %(paths)s::text[], %(ids)s::uuid[]) AS n (project_id, path, id)
WHERE memory_knows(%(user_id)s, n.project_id, n.path, n.id);

-- name: depths (read)
-- The places of contents in their chains of deltas, of those that are stored.
SELECT b.sha256, b.depth FROM memory_blobs b
WHERE b.user_id = %(user_id)s AND b.sha256 = ANY(%(hashes)s::bytea[]) AND b.data IS NOT NULL;

-- name: lock
-- Lock a file: its newest version stays the newest until the end of the transaction. Call memory_usage.turn before it.
SELECT snapshot_id FROM memory_files
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND path = %(path)s FOR UPDATE;

-- name: heal
-- Replace stored bytes that are damaged or were never kept, by the same content as a keyframe.
UPDATE memory_blobs SET depth = 0, base_sha256 = NULL, data = %(data)s
WHERE user_id = %(user_id)s AND sha256 = %(sha256)s;

-- name: chain (read)
-- Return a blob and its bases, down to the keyframe or to a content that the client has already, in the order of the
-- steps; `depth` is only an upper bound of their number. Each step reads one row by its whole key: LATERAL with LIMIT 1
-- keeps a planner without statistics from reading all blobs of a tenant each time.
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

-- name: chains (read)
-- The same as `chain`, for many blobs: the steps of each, one after the other.
WITH RECURSIVE chain AS (
    SELECT n.number, 0 AS step, b.sha256, b.size, b.depth, b.base_sha256, b.data
    FROM unnest(%(hashes)s::bytea[]) WITH ORDINALITY AS n (sha256, number)
    CROSS JOIN LATERAL (
        SELECT k.sha256, k.size, k.depth, k.base_sha256, k.data FROM memory_blobs k
        WHERE k.user_id = %(user_id)s AND k.sha256 = n.sha256 LIMIT 1
    ) b
    UNION ALL
    SELECT chain.number, chain.step + 1, b.sha256, b.size, b.depth, b.base_sha256, b.data FROM chain
    CROSS JOIN LATERAL (
        SELECT k.sha256, k.size, k.depth, k.base_sha256, k.data FROM memory_blobs k
        WHERE k.user_id = %(user_id)s AND k.sha256 = chain.base_sha256 LIMIT 1
    ) b
)
SELECT number, sha256, size, depth, base_sha256, data FROM chain ORDER BY number, step;

-- name: files (read)
-- The newest version of every file of a project, deletions too, and whether its content is stored.
SELECT s.*, s.sha256 IS NULL OR EXISTS (
           SELECT FROM memory_blobs b WHERE b.user_id = s.user_id AND b.sha256 = s.sha256 AND b.data IS NOT NULL
       ) AS kept
FROM memory_files f
JOIN memory_versions s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path AND s.seq = f.seq
    AND s.id = f.snapshot_id
WHERE f.user_id = %(user_id)s AND f.project_id = %(project_id)s
ORDER BY s.path;

-- name: files_of_projects (read)
-- The newest version of every file of many projects, as `files` returns it.
SELECT s.*, s.sha256 IS NULL OR EXISTS (
           SELECT FROM memory_blobs b WHERE b.user_id = s.user_id AND b.sha256 = s.sha256 AND b.data IS NOT NULL
       ) AS kept
FROM unnest(%(user_ids)s::uuid[], %(project_ids)s::uuid[]) AS wanted (user_id, project_id)
JOIN memory_files f ON f.user_id = wanted.user_id AND f.project_id = wanted.project_id
JOIN memory_versions s ON s.user_id = f.user_id AND s.project_id = f.project_id AND s.path = f.path AND s.seq = f.seq
    AND s.id = f.snapshot_id
ORDER BY s.user_id, s.project_id, s.path;

-- name: files_at (read)
-- The version of every file that was the newest at a moment, deletions too. The search begins at the newest version
-- of each file.
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
-- An id prefix is a range of ids. The rows of one checkpoint share their first digits, so a prefix finds none of them.
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND s.id BETWEEN %(low)s AND %(high)s
  AND (s.kind <> 'checkpoint' OR %(low)s = %(high)s) AND (%(path)s::text IS NULL OR s.path = %(path)s)
ORDER BY s.id LIMIT 5;

-- name: history_of_file (read)
-- Return the newest version first; a page begins below a version. A version and the rows of checkpoints that name it
-- have the same number. The version counts as older than these rows, whatever the ids say: ids come from the clocks of
-- the clients.
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND s.path = %(path)s
  AND (%(before_seq)s::integer IS NULL
       OR (s.seq, s.kind = 'checkpoint', s.id) < (%(before_seq)s, %(before_kind)s::text = 'checkpoint', %(before_id)s::uuid))
ORDER BY s.seq DESC, s.kind = 'checkpoint' DESC, s.id DESC LIMIT %(limit)s;

-- name: history_of_project (read)
-- Return the newest version first; a page begins below an id.
SELECT s.* FROM memory_versions s
WHERE s.user_id = %(user_id)s AND s.project_id = %(project_id)s AND (%(before_id)s::uuid IS NULL OR s.id < %(before_id)s)
ORDER BY s.id DESC LIMIT %(limit)s;

-- name: known_contents (read)
-- Return those of the given contents that are stored and belong to a version of the project.
SELECT b.sha256 FROM memory_blobs b
WHERE b.user_id = %(user_id)s AND b.sha256 = ANY(%(hashes)s::bytea[]) AND b.data IS NOT NULL
  AND EXISTS (
      SELECT 1 FROM memory_snapshots s
      WHERE s.user_id = b.user_id AND s.sha256 = b.sha256 AND s.project_id = %(project_id)s
  );
