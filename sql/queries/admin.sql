-- Statements of every administrator's connection.

-- name: become
-- Act as another role for the rest of the transaction.
SELECT set_config('role', %(role)s, true);

-- name: limit_waiting
-- Limit the wait for each lock of one transaction.
SELECT set_config('lock_timeout', %(wait)s, true);
