-- Accounts: who there is, what they may spend, how they are signed in, and the audit trail.
--
-- Rules of the whole schema, so that it runs unchanged on PostgreSQL 15-18 and on Citus:
--   * user_id leads every primary key, unique constraint and foreign key. That is what a cluster is
--     sharded by, and it is the tenant wall: a row cannot point at another tenant's row. `users` is
--     its own tenant, so there the key is id.
--   * Row-level security fails closed: without atlas.user_id in the transaction no row is visible.
--     The owner of the tables bypasses it (no FORCE): migrations, maintenance and the referential
--     triggers run as the owner.
--   * Ids are uuid v7 made by the client; gen_random_uuid() is there for people in psql.
--   * Money is numeric(20,9) US dollars. Every CHECK on numeric refuses NaN by hand, because NaN
--     compares as greater than any number and so would pass ">= 0".
--   * Lengths of big texts count bytes: octet_length() reads the header of a TOASTed value,
--     char_length() would fetch all of it.

-- Types with their rules. The columns of hot tables use them instead of CHECK constraints: PostgreSQL reads the text
-- of every CHECK of a table anew at each statement, which was a third of the time of a reservation (measured), while
-- the rule of a domain is kept ready and asked only for what changes.
CREATE DOMAIN whole AS integer CHECK (VALUE >= 0);
CREATE DOMAIN whole_big AS bigint CHECK (VALUE >= 0);
-- US dollars to a billionth; NaN compares as greater than any number.
CREATE DOMAIN dollars AS numeric(20, 9) CHECK (VALUE >= 0 AND VALUE <> 'NaN');
CREATE DOMAIN json_map AS jsonb CHECK (jsonb_typeof(VALUE) = 'object');
CREATE DOMAIN limit_names AS text[]
CHECK (VALUE <@ ARRAY[
    'tokens', 'cost', 'containers', 'requests', 'builds', 'memory', 'projects', 'sessions', 'previews'
]);
-- One that this server does not know fails here (SQLSTATE 22023), not at the next reservation.
CREATE DOMAIN time_zone_name AS text
CHECK (char_length(VALUE) BETWEEN 1 AND 64 AND timestamp '2000-01-01 00:00' AT TIME ZONE VALUE IS NOT NULL);

CREATE FUNCTION update_updated_at_column() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

-- What each plan allows, the only place that has it: change a row and run quota_apply_plan, or use
-- set_plan_limits, which does both. NULL is unlimited. No tenant's data, so every tenant may read it.
CREATE TABLE plans (
    name text NOT NULL,
    tokens_limit bigint,
    cost_limit numeric(20, 9),
    containers_limit integer,
    requests_limit integer,
    builds_limit integer,
    -- Bytes that the contents of memory take in the database.
    memory_limit bigint,
    -- Whether a capture is refused above it. Losing memory is worse than storing it, so by default it is told.
    memory_hard boolean NOT NULL DEFAULT false,
    -- How many there may be at one time: projects that are not deleted, sessions that are valid, previews that live. Hard,
    -- because their names, hosts and ports are shared by all tenants.
    projects_limit integer,
    sessions_limit integer,
    previews_limit integer,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name),
    CONSTRAINT plans_name_shape CHECK (name ~ '^[a-z][a-z0-9_-]{0,39}$'),
    CONSTRAINT plans_limits CHECK (
        tokens_limit >= 0 AND cost_limit >= 0 AND cost_limit <> 'NaN' AND containers_limit >= 0 AND requests_limit >= 0
        AND builds_limit >= 0 AND memory_limit >= 0 AND projects_limit >= 0 AND sessions_limit >= 0
        AND previews_limit >= 0
    )
);

INSERT INTO plans
    (name, tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit, memory_limit, projects_limit,
     sessions_limit, previews_limit)
VALUES
    ('free',         1000000,   10,  2,   100,   10,   100 * 1024 * 1024::bigint,   1000,   100,   20),
    ('pro',         10000000,  100, 10,  1000,  100,  1024 * 1024 * 1024::bigint,  10000,  1000,  200),
    ('enterprise', 100000000, 1000, 50, 10000, 1000, 10240 * 1024 * 1024::bigint, 100000, 10000, 2000);

