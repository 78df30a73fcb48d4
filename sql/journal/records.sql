-- name: append
-- A record that is here already stays as it is: the caller repeats an append whose end it did not see.
INSERT INTO records (id, user_id, project_id, op, path, name, sha256, size, mode, link, folder_modes, kind, reason,
                     context, attribution, captured_at, bytes, content)
VALUES (:id, :user_id, :project_id, :op, :path, :name, :sha256, :size, :mode, :link, :folder_modes, :kind, :reason,
        :context, :attribution, :captured_at, :bytes, :content)
ON CONFLICT (id) DO NOTHING;

-- name: know
INSERT INTO heads (project_id, path, sha256, mode, link, kept, captured_at, mtime_ns, ctime_ns, size, ino, dev)
VALUES (:project_id, :path, :sha256, :mode, :link, :kept, :captured_at, :mtime_ns, :ctime_ns, :size, :ino, :dev)
ON CONFLICT (project_id, path) DO UPDATE SET
    sha256 = excluded.sha256, mode = excluded.mode, link = excluded.link, kept = excluded.kept,
    captured_at = excluded.captured_at, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,
    size = excluded.size, ino = excluded.ino, dev = excluded.dev;

-- name: heads (read)
SELECT * FROM heads WHERE :project_id IS NULL OR project_id = :project_id ORDER BY project_id, path;

-- name: forget_head
DELETE FROM heads WHERE project_id = :project_id AND path = :path;

-- name: any_record (read)
SELECT 1 FROM records LIMIT 1;

-- name: any_of_project (read)
SELECT 1 FROM records WHERE project_id = :project_id LIMIT 1;

-- name: keys (read)
-- The records in order, without their contents.
SELECT seq, id, user_id, project_id, path, op, bytes, held_until, blocks FROM records ORDER BY seq;

-- name: keys_of_project (read)
SELECT seq, id, user_id, project_id, path, op, bytes, held_until, blocks FROM records INDEXED BY records_by_file
WHERE project_id = :project_id ORDER BY seq;

-- name: record (read)
SELECT * FROM records WHERE seq = :seq;

-- name: delivered
DELETE FROM records WHERE id = :id;

-- name: hold_back
UPDATE records SET held_until = :held_until, problem = :problem, blocks = :blocks WHERE id = :id;

-- name: files (read)
-- The files of a project with records, and the newest record of each.
SELECT path, count(*) AS records, sum(bytes) AS bytes, min(captured_at) AS oldest_at, max(captured_at) AS newest_at,
       max(problem) AS problem, max(seq) AS newest
FROM records WHERE project_id = :project_id AND op <> 'checkpoint' GROUP BY path ORDER BY path;

-- name: checkpoints (read)
SELECT name FROM records WHERE project_id = :project_id AND op = 'checkpoint' ORDER BY seq;

-- name: sha256 (read)
SELECT sha256 FROM records WHERE seq = :seq;

-- name: totals (read)
SELECT count(*) AS records, coalesce(sum(bytes), 0) AS bytes FROM records INDEXED BY records_by_file;

-- name: oldest (read)
SELECT captured_at FROM records ORDER BY seq LIMIT 1;

-- name: held (read)
SELECT count(*) AS held_back, (SELECT problem FROM records WHERE held_until IS NOT NULL ORDER BY seq LIMIT 1) AS problem
FROM records WHERE held_until IS NOT NULL;

-- name: dropped (read)
SELECT versions, at FROM dropped;

-- name: used (read)
-- Pages of the file that are in use, and the size of a page.
SELECT (SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count) AS pages,
       (SELECT page_size FROM pragma_page_size) AS page_size;

-- name: droppable (read)
-- The versions that may be dropped when the journal is full, the oldest first: neither the first nor the last of their
-- file, nor the last before a checkpoint, which names it.
WITH parted AS (
    SELECT seq, project_id, path, op, bytes,
           count(*) FILTER (WHERE op = 'checkpoint') OVER (PARTITION BY project_id ORDER BY seq) AS part
    FROM records
), ranked AS (
    SELECT seq, op, bytes, row_number() OVER (PARTITION BY project_id, path ORDER BY seq) AS from_first,
           row_number() OVER (PARTITION BY project_id, path, part ORDER BY seq DESC) AS to_last
    FROM parted
)
SELECT seq, bytes FROM ranked WHERE op <> 'checkpoint' AND from_first > 1 AND to_last > 1 ORDER BY seq;

-- name: drop
DELETE FROM records WHERE seq = :seq;

-- name: count_dropped
UPDATE dropped SET versions = versions + :versions, at = :at;

-- name: remember_project
INSERT INTO projects (id, fields) VALUES (:id, :fields) ON CONFLICT (id) DO UPDATE SET fields = excluded.fields;

-- name: projects (read)
SELECT fields FROM projects ORDER BY id;

-- name: forget_projects
DELETE FROM projects;

-- name: forget_project
DELETE FROM projects WHERE id = :project_id;

-- name: forget_heads
DELETE FROM heads WHERE project_id = :project_id;

-- name: forget_records
DELETE FROM records WHERE project_id = :project_id;
