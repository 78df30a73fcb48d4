-- name: columns
id, user_id, project_id, target, safety, changes, undone_at, attribution, created_at;

-- name: record
-- Recorded before the files are written: a restore that dies in the middle can still be undone. From here on, undone
-- restores cannot be redone.
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
-- The restore that was undone last: undo goes from the newest to the oldest, so it is the oldest one undone.
SELECT {columns} FROM restores
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND undone_at IS NOT NULL AND NOT superseded
ORDER BY created_at, id LIMIT 1;

-- name: void
-- Called when nothing was written after all: neither undo nor redo uses it.
UPDATE restores SET undone_at = %(now)s, superseded = true
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND id = %(id)s;

-- name: mark
-- Mark a restore as undone, or as done again.
UPDATE restores SET undone_at = %(undone_at)s
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND id = %(id)s
RETURNING {columns};