CREATE TABLE users (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    email text NOT NULL,
    -- NULL: nobody can sign in with a password, as with the local user of a laptop.
    password_hash text,
    -- When somebody chose the password; NULL until then. A hash that is only renewed leaves it alone. Whoever was read
    -- before is not signed in any more (sessions.issue), so SQL that sets another password sets this as well.
    password_changed_at timestamptz,
    name text NOT NULL DEFAULT '',
    plan text NOT NULL DEFAULT 'free',
    email_verified boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id),
    -- The nil id stands for "no user" in events.
    CONSTRAINT users_id_not_nil CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    -- 320 is 64 of the local part, the @, and 255 of the domain (RFC 3696).
    CONSTRAINT users_email_shape CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' AND char_length(email) <= 320),
    -- COLLATE "C" lower-cases ASCII only, so a row that one server accepts every server accepts.
    CONSTRAINT users_email_lower CHECK (email = lower(email COLLATE "C")),
    CONSTRAINT users_password_hash_length CHECK (char_length(password_hash) BETWEEN 1 AND 1024),
    CONSTRAINT users_name_length CHECK (char_length(name) <= 200),
    CONSTRAINT users_plan_known FOREIGN KEY (plan) REFERENCES plans (name)
);

-- Not unique: uniqueness of an e-mail is a row in claims.
CREATE INDEX idx_users_email ON users (email);

-- Names that are unique across all tenants. A cluster cannot hold UNIQUE (email) on a table that is
-- sharded by user, so the name itself is the key here and the table is sharded by it. Claim first,
-- then insert, in one transaction: INSERT … ON CONFLICT DO NOTHING returns a row when the name was free.
--
-- No foreign key to users: on Citus two tables with different shard keys cannot have one. So whoever
-- deletes or stops the thing deletes its claim in the same transaction, and maintenance removes the
-- claims whose user is gone.
CREATE TABLE claims (
    kind text NOT NULL,
    value text NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (value, kind),
    CONSTRAINT claims_kind_known CHECK (kind IN ('email', 'preview_host', 'project_session')),
    -- The longest name is an e-mail.
    CONSTRAINT claims_value_length CHECK (char_length(value) BETWEEN 1 AND 320)
);

-- Deleting a user releases everything the user claimed.
CREATE INDEX idx_claims_user ON claims (user_id, kind);

-- One row a user: what the plan allows and what is used. A NULL limit is unlimited. Nothing here says
-- used <= limit: a limit may be lowered below what is used, and then refuses until the period ends.
CREATE TABLE user_quotas (
    user_id uuid NOT NULL,
    tokens_limit whole_big,
    tokens_used whole_big NOT NULL DEFAULT 0,
    cost_limit dollars,
    cost_used dollars NOT NULL DEFAULT 0,
    containers_limit whole,
    containers_used whole NOT NULL DEFAULT 0,
    requests_limit whole,
    requests_used whole NOT NULL DEFAULT 0,
    builds_limit whole,
    builds_used whole NOT NULL DEFAULT 0,
    -- Months are the anchor + n months. Counting from period_start would drift: 31 January,
    -- 28 February, 28 March.
    period_anchor timestamptz NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    time_zone time_zone_name NOT NULL DEFAULT 'UTC',
    memory_limit whole_big,
    memory_hard boolean NOT NULL DEFAULT false,
    projects_limit whole,
    sessions_limit whole,
    previews_limit whole,
    -- The limits that were set for this user by hand ('tokens', 'cost', …): a change of plan leaves them alone.
    overridden limit_names NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT user_quotas_period CHECK (period_end > period_start)
)
-- The hottest row of the schema: half-empty pages keep its updates on the page (98 % HOT, measured).
WITH (fillfactor = 50);

