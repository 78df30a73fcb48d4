-- Memory: every version of every memory file.

CREATE TABLE memory_blobs (
    size        bigint      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    user_id     uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- The number of deltas from the keyframe to this blob; 0 is a keyframe.
    depth       smallint    NOT NULL DEFAULT 0,
    sha256      bytea       NOT NULL,
    -- The base of a delta: another blob. The foreign key keeps the base for as long as the delta exists.
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
COMMENT ON TABLE memory_blobs IS 'The contents of versions, once for each user and SHA-256, mostly as deltas.';
-- The payload is compressed already. PostgreSQL would only lose time if it tried to compress the payload again.
ALTER TABLE memory_blobs ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX idx_memory_blobs_base ON memory_blobs (user_id, base_sha256) WHERE base_sha256 IS NOT NULL;

-- A new version updates the row of its file in place: no index has a column that changes, and fillfactor leaves room in
-- the page for the next row version.
CREATE TABLE memory_files (
    user_id     uuid NOT NULL,
    project_id  uuid NOT NULL,
    -- The newest version, also if that is a deletion; and the newest version that has content.
    snapshot_id uuid NOT NULL,
    content_id  uuid NOT NULL,
    seq         integer NOT NULL,
    path        text NOT NULL,
    -- The last ids that clients chose for versions that were equal to the newest one, so that no version has such an
    -- id. Each of them counts as stored: a client that sends it again must not put old content on top of newer.
    equal_ids   uuid[],
    PRIMARY KEY (user_id, project_id, path),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE,
    -- An index entry holds 2,704 bytes.
    CONSTRAINT memory_files_path_length CHECK (path <> '' AND octet_length(path) <= 2048),
    CONSTRAINT memory_files_seq_from_one CHECK (seq >= 1)
) WITH (fillfactor = 60);
COMMENT ON TABLE memory_files IS 'The memory files, with their newest version. Writers race for its row.';

CREATE TABLE checkpoints (
    user_id     uuid        NOT NULL,
    project_id  uuid        NOT NULL,
    id          uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    name        text        NOT NULL,
    -- 'named': a user or program made it. 'safety': Atlas made it before a restore wrote files.
    kind        text        NOT NULL DEFAULT 'named',
    note        text,
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, project_id, name),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE,
    CONSTRAINT checkpoints_kind CHECK (kind IN ('named', 'safety')),
    CONSTRAINT checkpoints_name_length CHECK (name <> '' AND char_length(name) <= 200)
);
COMMENT ON TABLE checkpoints IS 'Names for the versions of all files of a project at one instant.';

