-- Statements of every administrator's connection.

-- name: become
-- Acts as another role for the rest of the transaction.
SELECT set_config('role', %(role)s, true);

-- name: limit_waiting
-- Limits the wait for each lock of one transaction.
SELECT set_config('lock_timeout', %(wait)s, true);
