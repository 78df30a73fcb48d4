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

-- Return whether a client has sent a version before: it is stored, or it was equal to the newest version.
CREATE FUNCTION memory_knows(p_user uuid, p_project uuid, p_path text, p_id uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
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
    IF NOT memory_fits(p_user, p_sha256, p_data) THEN RETURN; END IF;
    -- A condition of its own sees what was committed while memory_fits waited for its lock.
    IF memory_knows(p_user, p_project, p_path, p_id) THEN
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

-- Append many versions of the files of one user, in one round trip and one commit: what memory_put does for one. A file
-- whose newest version is not f_head[n], that has a version with one of the ids already, or whose project is gone
-- changes nothing, and the others are stored; if a hard limit might refuse the contents, nothing is stored. The client
-- appends the rest one by one.
--
-- The arrays f_… have an element for each file: its newest version (NULL: a new file), the last of its new versions and
-- the last one with content, their number, and the ids of versions that are equal to the one before. A file with such
-- ids only has its newest version as f_last, and 0 as f_count. The arrays b_… have the contents, the arrays v_… the
-- versions; both name their file by its f_last, and v_back is the number of later versions of the file.
--
-- Concurrent calls cannot wait for each other: each locks the limit, then files, then contents, in the order of their
-- keys. Each statement finds its rows by key, whatever the planner knows of the tables.
CREATE FUNCTION memory_put_many(
    p_user uuid, p_chosen_ids boolean, p_attributions jsonb[],
    f_project uuid[], f_path text[], f_head uuid[], f_last uuid[], f_content uuid[], f_count integer[], f_equal text[],
    b_last uuid[], b_sha256 bytea[], b_size bigint[], b_depth integer[], b_base_sha256 bytea[], b_data bytea[],
    v_last uuid[], v_back integer[], v_project uuid[], v_path text[], v_id uuid[], v_size bigint[], v_mode integer[],
    v_kind text[], v_sha256 bytea[], v_link text[], v_folder_modes text[], v_context text[], v_attribution integer[],
    v_captured_at timestamptz[], v_not_before timestamptz[],
    -- The files that changed, by f_last, with the numbers of their newest versions; and the contents that were stored
    -- before in a chain of deltas of their own.
    OUT done uuid[], OUT seqs integer[], OUT stored_at timestamptz, OUT known_sha256 bytea[], OUT known_depth smallint[]
) LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    -- Files with a version that the client has sent before.
    known uuid[] := '{}';
    file record;
    file_seq integer;
    made uuid[];
    made_seqs integer[];
    complete boolean;
    stored bigint;
BEGIN
    stored_at := now();
    done := '{}';
    seqs := '{}';
    IF memory_lock_limit(p_user) AND
        (SELECT q.memory_limit FROM user_quotas AS q WHERE q.user_id = p_user AND q.memory_hard)
        - (SELECT coalesce(sum(octet_length(b.data)), 0) FROM memory_blobs AS b WHERE b.user_id = p_user)
        < (SELECT coalesce(sum(octet_length(n.data)), 0) FROM unnest(b_data) AS n (data))
    THEN
        RETURN;
    END IF;
    IF p_chosen_ids THEN
        known := ARRAY(
            SELECT n.last_id FROM unnest(v_last, v_project, v_id) AS n (last_id, project_id, id)
            CROSS JOIN LATERAL (
                SELECT FROM memory_snapshots AS s
                WHERE s.user_id = p_user AND s.project_id = n.project_id AND s.id = n.id LIMIT 1
            ) AS s
            UNION ALL
            SELECT n.last_id FROM unnest(v_last, v_project, v_path, v_id) AS n (last_id, project_id, path, id)
            CROSS JOIN LATERAL (
                SELECT FROM memory_files AS f
                WHERE f.user_id = p_user AND f.project_id = n.project_id AND f.path = n.path
                  AND n.id = ANY(f.equal_ids)
                LIMIT 1
            ) AS f
        );
    END IF;
    FOR file IN
        SELECT * FROM unnest(f_project, f_path, f_head, f_last, f_content, f_count, f_equal)
            AS n (project_id, path, head_id, last_id, content_id, count, equal_ids)
        WHERE n.head_id IS NOT NULL AND n.last_id <> ALL(known) ORDER BY n.project_id, n.path COLLATE "C"
    LOOP
        UPDATE memory_files AS f
        SET seq = f.seq + file.count, snapshot_id = file.last_id, content_id = coalesce(file.content_id, f.content_id),
            equal_ids = coalesce((file.equal_ids::uuid[] || f.equal_ids)[1:16], f.equal_ids)
        WHERE f.user_id = p_user AND f.project_id = file.project_id AND f.path = file.path
          AND f.snapshot_id = file.head_id
        RETURNING f.seq INTO file_seq;
        IF FOUND THEN
            done := done || file.last_id;
            seqs := seqs || file_seq;
        END IF;
    END LOOP;
    WITH created AS (
        INSERT INTO memory_files AS f (user_id, project_id, snapshot_id, content_id, seq, path, equal_ids)
        SELECT p_user, n.project_id, n.last_id, n.content_id, n.count, n.path, n.equal_ids::uuid[]
        FROM unnest(f_project, f_path, f_head, f_last, f_content, f_count, f_equal)
            AS n (project_id, path, head_id, last_id, content_id, count, equal_ids)
        WHERE n.head_id IS NULL AND n.last_id <> ALL(known)
          AND EXISTS (SELECT FROM projects AS p WHERE p.user_id = p_user AND p.id = n.project_id)
        ORDER BY n.project_id, n.path COLLATE "C"
        ON CONFLICT (user_id, project_id, path) DO NOTHING
        RETURNING f.snapshot_id, f.seq
    )
    SELECT array_agg(c.snapshot_id), array_agg(c.seq) INTO made, made_seqs FROM created AS c;
    done := done || made;
    seqs := seqs || made_seqs;
    complete := cardinality(done) = cardinality(f_last);
    INSERT INTO memory_blobs AS b (size, user_id, depth, sha256, base_sha256, data)
    -- The same content may be new in two files. The shorter chain is taken, so that no delta leads back to itself.
    SELECT DISTINCT ON (n.sha256) n.size, p_user, n.depth, n.sha256, n.base_sha256, n.data
    FROM unnest(b_last, b_sha256, b_size, b_depth, b_base_sha256, b_data)
        AS n (last_id, sha256, size, depth, base_sha256, data)
    WHERE complete OR n.last_id = ANY(done)
    ORDER BY n.sha256, n.depth
    ON CONFLICT (user_id, sha256) DO UPDATE
        SET depth = excluded.depth, base_sha256 = excluded.base_sha256, data = excluded.data
        WHERE b.data IS NULL AND excluded.data IS NOT NULL;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF stored < cardinality(b_sha256) THEN
        SELECT array_agg(b.sha256), array_agg(b.depth) INTO known_sha256, known_depth FROM memory_blobs AS b
        WHERE b.user_id = p_user AND b.sha256 = ANY(b_sha256) AND b.data IS NOT NULL;
    END IF;
    INSERT INTO memory_snapshots AS s
        (size, user_id, project_id, id, seq, mode, kind, path, sha256, link, folder_modes, context, attribution,
         created_at)
    SELECT n.size, p_user, n.project_id, n.id, f.seq - n.back, n.mode, n.kind, n.path, n.sha256, n.link,
           n.folder_modes::smallint[], n.context::jsonb, p_attributions[n.attribution],
           greatest(least(n.captured_at, stored_at), n.not_before)
    FROM unnest(v_last, v_back, v_project, v_path, v_id, v_size, v_mode, v_kind, v_sha256, v_link, v_folder_modes,
                v_context, v_attribution, v_captured_at, v_not_before)
        AS n (last_id, back, project_id, path, id, size, mode, kind, sha256, link, folder_modes, context, attribution,
              captured_at, not_before)
    CROSS JOIN LATERAL (
        SELECT f.seq FROM memory_files AS f
        WHERE f.user_id = p_user AND f.project_id = n.project_id AND f.path = n.path AND f.snapshot_id = n.last_id
        LIMIT 1
    ) AS f
    WHERE complete OR n.last_id = ANY(done);
END
$$;