CREATE TABLE memory_snapshots (
    size        bigint      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    user_id     uuid        NOT NULL,
    project_id  uuid        NOT NULL,
    id          uuid        NOT NULL,
    seq         integer     NOT NULL,
    mode        integer     NOT NULL DEFAULT 420,
    kind        text        NOT NULL,
    path        text        NOT NULL,
    sha256      bytea,
    link        text,
    folder_modes smallint[],
    checkpoint  text,
    context     jsonb,
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, project_id, id),
    FOREIGN KEY (user_id, project_id, path) REFERENCES memory_files (user_id, project_id, path) ON DELETE CASCADE,
    FOREIGN KEY (user_id, sha256) REFERENCES memory_blobs (user_id, sha256) DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (user_id, project_id, checkpoint) REFERENCES checkpoints (user_id, project_id, name) ON DELETE CASCADE,
    CONSTRAINT memory_snapshots_kind CHECK (kind IN ('claude_md', 'scratch', 'checkpoint', 'auto')),
    CONSTRAINT memory_snapshots_checkpoint_is_named CHECK ((kind = 'checkpoint') = (checkpoint IS NOT NULL)),
    CONSTRAINT memory_snapshots_size CHECK (size >= 0 AND (sha256 IS NOT NULL OR size = 0)),
    CONSTRAINT memory_snapshots_mode CHECK (mode BETWEEN 0 AND 4095)
);
COMMENT ON TABLE memory_snapshots IS 'The history of the memory files. Deleting rows is safe: a trigger keeps the newest.';
COMMENT ON COLUMN memory_snapshots.size IS 'Bytes of the content.';
COMMENT ON COLUMN memory_snapshots.created_at IS 'When the version was stored or, if the client said so, captured.';
COMMENT ON COLUMN memory_snapshots.user_id IS 'The tenant.';
COMMENT ON COLUMN memory_snapshots.project_id IS 'The project of the file.';
COMMENT ON COLUMN memory_snapshots.id IS 'uuid v7, made by the client.';
COMMENT ON COLUMN memory_snapshots.seq IS 'Counts the versions of a file from 1; of a checkpoint, the version that it names.';
COMMENT ON COLUMN memory_snapshots.mode IS 'Permission bits of the file.';
COMMENT ON COLUMN memory_snapshots.kind IS 'claude_md, scratch, auto, or checkpoint for the row of a checkpoint.';
COMMENT ON COLUMN memory_snapshots.path IS 'Relative to the project; bytes that are not UTF-8 as \xNN, a backslash as \\.';
COMMENT ON COLUMN memory_snapshots.sha256 IS 'The content in memory_blobs; NULL: the file was deleted.';
COMMENT ON COLUMN memory_snapshots.link IS 'Text of the symlink, when the path was a link inside the project.';
COMMENT ON COLUMN memory_snapshots.folder_modes IS 'Permission bits of the folders from the project to the file; NULL: all are 755.';
COMMENT ON COLUMN memory_snapshots.checkpoint IS 'The checkpoint whose row this is.';
COMMENT ON COLUMN memory_snapshots.context IS 'What the caller said of the occasion, as a JSON object.';
COMMENT ON COLUMN memory_snapshots.attribution IS 'Who wrote it, with which program, as a JSON object.';
CREATE INDEX idx_memory_snapshots_file ON memory_snapshots (user_id, project_id, path, seq);
CREATE INDEX idx_memory_snapshots_blob ON memory_snapshots (user_id, sha256);
CREATE INDEX idx_memory_snapshots_checkpoint ON memory_snapshots (user_id, project_id, checkpoint)
    WHERE checkpoint IS NOT NULL;
-- Maintenance deletes old versions, the oldest first. Each run also reads the newest version of an unchanged file,
-- which stays.
CREATE INDEX idx_memory_snapshots_auto ON memory_snapshots (created_at) WHERE kind = 'auto';

-- Keep the newest version of a file for ever, and the newest one with content: deleting old rows by hand or by cron
-- must not delete the only copy of a file that has not changed for a month. To delete everything, delete the file's row
-- in memory_files first (or the project, or the user).
CREATE FUNCTION keep_newest_version() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- The row of a checkpoint only names a version, and goes with its checkpoint.
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

-- The columns of one version, for the statements that read versions.
CREATE VIEW memory_versions WITH (security_invoker = true) AS
SELECT id, user_id, project_id, path, seq, kind, sha256, size, mode, link, folder_modes, checkpoint, context, attribution,
       created_at
FROM memory_snapshots;
COMMENT ON VIEW memory_versions IS 'memory_snapshots with the columns of the SDK''s Snapshot.';

CREATE TABLE restores (
    user_id     uuid        NOT NULL,
    project_id  uuid        NOT NULL,
    id          uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    -- Set while the restore is undone.
    undone_at   timestamptz,
    -- True if the restore was undone and a later restore was made since: then redo cannot repeat this one.
    superseded  boolean     NOT NULL DEFAULT false,
    -- The requested state: a checkpoint's name, a version, "latest".
    target      text        NOT NULL,
    -- The checkpoint made just before the files were written.
    safety      text        NOT NULL,
    -- [{"path": …, "before": snapshot id or null, "after": snapshot id or null}]; null: the file did not exist.
    changes     jsonb       NOT NULL,
    attribution jsonb       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, project_id, id),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE
);
COMMENT ON TABLE restores IS 'What was restored, and what stood there before: undo and redo walk over it.';

-- The memory limit. It is soft for almost everybody, so a put reads one flag of the user's row and goes on. If it is
-- hard, the puts of one user wait for each other: two contents that fit one by one might not fit together.

-- Lock the memory limit of a user, if it is hard, until the end of the transaction; return whether it is hard. Call the
-- function before any lock of a file, so that a put and a longer transaction cannot wait for each other. The function
-- locks the user's row. An advisory lock would not do, because any tenant can take one in another tenant's name.
CREATE FUNCTION memory_lock_limit(p_user uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard) THEN
        PERFORM FROM users AS u WHERE u.id = p_user FOR NO KEY UPDATE;
        RETURN true;
    END IF;
    RETURN false;
