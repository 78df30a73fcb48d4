-- name: columns
id, user_id, project_id, target, safety, changes, undone_at, attribution, created_at;

-- name: record
-- Record a restore before its files are written, so that a restore that is killed in the middle can still be undone.
-- From now on, restores that were undone earlier cannot be redone.
WITH superseded AS (
    UPDATE restores SET superseded = true
    WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND undone_at IS NOT NULL AND NOT superseded
)
INSERT INTO restores (user_id, project_id, id, target, safety, changes, attribution)
VALUES (%(user_id)s, %(project_id)s, %(id)s, %(target)s, %(safety)s, %(changes)s, %(attribution)s)
RETURNING {columns};

-- name: to_undo (read)
-- The newest restore that is not undone.
SELECT {columns} FROM restores
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND undone_at IS NULL
ORDER BY created_at DESC, id DESC LIMIT 1;

-- name: to_redo (read)
-- The restore that was undone last: undo goes from the newest to the oldest, so this is the oldest undone one.
SELECT {columns} FROM restores
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND undone_at IS NOT NULL AND NOT superseded
ORDER BY created_at, id LIMIT 1;

-- name: void
-- Void a restore when no file was written after all: then neither undo nor redo uses the restore.
UPDATE restores SET undone_at = %(now)s, superseded = true
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND id = %(id)s;

-- name: mark
-- Mark a restore as undone, or as done again.
UPDATE restores SET undone_at = %(undone_at)s
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND id = %(id)s
RETURNING {columns};
