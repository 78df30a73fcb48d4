-- Projects and what they run: builds, previews, and the ledger of what was used.

CREATE TABLE projects (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    -- Unique across all tenants through claims ('project_session').
    session_id text NOT NULL,
    name text NOT NULL,
    -- Absolute, as it was registered: nothing resolves or re-cases it.
    path text NOT NULL,
    -- Device and inode of the folder, to recognise a project that moved. Both are unsigned on some
    -- systems: the client stores the same 64 bits as a signed number.
    root_device bigint,
    root_inode bigint,
    has_memory boolean NOT NULL DEFAULT false,
    -- Bytes.
    memory_size bigint NOT NULL DEFAULT 0,
    framework text,
    language text,
    status text NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, session_id),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT projects_session_id_length CHECK (char_length(session_id) BETWEEN 1 AND 200),
    CONSTRAINT projects_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
    -- POSIX, a Windows drive, or a Windows share.
    CONSTRAINT projects_path_absolute CHECK (path ~ '^(/|[A-Za-z]:[\\/]|\\\\)'),
    -- 2,048 bytes always fit into a b-tree entry (2,704), so the unique index below cannot overflow.
    CONSTRAINT projects_path_length CHECK (octet_length(path) <= 2048),
    CONSTRAINT projects_root_whole CHECK ((root_device IS NULL) = (root_inode IS NULL)),
    CONSTRAINT projects_memory_size CHECK (memory_size >= 0),
    CONSTRAINT projects_framework_length CHECK (char_length(framework) BETWEEN 1 AND 100),
    CONSTRAINT projects_language_length CHECK (char_length(language) BETWEEN 1 AND 100),
    CONSTRAINT projects_status_known CHECK (status IN ('active', 'archived', 'deleted'))
);

-- A folder is one project; a deleted one makes room for the next.
CREATE UNIQUE INDEX idx_projects_path ON projects (user_id, path) WHERE status <> 'deleted';
CREATE INDEX idx_projects_user ON projects (user_id);
CREATE INDEX idx_projects_session ON projects (session_id);
CREATE INDEX idx_projects_updated ON projects (updated_at DESC);
-- Pages of the projects of all users, the oldest first.
CREATE INDEX idx_projects_created ON projects (created_at, id);

CREATE TRIGGER update_projects_updated_at BEFORE UPDATE ON projects
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TRIGGER projects_refuse_over_limit AFTER INSERT ON projects REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION refuse_over_limit('projects', 'status <> ''deleted''');

CREATE TABLE builds (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    project_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'queued',
    container_id text,
    image_id text,
    logs text,
    error_message text,
    started_at timestamptz,
    finished_at timestamptz,
    -- Computed, so that it can never disagree with the two times. NULL until both are known.
    duration_seconds numeric(12, 3) GENERATED ALWAYS AS (EXTRACT(epoch FROM finished_at - started_at)) STORED,
    resource_usage jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE,
    CONSTRAINT builds_status_known CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
    -- A build may fail while it is queued (cancelled, no builder): then it never started.
    CONSTRAINT builds_started CHECK (
        CASE status WHEN 'queued' THEN started_at IS NULL WHEN 'failed' THEN true ELSE started_at IS NOT NULL END
    ),
    CONSTRAINT builds_finished CHECK ((finished_at IS NOT NULL) = (status IN ('succeeded', 'failed'))),
    -- Nothing compares them with created_at: that is the server's clock, these may be the builder's.
    CONSTRAINT builds_times_ordered CHECK (finished_at >= started_at),
    CONSTRAINT builds_container_id_length CHECK (char_length(container_id) BETWEEN 1 AND 128),
    CONSTRAINT builds_image_id_length CHECK (char_length(image_id) BETWEEN 1 AND 255),
    -- 16 MiB: more than a person reads; a client keeps the end of a longer one.
    CONSTRAINT builds_logs_length CHECK (octet_length(logs) <= 16777216),
    CONSTRAINT builds_error_message_length CHECK (octet_length(error_message) <= 65536),
    CONSTRAINT builds_resource_usage_object CHECK (jsonb_typeof(resource_usage) = 'object')
);

-- The newest build of a project, for project_health.
CREATE INDEX idx_builds_project ON builds (user_id, project_id, created_at DESC, id DESC) INCLUDE (status);
-- The counts of project_health and of builds.stats.
CREATE INDEX idx_builds_status ON builds (user_id, project_id, status);
-- The counts of the last day and week in user_usage_summary.
CREATE INDEX idx_builds_user_created ON builds (user_id, created_at DESC);
-- The dispatcher and the search for stuck builds look across tenants; few rows are unfinished at a time.
CREATE INDEX idx_builds_unfinished ON builds (status, created_at) WHERE status IN ('queued', 'running');