END
$$;

-- Return whether a content fits into the user's limit. NULL as data always fits, because then only the hash is kept.
-- The function is VOLATILE, because it must see the rows that were committed before it got the lock.
CREATE FUNCTION memory_fits(p_user uuid, p_sha256 bytea, p_data bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    room bigint;
BEGIN
    IF p_data IS NULL OR NOT memory_lock_limit(p_user) THEN
        RETURN true;
    END IF;
    -- NULL is unlimited.
    room := (SELECT q.memory_limit FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard)
            - (SELECT coalesce(sum(octet_length(b.data)), 0) FROM memory_blobs AS b WHERE b.user_id = p_user);
    RETURN room IS NULL OR room >= octet_length(p_data)
        -- A content that is stored already takes nothing.
        OR EXISTS (
            SELECT FROM memory_blobs AS b WHERE b.user_id = p_user AND b.sha256 = p_sha256 AND b.data IS NOT NULL
        );
END
$$;

-- Return whether a client has sent a version before: it is stored, or it was equal to the newest version.
CREATE FUNCTION memory_knows(p_user uuid, p_project uuid, p_path text, p_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM memory_snapshots AS s WHERE s.user_id = p_user AND s.project_id = p_project AND s.id = p_id
    ) OR EXISTS (
        SELECT FROM memory_files AS f
        WHERE f.user_id = p_user AND f.project_id = p_project AND f.path = p_path AND p_id = ANY(f.equal_ids)
    );
END
$$;

-- Append a version, in one round trip and one commit. Concurrent writers race for the file's row in memory_files: a
-- writer whose p_head is not the newest version changes nothing and gets no row; it reads the newest version and tries
-- again. A content that a hard limit refuses changes nothing either. A content that was stored before keeps its place
-- in its own chain of deltas, so the function returns its depth; NULL: only the hash is kept. A version whose id is
-- stored already changes nothing. The time of a version is the time of its capture, if the client gives one that is
-- not in the future; but it is never before p_not_before, the time of the newest version.
CREATE FUNCTION memory_put(
    p_user uuid, p_project uuid, p_path text, p_id uuid, p_head uuid, p_size bigint, p_depth smallint, p_sha256 bytea,
    p_base_sha256 bytea, p_data bytea, p_mode integer, p_kind text, p_link text, p_folder_modes smallint[],
    p_context jsonb, p_attribution jsonb, p_captured_at timestamptz,
    p_not_before timestamptz
) RETURNS TABLE (seq integer, created_at timestamptz, stored_depth smallint)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF NOT memory_fits(p_user, p_sha256, p_data) OR memory_knows(p_user, p_project, p_path, p_id) THEN
        RETURN;
    END IF;
    INSERT INTO memory_files AS f (user_id, project_id, snapshot_id, content_id, seq, path)
    VALUES (p_user, p_project, p_id, p_id, 1, p_path)
    ON CONFLICT (user_id, project_id, path) DO UPDATE
        SET seq = f.seq + 1, snapshot_id = excluded.snapshot_id, content_id = excluded.content_id
        WHERE f.snapshot_id = p_head
    RETURNING f.seq INTO seq;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO memory_blobs AS b (size, user_id, depth, sha256, base_sha256, data)
    VALUES (p_size, p_user, p_depth, p_sha256, p_base_sha256, p_data)
    -- Known content is stored already, unless it was over the limit of that day and is within today's.
    ON CONFLICT (user_id, sha256) DO UPDATE
        SET depth = excluded.depth, base_sha256 = excluded.base_sha256, data = excluded.data
        WHERE b.data IS NULL AND excluded.data IS NOT NULL;
    stored_depth := (
        SELECT b.depth FROM memory_blobs AS b WHERE b.user_id = p_user AND b.sha256 = p_sha256 AND b.data IS NOT NULL
    );
    INSERT INTO memory_snapshots AS s
        (size, user_id, project_id, id, seq, mode, kind, path, sha256, link, folder_modes, context, attribution,
         created_at)
    VALUES
        (p_size, p_user, p_project, p_id, seq, p_mode, p_kind, p_path, p_sha256, p_link, p_folder_modes, p_context,
         p_attribution, greatest(least(p_captured_at, now()), p_not_before))
    RETURNING s.created_at INTO created_at;
    RETURN NEXT;
END
$$;
