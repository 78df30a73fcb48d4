-- name: send
-- This uses the function, because NOTIFY takes no parameters.
SELECT pg_notify(%(channel)s, %(payload)s);
