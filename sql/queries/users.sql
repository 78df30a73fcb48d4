-- name: claim_email
-- An e-mail address belongs to one user of the whole database: claim it before the user is made.
INSERT INTO claims (kind, value, user_id) VALUES ('email', %(email)s, %(user_id)s) ON CONFLICT DO NOTHING;

-- name: create
INSERT INTO users (id, email, password_hash, name, plan)
VALUES (%(user_id)s, %(email)s, %(password_hash)s, %(name)s, %(plan)s)
RETURNING id, email, name, plan, email_verified, created_at, updated_at;

-- name: get
SELECT id, email, name, plan, email_verified, created_at, updated_at FROM users WHERE id = %(user_id)s;

-- name: by_email
SELECT id, email, name, plan, email_verified, created_at, updated_at FROM users
WHERE id = (SELECT user_id FROM claims WHERE kind = 'email' AND value = %(email)s);

-- name: set_plan
-- The trigger sets the limits.
UPDATE users SET plan = %(plan)s WHERE id = %(user_id)s
RETURNING id, email, name, plan, email_verified, created_at, updated_at;

-- name: plan_exists
SELECT EXISTS (SELECT FROM plans WHERE name = %(plan)s);
