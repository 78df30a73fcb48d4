-- Memory: every version of every memory file.
--
-- memory_blobs      what a version contains, once per tenant and SHA-256, mostly as a delta
-- memory_files      one row a file: its newest version, and the lock that writers race for
-- memory_snapshots  the history: who, when, which file, why, and which blob
-- checkpoints       names for the versions of all files of a project at one instant
-- restores          what was restored, and what stood there before: undo and redo walk over it

CREATE TABLE memory_blobs (
    size        bigint      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    user_id     uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- How many deltas must be applied to reach this blob from its keyframe; 0 is a keyframe.
    depth       smallint    NOT NULL DEFAULT 0,
    sha256      bytea       NOT NULL,
    -- The blob that this one is a delta of. The foreign key keeps it alive for as long as this one lives.
    base_sha256 bytea,
    -- One format byte, then the payload (atlas_sdk/model/blobs.py). NULL: the file was over the size limit, so only its
    -- hash and its size are known.
    data        bytea,
    PRIMARY KEY (user_id, sha256),
    -- Deferred, here and below: deleting a user removes blobs, files and versions in no particular order.
    FOREIGN KEY (user_id, base_sha256) REFERENCES memory_blobs (user_id, sha256) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT memory_blobs_sha256_is_32_bytes CHECK (octet_length(sha256) = 32),
    CONSTRAINT memory_blobs_size_not_negative CHECK (size >= 0),
    CONSTRAINT memory_blobs_delta_has_base CHECK ((base_sha256 IS NOT NULL) = (depth > 0)),
    CONSTRAINT memory_blobs_delta_has_data CHECK (depth = 0 OR data IS NOT NULL)
);
-- The payload is compressed already: a second try would only cost time.
ALTER TABLE memory_blobs ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX idx_memory_blobs_base ON memory_blobs (user_id, base_sha256) WHERE base_sha256 IS NOT NULL;

-- Updated once per version, in place: no index on what changes, and room in the page for the next row version.
CREATE TABLE memory_files (
    user_id     uuid NOT NULL,
    project_id  uuid NOT NULL,
    -- The newest version, be it a deletion; and the newest version that has content.
    snapshot_id uuid NOT NULL,
    content_id  uuid NOT NULL,
    seq         integer NOT NULL,
    path        text NOT NULL,
    PRIMARY KEY (user_id, project_id, path),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE,
    -- An index entry holds 2,704 bytes.
    CONSTRAINT memory_files_path_length CHECK (path <> '' AND octet_length(path) <= 2048),
    CONSTRAINT memory_files_seq_from_one CHECK (seq >= 1)
) WITH (fillfactor = 60);

CREATE TABLE checkpoints (
    user_id     uuid        NOT NULL,
    project_id  uuid        NOT NULL,
    id          uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    name        text        NOT NULL,
    -- 'named' by somebody; 'safety' made before a restore writes.
    kind        text        NOT NULL DEFAULT 'named',
    note        text,
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, project_id, name),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE,
    CONSTRAINT checkpoints_kind CHECK (kind IN ('named', 'safety')),
    CONSTRAINT checkpoints_name_length CHECK (name <> '' AND char_length(name) <= 200)
);

CREATE TABLE memory_snapshots (
    size        bigint      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    user_id     uuid        NOT NULL,
    project_id  uuid        NOT NULL,
    id          uuid        NOT NULL,
    -- Counts the versions of one file from 1; a checkpoint's row has the number of the version that it names.
    seq         integer     NOT NULL,
    -- Permission bits.
    mode        integer     NOT NULL DEFAULT 420,
    kind        text        NOT NULL,
    -- Relative to the project, '/' between parts; bytes that are not UTF-8 as \xNN, a backslash as \\.
    path        text        NOT NULL,
    -- NULL: the file was deleted at this point.
    sha256      bytea,
    -- The text of the symlink, when the path itself was one inside the project.
    link        text,
    -- Permission bits of the folders between the project's and the file, outermost first; NULL when all are 755.
    folder_modes smallint[],
    checkpoint  text,
    context     jsonb,
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, project_id, id),
    FOREIGN KEY (user_id, project_id, path) REFERENCES memory_files (user_id, project_id, path) ON DELETE CASCADE,
    FOREIGN KEY (user_id, sha256) REFERENCES memory_blobs (user_id, sha256) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (user_id, project_id, checkpoint) REFERENCES checkpoints (user_id, project_id, name)
        ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT memory_snapshots_kind CHECK (kind IN ('claude_md', 'scratch', 'checkpoint', 'auto')),
    CONSTRAINT memory_snapshots_checkpoint_is_named CHECK ((kind = 'checkpoint') = (checkpoint IS NOT NULL)),
    CONSTRAINT memory_snapshots_size CHECK (size >= 0 AND (sha256 IS NOT NULL OR size = 0)),
    CONSTRAINT memory_snapshots_mode CHECK (mode BETWEEN 0 AND 4095)
);
CREATE INDEX idx_memory_snapshots_file ON memory_snapshots (user_id, project_id, path, seq);
CREATE INDEX idx_memory_snapshots_blob ON memory_snapshots (user_id, sha256);
CREATE INDEX idx_memory_snapshots_checkpoint ON memory_snapshots (user_id, project_id, checkpoint)
    WHERE checkpoint IS NOT NULL;

-- The newest version of a file is kept for ever, and so is the newest one with content: whoever deletes old rows by hand
-- or by cron must not be able to delete the only copy of a file that has not changed for a month. Deleting the file's
-- row in memory_files (or the project, or the user) first is how everything goes.
CREATE FUNCTION keep_newest_version() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- A checkpoint's row is never the newest version: it only names one, and goes with its checkpoint.
    IF OLD.kind <> 'checkpoint' AND EXISTS (
        SELECT 1 FROM memory_files f
        WHERE f.user_id = OLD.user_id AND f.project_id = OLD.project_id AND f.path = OLD.path
          AND OLD.id IN (f.snapshot_id, f.content_id)
    ) THEN
        RETURN NULL;
    END IF;
    RETURN OLD;
END;
$$;
CREATE TRIGGER memory_snapshots_keep_newest BEFORE DELETE ON memory_snapshots
    FOR EACH ROW EXECUTE FUNCTION keep_newest_version();

CREATE TABLE restores (
    user_id     uuid        NOT NULL,
    project_id  uuid        NOT NULL,
    id          uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    -- Set while the restore is undone.
    undone_at   timestamptz,
    -- Undone, and a later restore was made since: redo does not reach behind that one.
    superseded  boolean     NOT NULL DEFAULT false,
    -- What was asked for: a checkpoint's name, a version, "latest".
    target      text        NOT NULL,
    -- The checkpoint made just before the files were written.
    safety      text        NOT NULL,
    -- [{"path": …, "before": snapshot id or null, "after": snapshot id or null}]; null: no such file.
    changes     jsonb       NOT NULL,
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, project_id, id),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE
);

ALTER TABLE memory_blobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_files ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE restores ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON memory_blobs
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
CREATE POLICY tenant ON memory_files
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
CREATE POLICY tenant ON memory_snapshots
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
CREATE POLICY tenant ON checkpoints
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
CREATE POLICY tenant ON restores
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
