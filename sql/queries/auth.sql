-- name: credentials (read)
SELECT id AS user_id, password_hash, password_changed_at FROM users
WHERE id = (SELECT user_id FROM claims WHERE kind = 'email' AND value = %(email)s);

-- name: still
-- Return the user if the verified hash is still the current one. The lock makes a change of the password wait until
-- this sign-in is recorded.
SELECT id, email, name, plan, email_verified, password_changed_at, created_at, updated_at FROM users
WHERE id = %(user_id)s AND password_hash = %(password_hash)s FOR NO KEY UPDATE;

-- name: rehash
-- Only if nobody has set another one meanwhile.
UPDATE users SET password_hash = %(password_hash)s WHERE id = %(user_id)s AND password_hash = %(before)s;

-- name: next_change
-- Lock the user, and return a time for this change of the password. Every change has a time of its own, even when a
-- clock went back: a sign-in compares this time.
SELECT greatest(clock_timestamp(), password_changed_at + interval '1 microsecond') AS at FROM users
WHERE id = %(user_id)s FOR NO KEY UPDATE;

-- name: set_password
UPDATE users SET password_hash = %(password_hash)s, password_changed_at = %(at)s WHERE id = %(user_id)s;
