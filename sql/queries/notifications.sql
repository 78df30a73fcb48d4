-- name: send
-- As a function: NOTIFY takes no parameters.
SELECT pg_notify(%(channel)s, %(payload)s);
