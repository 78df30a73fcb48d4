-- Projects and what they run: builds with their logs, and previews with their ports.
--
-- The changes of status that triggers allow:
--   projects  active <-> archived; active | archived -> deleted
--   builds    queued -> running -> succeeded | failed; queued -> failed
--   previews  creating -> running | failed | stopped; running <-> sleeping; running | sleeping -> stopped | failed
-- Only updates are checked: a row may be inserted with any status, as a load from a dump or from another system does.

CREATE TABLE projects (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    session_id text NOT NULL,
    name text NOT NULL,
    path text NOT NULL,
    -- Device and inode are unsigned on some systems: the client stores the same 64 bits as a signed number.
    root_device bigint,
    root_inode bigint,
    first_commit text,
    has_memory boolean NOT NULL DEFAULT false,
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
    CONSTRAINT projects_first_commit_shape CHECK (first_commit ~ '^[0-9a-f]{40,64}$'),
    CONSTRAINT projects_memory_size CHECK (memory_size >= 0),
    CONSTRAINT projects_framework_length CHECK (char_length(framework) BETWEEN 1 AND 100),
    CONSTRAINT projects_language_length CHECK (char_length(language) BETWEEN 1 AND 100),
    CONSTRAINT projects_status_known CHECK (status IN ('active', 'archived', 'deleted'))
);
COMMENT ON TABLE projects IS 'The folders whose memory is kept.';
COMMENT ON COLUMN projects.id IS 'uuid v7, made by the client.';
COMMENT ON COLUMN projects.user_id IS 'The tenant.';
COMMENT ON COLUMN projects.session_id IS 'The name that applications use; unique across all tenants by its row in claims.';
COMMENT ON COLUMN projects.name IS 'The name to show.';
COMMENT ON COLUMN projects.path IS 'The folder, absolute, as it was registered: nothing resolves it or changes its case.';
COMMENT ON COLUMN projects.root_device IS 'Device of the folder; with root_inode it recognises a project that moved.';
COMMENT ON COLUMN projects.root_inode IS 'Inode of the folder; NULL if it did not exist where the project was registered.';
COMMENT ON COLUMN projects.first_commit IS 'The first commit in the log of its git repository; it recognises a project that moved.';
COMMENT ON COLUMN projects.has_memory IS 'Whether there were memory files at the last checkpoint or scan.';
COMMENT ON COLUMN projects.memory_size IS 'Bytes of the memory files at the last checkpoint or scan.';
COMMENT ON COLUMN projects.framework IS 'The framework that it uses, if somebody said so.';
COMMENT ON COLUMN projects.language IS 'The language that it is written in, if somebody said so.';
COMMENT ON COLUMN projects.status IS 'active, archived or deleted.';
COMMENT ON COLUMN projects.created_at IS 'When it was registered.';
COMMENT ON COLUMN projects.updated_at IS 'When it was changed or used last.';

-- A folder has at most one project that is not deleted.
CREATE UNIQUE INDEX idx_projects_path ON projects (user_id, path) WHERE status <> 'deleted';
CREATE INDEX idx_projects_user ON projects (user_id);
CREATE INDEX idx_projects_session ON projects (session_id);
CREATE INDEX idx_projects_updated ON projects (updated_at DESC);
-- For pages of the projects of all users, the oldest first.
CREATE INDEX idx_projects_created ON projects (created_at, id);

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
    duration_seconds numeric(12, 3) GENERATED ALWAYS AS (EXTRACT(epoch FROM finished_at - started_at)) STORED,
    resource_usage jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    log_bytes whole_big NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id, project_id) REFERENCES projects (user_id, id) ON DELETE CASCADE,
    CONSTRAINT builds_status_known CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
    -- A build may fail while it is queued (cancelled, no builder): then it never started.
    CONSTRAINT builds_started CHECK (
        CASE status WHEN 'queued' THEN started_at IS NULL WHEN 'failed' THEN true ELSE started_at IS NOT NULL END
    ),
    CONSTRAINT builds_finished CHECK ((finished_at IS NOT NULL) = (status IN ('succeeded', 'failed'))),
    -- No check compares these times with created_at: they may come from the builder's clock, created_at from the
    -- server's.
    CONSTRAINT builds_times_ordered CHECK (finished_at >= started_at),
    CONSTRAINT builds_container_id_length CHECK (char_length(container_id) BETWEEN 1 AND 128),
    CONSTRAINT builds_image_id_length CHECK (char_length(image_id) BETWEEN 1 AND 255),
    -- 16 MiB: more than a person reads; a client keeps the end of a longer log.
    CONSTRAINT builds_logs_length CHECK (octet_length(logs) <= 16777216),
    CONSTRAINT builds_error_message_length CHECK (octet_length(error_message) <= 65536),
    CONSTRAINT builds_resource_usage_object CHECK (jsonb_typeof(resource_usage) = 'object')
);
COMMENT ON TABLE builds IS 'Builds of projects.';
COMMENT ON COLUMN builds.id IS 'uuid v7, made by the client.';
COMMENT ON COLUMN builds.user_id IS 'The tenant.';
COMMENT ON COLUMN builds.project_id IS 'The project that is built.';
COMMENT ON COLUMN builds.status IS 'queued, running, succeeded or failed.';
COMMENT ON COLUMN builds.container_id IS 'The container that builds.';
COMMENT ON COLUMN builds.image_id IS 'The image that was made.';
COMMENT ON COLUMN builds.logs IS 'The log, or its last 16 MiB; while the build runs, build_logs has it.';
COMMENT ON COLUMN builds.error_message IS 'Why it failed.';
COMMENT ON COLUMN builds.started_at IS 'When it began to run; by the builder''s clock, if that was given.';
COMMENT ON COLUMN builds.finished_at IS 'When it ended; by the builder''s clock, if that was given.';
COMMENT ON COLUMN builds.duration_seconds IS 'finished_at - started_at; NULL until both are known.';
COMMENT ON COLUMN builds.resource_usage IS 'What it used, as a JSON object.';
COMMENT ON COLUMN builds.created_at IS 'When it was queued.';
COMMENT ON COLUMN builds.log_bytes IS 'Bytes that were ever appended to the log.';

