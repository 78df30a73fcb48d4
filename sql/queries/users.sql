-- name: columns
id, email, name, plan, email_verified, password_changed_at, created_at, updated_at;

-- name: claim_email
-- An e-mail address belongs to one user of the whole database: claim it before the user is made.
INSERT INTO claims (kind, value, user_id) VALUES ('email', %(email)s, %(user_id)s) ON CONFLICT DO NOTHING;

-- name: create
INSERT INTO users (id, email, password_hash, password_changed_at, name, plan)
VALUES (%(user_id)s, %(email)s, %(password_hash)s,
        CASE WHEN %(password_hash)s::text IS NOT NULL THEN clock_timestamp() END, %(name)s, %(plan)s)
RETURNING {columns};

-- name: allow_any_number
UPDATE user_quotas
SET projects_limit = NULL, sessions_limit = NULL, previews_limit = NULL, overridden = '{previews,projects,sessions}'
WHERE user_id = %(user_id)s;

-- name: get (read)
SELECT {columns} FROM users WHERE id = %(user_id)s;

-- name: by_email (read)
SELECT {columns} FROM users
WHERE id = (SELECT user_id FROM claims WHERE kind = 'email' AND value = %(email)s);

-- name: plan_of
-- Return the plan that a user leaves. The lock keeps other changes out.
SELECT plan FROM users WHERE id = %(user_id)s FOR NO KEY UPDATE;

-- name: set_plan
-- The trigger sets the limits.
UPDATE users SET plan = %(plan)s WHERE id = %(user_id)s
RETURNING {columns};

-- name: plan_exists (read)
SELECT EXISTS (SELECT FROM plans WHERE name = %(plan)s);

-- name: list (read)
-- Ids are in the order of time.
SELECT {columns} FROM users
WHERE %(after)s::uuid IS NULL OR id > %(after)s::uuid
ORDER BY id LIMIT %(limit)s;

-- name: verify_email
-- Return no row when it is verified already.
UPDATE users SET email_verified = true WHERE id = %(user_id)s AND email = %(email)s AND NOT email_verified
RETURNING {columns};

-- name: rename
-- Return no row when that is the name already.
UPDATE users SET name = %(name)s WHERE id = %(user_id)s AND name <> %(name)s
RETURNING {columns};

-- name: lock_quota
SELECT user_id FROM user_quotas WHERE user_id = %(user_id)s FOR UPDATE;

-- name: lock
SELECT id FROM users WHERE id = %(user_id)s FOR UPDATE;

-- name: belongings (read)
-- Count what a deletion deletes.
SELECT
    %(user_id)s::uuid AS user_id,
    (SELECT count(*) FROM projects WHERE user_id = %(user_id)s) AS projects,
    (SELECT count(*) FROM memory_snapshots WHERE user_id = %(user_id)s) AS memory_snapshots,
    (SELECT count(*) FROM builds WHERE user_id = %(user_id)s) AS builds,
    (SELECT count(*) FROM previews WHERE user_id = %(user_id)s) AS previews,
    (SELECT count(*) FROM sessions WHERE user_id = %(user_id)s) AS sessions,
    (SELECT count(*) FROM usage_ledger WHERE user_id = %(user_id)s) AS usage_entries,
    (SELECT count(*) FROM claims WHERE user_id = %(user_id)s) AS claims;

-- name: release_claims
-- No foreign key deletes them: claims are sharded by name.
DELETE FROM claims WHERE user_id = %(user_id)s;

-- name: release_ports
-- No foreign key deletes them either: ports are sharded by machine.
DELETE FROM preview_ports WHERE user_id = %(user_id)s;

-- name: delete
-- Foreign keys delete everything else of the user.
DELETE FROM users WHERE id = %(user_id)s;

-- name: memory_files (read)
SELECT project_id, path FROM memory_files WHERE user_id = %(user_id)s;
