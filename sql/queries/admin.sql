-- Statements of an administrator's connection, whatever it does.

-- name: become
-- Be another role for the rest of the transaction.
SELECT set_config('role', %(role)s, true);

-- name: limit_waiting
-- For the locks of one transaction.
SELECT set_config('lock_timeout', %(wait)s, true);
