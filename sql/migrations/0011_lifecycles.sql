-- Lifecycles: the changes of status that projects, builds and previews can make, the logs of builds, the ports of
-- previews.
--
--   projects  active <-> archived; active | archived -> deleted
--   builds    queued -> running -> succeeded | failed; queued -> failed
--   previews  creating -> running | failed | stopped; running <-> sleeping; running | sleeping -> stopped | failed
--
-- Only changes are held to this: a row may be inserted with any status, as a load from a dump or another system does.

-- A change of status that is none of the arguments after the first, 'from>to', is refused with SQLSTATE 23T01: of the
-- class of constraints, and our own within it. The first is what people call such a row. The facts are in DETAIL as
-- JSON, because on a cluster nothing else of an error arrives as it was sent.
CREATE FUNCTION refuse_illegal_transition() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status || '>' || NEW.status = ANY (TG_ARGV) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the % % is %: it cannot become %', TG_ARGV[0], OLD.id, OLD.status, NEW.status
    USING ERRCODE = '23T01',
          DETAIL = jsonb_build_object('kind', TG_ARGV[0], 'id', OLD.id, 'from', OLD.status, 'to', NEW.status)::text;
END
$$;

-- The times of a change, unless they are given. Read after the row was locked: now() is the start of a transaction that
-- may have waited here for the one before, and a build would end before it started.
CREATE FUNCTION stamp_build() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'running' THEN
        NEW.started_at := coalesce(NEW.started_at, clock_timestamp());
    ELSE
        -- A clock that was set back must not refuse the end.
        NEW.finished_at := coalesce(NEW.finished_at, greatest(NEW.started_at, clock_timestamp()));
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION stamp_preview() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'stopped' THEN
        NEW.stopped_at := coalesce(NEW.stopped_at, clock_timestamp());
    ELSIF NEW.status = 'running' THEN
        -- What has just come up or woken has not been idle since its last visitor.
        NEW.last_accessed_at := greatest(NEW.last_accessed_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER projects_refuse_illegal_transition BEFORE UPDATE ON projects
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
EXECUTE FUNCTION refuse_illegal_transition(
    'project', 'active>archived', 'archived>active', 'active>deleted', 'archived>deleted'
);

-- In the order of their names: first what refuses, then what completes the row.
CREATE TRIGGER builds_refuse_illegal_transition BEFORE UPDATE ON builds
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
EXECUTE FUNCTION refuse_illegal_transition(
    'build', 'queued>running', 'queued>failed', 'running>succeeded', 'running>failed'
);
CREATE TRIGGER builds_stamp BEFORE UPDATE ON builds
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION stamp_build();

CREATE TRIGGER previews_refuse_illegal_transition BEFORE UPDATE ON previews
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
EXECUTE FUNCTION refuse_illegal_transition(
    'preview', 'creating>running', 'creating>failed', 'creating>stopped', 'running>sleeping', 'running>stopped',
    'running>failed', 'sleeping>running', 'sleeping>stopped', 'sleeping>failed'
);
CREATE TRIGGER previews_stamp BEFORE UPDATE ON previews
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION stamp_preview();

-- Pages of a project's builds, by id.
CREATE INDEX idx_builds_page ON builds (user_id, project_id, id DESC);

-- The log of a build while it is written: one row an append, so that a line costs a line. In builds.logs alone every
-- line would write the whole log anew. When the build ends it all moves to builds.logs, where people look for it.
ALTER TABLE builds
    -- Bytes that were ever appended: where the last row of build_logs ends.
    ADD COLUMN log_bytes whole_big NOT NULL DEFAULT 0;

CREATE TABLE build_logs (
    user_id  uuid   NOT NULL,
    build_id uuid   NOT NULL,
    -- The end of this piece in the whole log, in bytes: an order without a sequence.
    ends_at  bigint NOT NULL,
    content  text   NOT NULL,
    PRIMARY KEY (user_id, build_id, ends_at),
    FOREIGN KEY (user_id, build_id) REFERENCES builds (user_id, id) ON DELETE CASCADE
);

-- The log as far as it is kept: the end of it, at most what builds.logs can hold, and then its first line says how
-- much is missing. NULL: there is no such build.
CREATE FUNCTION build_log_text(p_user uuid, p_build uuid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- 16 MiB as builds_logs_length has it, less the line that says what is missing.
    room constant integer := 16777216 - 64;
    whole text;
    total bigint;
    bytes bytea;
    cut integer := 0;
BEGIN
    SELECT coalesce(b.logs, '') || coalesce(
               (SELECT string_agg(l.content, '' ORDER BY l.ends_at) FROM build_logs AS l
                WHERE l.user_id = b.user_id AND l.build_id = b.id), ''),
           b.log_bytes
    INTO whole, total
    FROM builds AS b WHERE b.user_id = p_user AND b.id = p_build;
    -- What an earlier cut said; a line of the build's own that reads like it is counted as missing, and so not lost silently.
    whole := regexp_replace(whole, '^\[\.\.\. [0-9]+ earlier bytes are not kept\]\n', '');
    IF octet_length(whole) > room THEN
        bytes := convert_to(whole, 'UTF8');
        cut := octet_length(bytes) - room;
        -- Not in the middle of a character.
        WHILE get_byte(bytes, cut) & 192 = 128 LOOP
            cut := cut + 1;
        END LOOP;
        -- Nor of a line, unless it is a very long one.
        cut := cut + coalesce(nullif(position('\x0a'::bytea IN substring(bytes FROM cut + 1 FOR 65536)), 0), 0);
        whole := convert_from(substring(bytes FROM cut + 1), 'UTF8');
    END IF;
    IF cut > 0 OR total > octet_length(whole) THEN
        whole := format(E'[... %s earlier bytes are not kept]\n', greatest(total, octet_length(whole) + cut) - octet_length(whole))
                 || whole;
    END IF;
    RETURN whole;
END
$$;

-- Move the log to builds.logs. The caller has locked the build, so no piece can come in meanwhile.
CREATE FUNCTION build_log_fold(p_user uuid, p_build uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE builds SET logs = build_log_text(p_user, p_build)
    WHERE user_id = p_user AND id = p_build
      AND EXISTS (SELECT FROM build_logs AS l WHERE l.user_id = p_user AND l.build_id = p_build);
    DELETE FROM build_logs WHERE user_id = p_user AND build_id = p_build;
END
$$;

-- Append to a log; false: there is no such build. The update makes the writers of one build take turns, so that each
-- knows where it stands. p_bytes is more than the length of p_content when the beginning of that was left out.
--
-- The last lines of a builder often arrive after its result, one by one. To move each of them to builds.logs writes that
-- anew, up to 16 MiB of it: they wait in build_logs until there are 64 KiB.
CREATE FUNCTION build_log_append(p_user uuid, p_build uuid, p_content text, p_bytes bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    total bigint;
    stage text;
BEGIN
    UPDATE builds AS b SET log_bytes = b.log_bytes + p_bytes WHERE b.user_id = p_user AND b.id = p_build
    RETURNING b.log_bytes, b.status INTO total, stage;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO build_logs (user_id, build_id, ends_at, content) VALUES (p_user, p_build, total, p_content);
    DELETE FROM build_logs WHERE user_id = p_user AND build_id = p_build AND ends_at <= total - 16777216;
    IF stage IN ('succeeded', 'failed') AND 65536 <= (
        -- From where the first piece begins: one row is read, not all of them.
        SELECT total - l.ends_at + octet_length(l.content) FROM build_logs AS l
        WHERE l.user_id = p_user AND l.build_id = p_build ORDER BY l.ends_at LIMIT 1
    ) THEN
        PERFORM build_log_fold(p_user, p_build);
    END IF;
    RETURN true;
END
$$;

ALTER TABLE previews
    -- The machine that runs it: a port is one preview's on each. '' where there is only one.
    ADD COLUMN machine text NOT NULL DEFAULT '',
    ADD CONSTRAINT previews_machine_length CHECK (char_length(machine) <= 200);

-- Which live preview has a port of a machine. As with claims the name is the key, not the user: two tenants must not get
-- one port, and a cluster shards it by machine. So there is no foreign key: whoever stops a preview deletes its row here,
-- and what the rows of deleted previews held is found when a machine has no port left.
CREATE TABLE preview_ports (
    machine    text        NOT NULL,
    port       integer     NOT NULL,
    user_id    uuid        NOT NULL,
    preview_id uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (machine, port),
    CONSTRAINT preview_ports_machine_length CHECK (char_length(machine) <= 200),
    CONSTRAINT preview_ports_port CHECK (port BETWEEN 1 AND 65535)
);
CREATE INDEX idx_preview_ports_preview ON preview_ports (user_id, preview_id);

-- Give a live preview a free port from p_first to p_last, instead of the one that it has; NULL: none is free, and it keeps
-- what it has. It asks the unique index, which no policy filters, so ports of other tenants are felt though not seen, and
-- it waits for a transaction that is taking the same one. It begins anywhere: neighbours in time do not meet, and a port
-- that was just given back is rarely the next to be handed out. The only way for a tenant to a port (0015_isolation.sql),
-- or one could take them all.
CREATE FUNCTION preview_port_take(p_user uuid, p_preview uuid, p_machine text, p_first integer, p_last integer)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    width constant integer := p_last - p_first + 1;
    start constant integer := floor(random() * width)::integer;
    candidate integer;
BEGIN
    IF session_user <> current_user OR current_setting('role') <> 'none' THEN
        PERFORM check_tenant(p_user);
    END IF;
    -- Locked, so that it neither ends meanwhile nor takes two at once.
    PERFORM FROM previews AS v
    WHERE v.user_id = p_user AND v.id = p_preview AND v.machine = p_machine
        AND v.status IN ('creating', 'running', 'sleeping')
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such live preview on this machine: it gets no port'
        USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    FOR step IN 0 .. width - 1 LOOP
        candidate := p_first + (start + step) % width;
        INSERT INTO preview_ports (machine, port, user_id, preview_id) VALUES (p_machine, candidate, p_user, p_preview)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            DELETE FROM preview_ports AS p
            WHERE p.user_id = p_user AND p.preview_id = p_preview AND (p.machine, p.port) <> (p_machine, candidate);
            RETURN candidate;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

ALTER TABLE build_logs ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON build_logs
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE preview_ports ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON preview_ports
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
