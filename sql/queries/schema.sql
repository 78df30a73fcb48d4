-- name: exists (read)
-- Whether this database has a schema of ours.
SELECT to_regclass('schema_version') IS NOT NULL;

-- name: lock
-- One at a time makes the first table; the lock goes with the transaction, so it works behind a pooler too.
SELECT pg_advisory_xact_lock(4152413917);

-- name: may_lock
-- Where PUBLIC has lost advisory locks, only logins that were granted them may wait; others meet a unique violation
-- when two make the first table at once.
SELECT has_function_privilege('pg_advisory_xact_lock(bigint)', 'EXECUTE');

-- name: lock_version
-- One migration at a time. Tenants may read this table and no more, so none can hold this lock or wait for it.
LOCK TABLE schema_version IN SHARE ROW EXCLUSIVE MODE;

-- name: create_version_table
CREATE TABLE IF NOT EXISTS schema_version (
    version    integer     NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: applied (read)
-- What was applied, in order.
SELECT version, name, checksum, applied_at FROM schema_version ORDER BY version;

-- name: record
INSERT INTO schema_version (version, name, checksum) VALUES (%(version)s, %(name)s, %(checksum)s);

-- name: server (read)
-- Facts about the server, for `status` and `health`.
SELECT current_setting('server_version') AS server_version, current_database() AS database, current_user AS role,
       clock_timestamp() AS now, pg_database_size(current_database()) AS database_bytes;

-- name: now (read)
-- The database's clock: the one that versions are stamped with.
SELECT clock_timestamp();
