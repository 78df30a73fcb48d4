-- name: record
-- Written before the files are: a restore that dies in the middle can still be undone.
INSERT INTO restores (user_id, project_id, id, target, safety, changes, attribution)
VALUES (%(user_id)s, %(project_id)s, %(id)s, %(target)s, %(safety)s, %(changes)s, %(attribution)s)
RETURNING id, user_id, project_id, target, safety, changes, undone_at, attribution, created_at;

-- name: to_undo
-- The newest restore that is not undone.
SELECT id, user_id, project_id, target, safety, changes, undone_at, attribution, created_at FROM restores
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND undone_at IS NULL
ORDER BY id DESC LIMIT 1;

-- name: to_redo
-- The oldest undone restore that no later restore stands on.
SELECT r.id, r.user_id, r.project_id, r.target, r.safety, r.changes, r.undone_at, r.attribution, r.created_at
FROM restores r
WHERE r.user_id = %(user_id)s AND r.project_id = %(project_id)s AND r.undone_at IS NOT NULL
  AND NOT EXISTS (
      SELECT 1 FROM restores later
      WHERE later.user_id = r.user_id AND later.project_id = r.project_id AND later.id > r.id AND later.undone_at IS NULL
  )
ORDER BY r.id LIMIT 1;

-- name: mark
-- Mark a restore as undone, or as done again.
UPDATE restores SET undone_at = %(undone_at)s
WHERE user_id = %(user_id)s AND project_id = %(project_id)s AND id = %(id)s
RETURNING id, user_id, project_id, target, safety, changes, undone_at, attribution, created_at;
