-- name: send
-- NOTIFY takes no parameters, the function does.
SELECT pg_notify(%(channel)s, %(payload)s);
