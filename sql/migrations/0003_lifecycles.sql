-- Lifecycles: the triggers of addresses, sessions, projects, builds and previews, the logs of builds, and the ports of
-- previews.

-- Keep the claim of each user's address up to date, also for SQL that knows nothing of claims. The SDK inserts the
-- claim before the user, to learn whether the address is taken. The function has the owner's rights, because no policy
-- lets a tenant claim an address. A cluster cannot have this trigger, because the claim is in another shard.
CREATE FUNCTION claim_email() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    p_user constant uuid := coalesce(NEW.id, OLD.id);
BEGIN
    PERFORM check_tenant(p_user);
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM claims WHERE kind = 'email' AND value = OLD.email AND user_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO claims (kind, value, user_id) VALUES ('email', NEW.email, p_user) ON CONFLICT DO NOTHING;
        IF NOT EXISTS (SELECT FROM claims WHERE kind = 'email' AND value = NEW.email AND user_id = p_user) THEN
            RAISE EXCEPTION 'a user with this address exists already' USING ERRCODE = 'unique_violation';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER users_claim_email AFTER INSERT OR DELETE OR UPDATE OF email ON users
FOR EACH ROW EXECUTE FUNCTION claim_email();

-- Refuse to bring a session back: a revoked session stays revoked, no session is made to expire later, and no session
-- changes its token or its owner. So an application that writes to this table by mistake cannot let anybody back in.
-- refuse_illegal_transition uses the same SQLSTATE, 23T01.
CREATE FUNCTION refuse_session_return() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    became constant text := CASE
        WHEN NEW.is_active AND NOT OLD.is_active THEN 'active'
        WHEN NEW.expires_at > OLD.expires_at THEN 'longer'
        ELSE 'another'
    END;
    was constant text := CASE WHEN OLD.is_active THEN 'active' ELSE 'revoked' END;
BEGIN
    RAISE EXCEPTION 'the session % is %: it cannot become %', OLD.id, was, became
    USING ERRCODE = '23T01',
          DETAIL = jsonb_build_object('kind', 'session', 'id', OLD.id, 'from', was, 'to', became)::text;
END
$$;

-- The trigger has the condition, not the function: so a change of `last_seen_at`, which is frequent, calls no function.
CREATE TRIGGER sessions_refuse_return BEFORE UPDATE ON sessions
FOR EACH ROW WHEN (
    (NEW.is_active AND NOT OLD.is_active) OR NEW.expires_at > OLD.expires_at OR NEW.token_hash <> OLD.token_hash
    OR NEW.user_id <> OLD.user_id OR NEW.id <> OLD.id
)
EXECUTE FUNCTION refuse_session_return();