CREATE TABLE previews (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    project_id uuid NOT NULL,
    container_id text,
    network_id text,
    -- Unique across all tenants through claims ('preview_host'), claimed before the row is inserted and
    -- released when it stops or fails, not when it is deleted: old rows may be deleted by hand.
    host text NOT NULL,
    host_port integer,
    container_port integer,
    health_status text NOT NULL DEFAULT 'unknown',
    resource_limits jsonb NOT NULL DEFAULT '{}',
    auto_sleep boolean NOT NULL DEFAULT true,
    sleep_after_seconds integer NOT NULL DEFAULT 1800,
    status text NOT NULL DEFAULT 'creating',
    last_accessed_at timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE,
    CONSTRAINT previews_container_id_length CHECK (char_length(container_id) BETWEEN 1 AND 128),
    CONSTRAINT previews_network_id_length CHECK (char_length(network_id) BETWEEN 1 AND 128),
    -- 253 is the longest name in DNS.
    CONSTRAINT previews_host_shape CHECK (host !~ '[[:space:]/]' AND char_length(host) BETWEEN 1 AND 253),
    -- As with users.email: two spellings of one host must not become two claims.
    CONSTRAINT previews_host_lower CHECK (host = lower(host COLLATE "C")),
    CONSTRAINT previews_host_port CHECK (host_port BETWEEN 1 AND 65535),
    CONSTRAINT previews_container_port CHECK (container_port BETWEEN 1 AND 65535),
    CONSTRAINT previews_health_known CHECK (health_status IN ('unknown', 'healthy', 'unhealthy', 'starting')),
    CONSTRAINT previews_resource_limits_object CHECK (jsonb_typeof(resource_limits) = 'object'),
    CONSTRAINT previews_sleep_after CHECK (sleep_after_seconds > 0),
    CONSTRAINT previews_status_known CHECK (status IN ('creating', 'running', 'sleeping', 'stopped', 'failed')),
    CONSTRAINT previews_stopped CHECK ((stopped_at IS NOT NULL) = (status = 'stopped'))
);

CREATE INDEX idx_previews_project ON previews (user_id, project_id, created_at DESC);
-- A request is routed by claims (host -> user_id), then by this. Unique among the live only: the rows of
-- stopped and failed previews stay as history.
CREATE UNIQUE INDEX idx_previews_host ON previews (user_id, host) WHERE status IN ('creating', 'running', 'sleeping');
-- What may be put to sleep. last_accessed_at is left out on purpose: it moves with the traffic, and in
-- an index it would make each of those updates rewrite every index of the table.
CREATE INDEX idx_previews_awake ON previews (user_id, id) WHERE status = 'running' AND auto_sleep;
-- Maintenance deletes the rows of previews that stopped long ago.
CREATE INDEX idx_previews_stopped ON previews (stopped_at) WHERE status = 'stopped';
-- And of those that failed. updated_at says when that was, and is left out for the reason given for last_accessed_at.
CREATE INDEX idx_previews_failed ON previews (created_at) WHERE status = 'failed';

CREATE TRIGGER update_previews_updated_at BEFORE UPDATE ON previews
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TRIGGER previews_refuse_over_limit AFTER INSERT ON previews REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION refuse_over_limit('previews', 'status IN (''creating'', ''running'', ''sleeping'')');

-- What was used, row by row; never edited. A correction is a new row, so an amount may be negative.
--
-- project_id has no foreign key: a cascade would take the bill away with the project and leave
-- user_quotas with more used than the ledger can account for, and a cluster cannot SET NULL. Readers
-- join projects on (user_id, project_id), so it cannot lead to another tenant.
CREATE DOMAIN usage_kind AS text CHECK (VALUE ~ '^[a-z][a-z0-9_.]*$' AND char_length(VALUE) <= 64);
-- Corrections are negative.
CREATE DOMAIN usage_amount AS numeric(20, 6) CHECK (VALUE <> 'NaN');
CREATE DOMAIN usage_cost AS numeric(20, 9) CHECK (VALUE <> 'NaN');

CREATE TABLE usage_ledger (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    project_id uuid,
    -- Open, because applications meter things of their own; 'tokens' and 'container_minutes' are ours.
    kind usage_kind NOT NULL,
    -- numeric: minutes of a container come in fractions. Tokens do not, see below.
    amount usage_amount NOT NULL,
    cost usage_cost NOT NULL DEFAULT 0,
    meta json_map NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id),
    -- Not to users: the referential check then locks a row that a settlement has locked already.
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE
);

-- Tokens are whole. Not a CHECK, for the reason that domains are used for: a third of the time of an entry (measured).
CREATE FUNCTION refuse_broken_tokens() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.kind = 'tokens' AND NEW.amount <> trunc(NEW.amount) THEN
        RAISE EXCEPTION 'tokens are whole, not %', NEW.amount
            USING ERRCODE = 'check_violation', CONSTRAINT = 'usage_ledger_tokens_whole', COLUMN = 'amount',
                  TABLE = TG_TABLE_NAME, SCHEMA = TG_TABLE_SCHEMA;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER refuse_broken_tokens BEFORE INSERT OR UPDATE ON usage_ledger
FOR EACH ROW EXECUTE FUNCTION refuse_broken_tokens();

CREATE INDEX idx_usage_ledger_user_created ON usage_ledger (user_id, created_at DESC);

ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON projects
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE builds ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON builds
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE previews ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON previews
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE usage_ledger ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON usage_ledger
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
