-- name: now (read)
-- The clock that expiry is judged by.
SELECT clock_timestamp();

-- name: issue
-- No row when the password was changed since the user was read, or the user is gone. The user is held until the session
-- is there for all to see: whoever ends all sessions holds the user first, and so sees this one. Not FOR SHARE: two who
-- sign in and end the other sessions, each in one transaction, would wait for each other.
INSERT INTO sessions AS n (user_id, id, token_hash, expires_at, ip, user_agent)
SELECT id, %(session_id)s, %(token_hash)s, %(expires_at)s, %(ip)s, %(user_agent)s FROM users
WHERE id = %(user_id)s AND password_changed_at IS NOT DISTINCT FROM %(password_changed_at)s::timestamptz
FOR NO KEY UPDATE
RETURNING n.user_id, n.id, n.expires_at, n.is_active, n.ip, n.user_agent, n.created_at, n.last_seen_at;

-- name: look (read)
-- A token's session, whatever its state: the reason is for logs. It expires when the row or the token says so,
-- whichever is earlier. Not by now(), which stands still in a transaction.
SELECT user_id, id, expires_at, is_active, ip, user_agent, created_at, last_seen_at, token_hash,
       least(expires_at, %(expires_at)s) <= clock_timestamp() AS expired
FROM sessions WHERE user_id = %(user_id)s AND id = %(session_id)s;

-- name: touch
UPDATE sessions SET last_seen_at = now()
WHERE user_id = %(user_id)s AND id = %(session_id)s AND is_active AND expires_at > now()
  AND last_seen_at <= now() - %(every)s::interval;

-- name: revoke
-- No row when it is so already: revoked is final. By a token only if it is this session's.
UPDATE sessions SET is_active = false
WHERE user_id = %(user_id)s AND id = %(session_id)s AND is_active
  AND (%(token_hash)s::bytea IS NULL OR token_hash = %(token_hash)s::bytea)
RETURNING user_id, id, expires_at, is_active, ip, user_agent, created_at, last_seen_at;

-- name: hold
-- Waits for the sign-ins that are being written. A statement of its own: the next one sees them.
SELECT id FROM users WHERE id = %(user_id)s FOR NO KEY UPDATE;

-- name: revoke_all
-- Locked in the order of ids, so that two at once cannot deadlock.
UPDATE sessions SET is_active = false
FROM (
    SELECT id FROM sessions
    WHERE user_id = %(user_id)s AND is_active AND id IS DISTINCT FROM %(kept)s::uuid
    ORDER BY id FOR UPDATE
) AS held
WHERE sessions.user_id = %(user_id)s AND sessions.id = held.id;

-- name: list (read)
SELECT user_id, id, expires_at, is_active, ip, user_agent, created_at, last_seen_at FROM sessions
WHERE user_id = %(user_id)s AND is_active AND expires_at > now()
ORDER BY id DESC LIMIT %(limit)s;