-- For the newest build of a project in project_health, and for the statistics of its last builds.
CREATE INDEX idx_builds_project ON builds (user_id, project_id, created_at DESC, id DESC)
    INCLUDE (status, started_at, finished_at);
-- For the counts of project_health.
CREATE INDEX idx_builds_status ON builds (user_id, project_id, status);
-- For the counts of the last day and week in user_usage_summary.
CREATE INDEX idx_builds_user_created ON builds (user_id, created_at DESC);
-- For the dispatcher and the search for stuck builds, which read the builds of all tenants. Few builds are unfinished
-- at a time.
CREATE INDEX idx_builds_unfinished ON builds (status, created_at) WHERE status IN ('queued', 'running');
-- For pages of a project's builds, by id.
CREATE INDEX idx_builds_page ON builds (user_id, project_id, id DESC);

-- Each append is one row, so that it writes only the new lines: in builds.logs each append would rewrite the whole log.
-- When the build ends, build_log_fold moves the log to builds.logs.
CREATE TABLE build_logs (
    user_id  uuid   NOT NULL,
    build_id uuid   NOT NULL,
    -- The end of this piece in the whole log, in bytes. It orders the pieces, so no sequence is needed.
    ends_at  bigint NOT NULL,
    content  text   NOT NULL,
    PRIMARY KEY (user_id, build_id, ends_at),
    FOREIGN KEY (user_id, build_id) REFERENCES builds (user_id, id) ON DELETE CASCADE
);
COMMENT ON TABLE build_logs IS 'The logs of builds that run, a row for each piece.';

CREATE TABLE previews (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    project_id uuid NOT NULL,
    container_id text,
    network_id text,
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
    machine text NOT NULL DEFAULT '',
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
    CONSTRAINT previews_stopped CHECK ((stopped_at IS NOT NULL) = (status = 'stopped')),
    CONSTRAINT previews_machine_length CHECK (char_length(machine) <= 200)
);
COMMENT ON TABLE previews IS 'Containers that serve a project at a host.';
COMMENT ON COLUMN previews.id IS 'uuid v7, made by the client.';
COMMENT ON COLUMN previews.user_id IS 'The tenant.';
COMMENT ON COLUMN previews.project_id IS 'The project that is served.';
COMMENT ON COLUMN previews.container_id IS 'The container.';
COMMENT ON COLUMN previews.network_id IS 'The network of the container.';
-- The claim is released when the preview stops or fails, not when its row is deleted: people delete old rows by hand.
COMMENT ON COLUMN previews.host IS 'The host name; unique among the live previews of all tenants by its row in claims.';
COMMENT ON COLUMN previews.host_port IS 'The port on the machine.';
COMMENT ON COLUMN previews.container_port IS 'The port inside the container.';
COMMENT ON COLUMN previews.health_status IS 'unknown, healthy, unhealthy or starting.';
COMMENT ON COLUMN previews.resource_limits IS 'What the container may use, as a JSON object.';
COMMENT ON COLUMN previews.auto_sleep IS 'Whether it is put to sleep when nobody visits it.';
COMMENT ON COLUMN previews.sleep_after_seconds IS 'How long nobody must visit it before it is put to sleep.';
COMMENT ON COLUMN previews.status IS 'creating, running, sleeping, stopped or failed; the first three are live.';
COMMENT ON COLUMN previews.last_accessed_at IS 'When it was visited last, to a second.';
COMMENT ON COLUMN previews.stopped_at IS 'When it was stopped.';
COMMENT ON COLUMN previews.created_at IS 'When it was made.';
COMMENT ON COLUMN previews.updated_at IS 'When the row was changed last.';
COMMENT ON COLUMN previews.machine IS 'The machine that runs it, which has the port; empty where there is only one.';

CREATE INDEX idx_previews_project ON previews (user_id, project_id, created_at DESC);
-- A router finds the user of a host in claims, and then the preview by this index. Only live previews are unique: the
-- rows of stopped and failed previews stay as history.
CREATE UNIQUE INDEX idx_previews_host ON previews (user_id, host) WHERE status IN ('creating', 'running', 'sleeping');
-- For the previews that may be put to sleep. The index leaves last_accessed_at out, which changes with the traffic: if
-- an index had this column, each such change would write to every index of the table.
CREATE INDEX idx_previews_awake ON previews (user_id, id) WHERE status = 'running' AND auto_sleep;
-- Maintenance deletes the rows of previews that stopped long ago.
CREATE INDEX idx_previews_stopped ON previews (stopped_at) WHERE status = 'stopped';
-- Maintenance also deletes the rows of previews that failed long ago. The time of the failure is updated_at, which the
-- index leaves out for the same reason as last_accessed_at.
CREATE INDEX idx_previews_failed ON previews (created_at) WHERE status = 'failed';

-- As in claims, the key is the name and not the user: two tenants must not get the same port, and a cluster shards this
-- table by machine. So there is no foreign key: the transaction that stops a preview deletes its row here, and the
-- ports of deleted previews are found when a machine has no free port left.
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
COMMENT ON TABLE preview_ports IS 'Which live preview has which port of a machine.';
CREATE INDEX idx_preview_ports_preview ON preview_ports (user_id, preview_id);
