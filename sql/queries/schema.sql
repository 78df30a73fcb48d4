-- name: exists (read)
-- Return whether this database has our schema.
SELECT to_regclass('schema_version') IS NOT NULL;

-- name: lock
-- Wait for other processes that make the first table. The lock ends with the transaction, so it works behind a pooler
-- too.
SELECT pg_advisory_xact_lock(4152413917);

-- name: may_lock
-- Return whether this login may take the lock. If PUBLIC may not use advisory locks, a login without a grant cannot
-- wait: it gets a unique violation when two logins make the first table at once.
SELECT has_function_privilege('pg_advisory_xact_lock(bigint)', 'EXECUTE');

-- name: lock_version
-- Let one migration run at a time. Tenants may only read this table, so none can hold this lock or wait for it.
LOCK TABLE schema_version IN SHARE ROW EXCLUSIVE MODE;

-- name: create_version_table
CREATE TABLE IF NOT EXISTS schema_version (
    version    integer     NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: applied (read)
-- The applied migrations, in order.
SELECT version, name, checksum, applied_at FROM schema_version ORDER BY version;

-- name: record
INSERT INTO schema_version (version, name, checksum) VALUES (%(version)s, %(name)s, %(checksum)s);

-- name: server (read)
-- Return facts about the server, for `status` and `health`.
SELECT current_setting('server_version') AS server_version, current_database() AS database, current_user AS role,
       clock_timestamp() AS now, pg_database_size(current_database()) AS database_bytes;

-- name: now (read)
-- The database's clock, which gives versions their time.
SELECT clock_timestamp();
