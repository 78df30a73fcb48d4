-- The journal of a home: an SQLite file. `application_id` is "ATLJ"; a change of this file needs a new `user_version`.
PRAGMA application_id = 1096043594;
PRAGMA user_version = 1;

-- The records in the order of their append. Times are microseconds since 1970, UTC. Paths are the bytes of the disk.
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    user_id BLOB NOT NULL,
    project_id BLOB NOT NULL,
    op TEXT NOT NULL CHECK (op IN ('version', 'deletion', 'checkpoint')),
    path BLOB NOT NULL,
    name TEXT,
    sha256 BLOB,
    size INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    link BLOB,
    folder_modes TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT,
    context TEXT,
    attribution TEXT NOT NULL,
    captured_at INTEGER NOT NULL,
    -- Bytes of the content in this file.
    bytes INTEGER NOT NULL,
    -- The time before which nobody tries to deliver the record again, and the reason.
    held_until INTEGER,
    problem TEXT,
    -- 0: later records of the file need not wait for this one while it is held back.
    blocks INTEGER NOT NULL DEFAULT 1,
    -- The last column, so that a query for the others does not read it.
    content BLOB
);
CREATE INDEX records_by_file ON records (project_id, path, seq, op, bytes);
CREATE INDEX records_held ON records (seq) WHERE held_until IS NOT NULL;

-- The newest version of each file that this machine knows. A head without `sha256` is a deletion.
CREATE TABLE heads (
    project_id BLOB NOT NULL,
    path BLOB NOT NULL,
    sha256 BLOB,
    mode INTEGER NOT NULL,
    link BLOB,
    kept INTEGER NOT NULL,
    captured_at INTEGER NOT NULL,
    mtime_ns INTEGER,
    ctime_ns INTEGER,
    size INTEGER,
    ino INTEGER,
    dev INTEGER,
    PRIMARY KEY (project_id, path)
) WITHOUT ROWID;

-- The projects of the last list from the database, each as a JSON object.
CREATE TABLE projects (id BLOB PRIMARY KEY, fields TEXT NOT NULL) WITHOUT ROWID;

-- One row: the versions that were dropped because the journal was full.
CREATE TABLE dropped (versions INTEGER NOT NULL, at INTEGER);
INSERT INTO dropped (versions) VALUES (0);
