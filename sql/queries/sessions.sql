-- name: columns
user_id, id, expires_at, is_active, ip, user_agent, created_at, last_seen_at;

-- name: now (read)
-- Return the clock that decides on expiry.
SELECT clock_timestamp();

-- name: issue
-- Return no row when the password was changed since the user was read, or the user is gone. The user stays locked until
-- the session is visible to all: revoke_all locks the user first, and so sees this session. Not FOR SHARE: two
-- transactions that sign in and end the other sessions would wait for each other.
INSERT INTO sessions AS n (user_id, id, token_hash, expires_at, ip, user_agent)
SELECT id, %(session_id)s, %(token_hash)s, %(expires_at)s, %(ip)s, %(user_agent)s FROM users
WHERE id = %(user_id)s AND password_changed_at IS NOT DISTINCT FROM %(password_changed_at)s::timestamptz
FOR NO KEY UPDATE
RETURNING n.user_id, n.id, n.expires_at, n.is_active, n.ip, n.user_agent, n.created_at, n.last_seen_at;

-- name: look (read)
-- Return the session of a token in any state: the reason is for logs. It expires by the row or by the token, whichever
-- is earlier. now() would not do: it stands still in a transaction.
SELECT {columns}, token_hash,
       least(expires_at, %(expires_at)s) <= clock_timestamp() AS expired
FROM sessions WHERE user_id = %(user_id)s AND id = %(session_id)s;

-- name: touch
UPDATE sessions SET last_seen_at = now()
WHERE user_id = %(user_id)s AND id = %(session_id)s AND is_active AND expires_at > now()
  AND last_seen_at <= now() - %(every)s::interval;

-- name: revoke
-- Return no row when it is revoked already, which is final. A token only revokes its own session.
UPDATE sessions SET is_active = false
WHERE user_id = %(user_id)s AND id = %(session_id)s AND is_active
  AND (%(token_hash)s::bytea IS NULL OR token_hash = %(token_hash)s::bytea)
RETURNING {columns};

-- name: hold
-- Wait for sign-ins that are under way. It is a statement of its own, so that the next one sees them.
SELECT id FROM users WHERE id = %(user_id)s FOR NO KEY UPDATE;

-- name: revoke_all
-- The locks are taken in the order of ids, so that two calls cannot deadlock.
UPDATE sessions SET is_active = false
FROM (
    SELECT id FROM sessions
    WHERE user_id = %(user_id)s AND is_active AND id IS DISTINCT FROM %(kept)s::uuid
    ORDER BY id FOR UPDATE
) AS held
WHERE sessions.user_id = %(user_id)s AND sessions.id = held.id;

-- name: list (read)
SELECT {columns} FROM sessions
WHERE user_id = %(user_id)s AND is_active AND expires_at > now()
ORDER BY id DESC LIMIT %(limit)s;
