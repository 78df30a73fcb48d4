-- name: record
INSERT INTO events (user_id, id, type, project_id, ip, user_agent, meta)
VALUES (%(user_id)s, %(event_id)s, %(type)s, %(project_id)s, %(ip)s, %(user_agent)s, %(meta)s);

-- name: recent
-- Newest first.
SELECT user_id, id, type, project_id, ip, user_agent, meta, created_at FROM events
WHERE user_id = %(user_id)s AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
ORDER BY created_at DESC, id DESC LIMIT %(limit)s;
