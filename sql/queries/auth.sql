-- name: credentials (read)
SELECT id AS user_id, password_hash, password_changed_at FROM users
WHERE id = (SELECT user_id FROM claims WHERE kind = 'email' AND value = %(email)s);

-- name: still
-- The user, if the hash that was verified is still the one. Locked, so that a change of the password waits for this
-- sign-in to be on record.
SELECT id, email, name, plan, email_verified, password_changed_at, created_at, updated_at FROM users
WHERE id = %(user_id)s AND password_hash = %(password_hash)s FOR NO KEY UPDATE;

-- name: rehash
-- Only while nobody has set another one.
UPDATE users SET password_hash = %(password_hash)s WHERE id = %(user_id)s AND password_hash = %(before)s;

-- name: set_password
-- Every change has a moment of its own, even where a clock went back: a sign-in is compared by it.
UPDATE users SET password_hash = %(password_hash)s,
       password_changed_at = greatest(clock_timestamp(), password_changed_at + interval '1 microsecond')
WHERE id = %(user_id)s;
