-- name: columns
user_id, id, type, project_id, ip, user_agent, meta, created_at;

-- name: record
INSERT INTO events (user_id, id, type, project_id, ip, user_agent, meta)
VALUES (%(user_id)s, %(event_id)s, %(type)s, %(project_id)s, %(ip)s, %(user_agent)s, %(meta)s);

-- name: recent (read)
-- Newest first. The events of a project have a statement of their own: a plan for both would not use their index.
SELECT {columns} FROM events
WHERE user_id = %(user_id)s
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: recent_of_project (read)
SELECT {columns} FROM events
WHERE user_id = %(user_id)s AND project_id = %(project_id)s
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: search (read)
-- Newest first; a page begins after the row (before_at, before_id).
SELECT {columns} FROM events
WHERE user_id = %(user_id)s
  AND starts_with(type, coalesce(%(event_type)s, ''))
  AND created_at >= coalesce(%(since)s, '-infinity'::timestamptz)
  AND created_at < coalesce(%(until)s, 'infinity'::timestamptz)
  AND (%(text)s::text IS NULL OR strpos(lower(meta::text), lower(%(text)s::text)) > 0)
  AND (created_at, id) < (
      coalesce(%(before_at)s, 'infinity'::timestamptz),
      coalesce(%(before_id)s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: search_in_project (read)
-- The same of one project.
SELECT {columns} FROM events
WHERE user_id = %(user_id)s AND project_id = %(project_id)s
  AND starts_with(type, coalesce(%(event_type)s, ''))
  AND created_at >= coalesce(%(since)s, '-infinity'::timestamptz)
  AND created_at < coalesce(%(until)s, 'infinity'::timestamptz)
  AND (%(text)s::text IS NULL OR strpos(lower(meta::text), lower(%(text)s::text)) > 0)
  AND (created_at, id) < (
      coalesce(%(before_at)s, 'infinity'::timestamptz),
      coalesce(%(before_id)s, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;