-- On sign-up: make the quota row from the plan. On a change of plan: set the new plan's limits, but those
-- that were set for this user by hand, and leave what is used alone.
--
-- Runs with the caller's rights, so under row-level security the sign-up sets atlas.user_id to the new
-- id first. The name is resolved through TG_TABLE_SCHEMA because search_path is empty when a dump is
-- restored; a SET clause would pin whatever path the migration happened to have.
CREATE FUNCTION create_default_user_quota() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        EXECUTE format(
            'INSERT INTO %1$I.user_quotas
                 (user_id, tokens_limit, cost_limit, containers_limit, requests_limit, builds_limit, memory_limit,
                  memory_hard, projects_limit, sessions_limit, previews_limit, period_anchor, period_start, period_end)
             SELECT $1, p.tokens_limit, p.cost_limit, p.containers_limit, p.requests_limit, p.builds_limit,
                    p.memory_limit, p.memory_hard, p.projects_limit, p.sessions_limit, p.previews_limit, $3, $3, $4
             FROM %1$I.plans AS p WHERE p.name = $2', TG_TABLE_SCHEMA)
        USING NEW.id, NEW.plan, NEW.created_at,
              -- A month in the zone of the new row, UTC, and not in the zone of the session.
              (NEW.created_at AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    ELSE
        EXECUTE format('SELECT %I.quota_apply_plan($1)', TG_TABLE_SCHEMA) USING NEW.id;
    END IF;
    RETURN NULL;
END
$$;

-- Two triggers, because WHEN may name OLD only where there is one.
CREATE TRIGGER create_quota_on_signup AFTER INSERT ON users
FOR EACH ROW EXECUTE FUNCTION create_default_user_quota();

CREATE TRIGGER change_quota_with_plan AFTER UPDATE OF plan ON users
FOR EACH ROW WHEN (OLD.plan IS DISTINCT FROM NEW.plan) EXECUTE FUNCTION create_default_user_quota();

CREATE TRIGGER update_users_updated_at BEFORE UPDATE ON users
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TRIGGER update_user_quotas_updated_at BEFORE UPDATE ON user_quotas
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- Refuse rows that are more than the user's limit allows, with SQLSTATE 23T02 and the facts in DETAIL as JSON. The arguments
-- are the name of the limit and the condition of a row that counts. Whoever adds one waits for the others of the same user,
-- and counts what they have committed. (A transaction with a snapshot of its own cannot: it changes a row of the user's, so
-- that two of them do not both commit.)
CREATE FUNCTION refuse_over_limit() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    owner uuid;
    added_now bigint;
    allowed integer;
    there bigint;
BEGIN
    FOR owner, added_now IN SELECT a.user_id, count(*) FROM added AS a GROUP BY a.user_id ORDER BY a.user_id LOOP
        EXECUTE format('SELECT %I FROM %I.user_quotas WHERE user_id = $1', TG_ARGV[0] || '_limit', TG_TABLE_SCHEMA)
        INTO allowed USING owner;
        CONTINUE WHEN allowed IS NULL;
        EXECUTE format('SELECT FROM %I.users WHERE id = $1 FOR NO KEY UPDATE', TG_TABLE_SCHEMA) USING owner;
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            EXECUTE format('UPDATE %I.user_quotas SET memory_level = memory_level WHERE user_id = $1', TG_TABLE_SCHEMA)
            USING owner;
        END IF;
        EXECUTE format('SELECT count(*) FROM %I.%I WHERE user_id = $1 AND %s', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[1])
        INTO there USING owner;
        IF there > allowed THEN
            RAISE EXCEPTION 'the limit of % % is reached', allowed, TG_ARGV[0]
            USING ERRCODE = '23T02',
                  DETAIL = jsonb_build_object('dimension', TG_ARGV[0], 'limit', allowed, 'asked', added_now,
                                              'remaining', greatest(allowed - there + added_now, 0))::text;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- The token carries the user id, so it is found by (user_id, token_hash) on one shard. It has an id of
-- its own as well: that is what a list of devices shows and what the audit names, and the hash of a
-- credential belongs in neither.
CREATE TABLE sessions (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    token_hash bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    ip inet,
    user_agent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, token_hash),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    -- SHA-256, raw.
    CONSTRAINT sessions_token_hash_length CHECK (octet_length(token_hash) = 32),
    CONSTRAINT sessions_expires_later CHECK (expires_at > created_at),
    CONSTRAINT sessions_user_agent_length CHECK (char_length(user_agent) <= 1024)
);

CREATE TRIGGER sessions_refuse_over_limit AFTER INSERT ON sessions REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION refuse_over_limit('sessions', 'is_active AND expires_at > clock_timestamp()');

-- Maintenance deletes the expired sessions of all users.
CREATE INDEX idx_sessions_expires ON sessions (expires_at);

-- The audit trail outlives its users and projects, so it has no foreign keys. What happened without a
-- user (a failed sign-in, the service itself) goes to the nil id: a cluster cannot shard by NULL.
CREATE TABLE events (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    type text NOT NULL,
    user_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    project_id uuid,
    ip inet,
    user_agent text,
    meta jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id),
    CONSTRAINT events_type_length CHECK (char_length(type) BETWEEN 1 AND 100),
    CONSTRAINT events_user_agent_length CHECK (char_length(user_agent) <= 1024),
    CONSTRAINT events_meta_object CHECK (jsonb_typeof(meta) = 'object')
);

CREATE INDEX idx_events_user_created ON events (user_id, created_at DESC);
-- The trail of one project. Events without one cost nothing here.
CREATE INDEX idx_events_project ON events (user_id, project_id, created_at DESC, id DESC) WHERE project_id IS NOT NULL;

-- The policies compare a column with a setting and nothing more: Citus refuses sub-queries in them.
-- nullif() because a setting that was made local in an earlier transaction reads as '' afterwards.
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON users
    USING (id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (id = nullif(current_setting('atlas.user_id', true), '')::uuid);

-- A tenant sees its own claims only, yet cannot take a foreign one: ON CONFLICT asks the unique index,
-- which no policy filters. That a name is taken can be seen by trying; by whom cannot.
ALTER TABLE plans ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON plans FOR SELECT USING (true);

ALTER TABLE claims ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON claims
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE user_quotas ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON user_quotas
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON sessions
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);

ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON events
    USING (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid)
    WITH CHECK (user_id = nullif(current_setting('atlas.user_id', true), '')::uuid);