-- Set the time of a change of status, unless it is given. The function reads the clock, when the row is locked already.
-- now() is the start of the transaction, which may have waited for an earlier transaction: then a build would end
-- before it started.
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
        -- A preview that has just come up or woken up has not been idle since its last visitor.
        NEW.last_accessed_at := greatest(NEW.last_accessed_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER update_projects_updated_at BEFORE UPDATE ON projects
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER projects_refuse_over_limit AFTER INSERT ON projects REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION refuse_over_limit('projects', 'status <> ''deleted''');
CREATE TRIGGER projects_refuse_illegal_transition BEFORE UPDATE ON projects
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
EXECUTE FUNCTION refuse_illegal_transition(
    'project', 'active>archived', 'archived>active', 'active>deleted', 'archived>deleted'
);

-- Tell the watchers that the list of projects has changed. The trigger names the columns that matter, so that `touch` and
-- `remember_memory`, which are frequent, notify nobody. The message is empty: a watcher reads the list, and equal
-- messages of one transaction are sent once.
CREATE FUNCTION notify_projects() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('atlas_projects', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER projects_notify AFTER INSERT OR DELETE OR UPDATE OF path, status ON projects
FOR EACH STATEMENT EXECUTE FUNCTION notify_projects();

-- Triggers fire in the order of their names: first the one that refuses, then the one that completes the row.
CREATE TRIGGER builds_refuse_illegal_transition BEFORE UPDATE ON builds
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
EXECUTE FUNCTION refuse_illegal_transition(
    'build', 'queued>running', 'queued>failed', 'running>succeeded', 'running>failed'
);
CREATE TRIGGER builds_stamp BEFORE UPDATE ON builds
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION stamp_build();

CREATE TRIGGER update_previews_updated_at BEFORE UPDATE ON previews
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER previews_refuse_over_limit AFTER INSERT ON previews REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION refuse_over_limit('previews', 'status IN (''creating'', ''running'', ''sleeping'')');
CREATE TRIGGER previews_refuse_illegal_transition BEFORE UPDATE ON previews
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
EXECUTE FUNCTION refuse_illegal_transition(
    'preview', 'creating>running', 'creating>failed', 'creating>stopped', 'running>sleeping', 'running>stopped',
    'running>failed', 'sleeping>running', 'sleeping>stopped', 'sleeping>failed'
);
CREATE TRIGGER previews_stamp BEFORE UPDATE ON previews
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION stamp_preview();

-- Return the log of a build, at most as much as builds.logs can hold; NULL if there is no such build. If the beginning
-- of the log is not kept, the first line says how many bytes are missing.
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
    -- Remove the line of an earlier cut. A line of the build that reads like it then counts as missing.
    whole := regexp_replace(whole, '^\[\.\.\. [0-9]+ earlier bytes are not kept\]\n', '');
    IF octet_length(whole) > room THEN
        bytes := convert_to(whole, 'UTF8');
        cut := octet_length(bytes) - room;
        -- Do not cut in the middle of a character.
        WHILE get_byte(bytes, cut) & 192 = 128 LOOP
            cut := cut + 1;
        END LOOP;
        -- Do not cut in the middle of a line, unless it is a very long one.
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

-- Move the log of a build from build_logs to builds.logs. The caller has locked the build, so no piece is added
-- meanwhile.
CREATE FUNCTION build_log_fold(p_user uuid, p_build uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE builds SET logs = build_log_text(p_user, p_build)
    WHERE user_id = p_user AND id = p_build
      AND EXISTS (SELECT FROM build_logs AS l WHERE l.user_id = p_user AND l.build_id = p_build);
    DELETE FROM build_logs WHERE user_id = p_user AND build_id = p_build;
END
$$;

-- Append to a log; return false if there is no such build. The update of builds makes the writers of one build wait for
-- each other, so that each writer knows where its piece begins. p_bytes is more than the length of p_content when the
-- caller left out the beginning.
--
-- The last lines of a builder often arrive after its result, one by one. Moving each of them to builds.logs would
-- rewrite up to 16 MiB, so they wait in build_logs until there are 64 KiB.
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
        -- Count from the beginning of the first piece: this reads one row, not all of them.
        SELECT total - l.ends_at + octet_length(l.content) FROM build_logs AS l
        WHERE l.user_id = p_user AND l.build_id = p_build ORDER BY l.ends_at LIMIT 1
    ) THEN
        PERFORM build_log_fold(p_user, p_build);
    END IF;
    RETURN true;
END
$$;

-- Give a live preview a free port from p_first to p_last in place of its present port, and return the new port. Return
-- NULL if no port is free; then the preview keeps its present port. The insert asks the unique index, which no policy
-- filters. So the insert finds the ports of other tenants too, and waits for a transaction that is taking the same
-- port. The search begins at a random port: two calls at one time do not meet, and a port that was just given back is
-- rarely the next one. A tenant gets ports from this function only, or one tenant could take them all.
CREATE FUNCTION preview_port_take(p_user uuid, p_preview uuid, p_machine text, p_first integer, p_last integer)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    width constant integer := p_last - p_first + 1;
    start constant integer := floor(random() * width)::integer;
    candidate integer;
BEGIN
    PERFORM check_tenant(p_user);
    -- The lock keeps the preview from ending meanwhile, and from taking two ports at once.
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
