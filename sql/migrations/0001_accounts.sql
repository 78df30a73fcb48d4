-- Accounts: users and plans, unique names, sessions, and the audit trail.
--
-- Rules of the whole schema, which runs on PostgreSQL 15 to 18. They also prepare it for Citus, where no test runs it: a
-- cluster would need one more file, which distributes the tables.
--   * user_id leads every primary key, unique constraint and foreign key, so a row cannot point at another tenant's row,
--     and a cluster can be sharded by it. Exceptions: `users` is its own tenant, so its key is id; the keys of claims
--     and preview_ports are the names that are unique across tenants; plans and schema_version have no user.
--   * Row-level security fails closed: no row of a user is visible without atlas.user_id in the transaction. The owner
--     of the tables bypasses it (no FORCE): migrations, maintenance and the referential triggers run as the owner.
--   * Clients make the ids, which are uuid v7; gen_random_uuid() serves people in psql, and entries of the ledger that
--     the database adds.
--   * Money is numeric(20,9) US dollars. Every CHECK on numeric refuses NaN explicitly, because NaN compares as greater
--     than any number and so passes ">= 0".
--   * Lengths of big texts count bytes: octet_length() reads the header of a TOASTed value, char_length() fetches all
--     of it.
--   * COMMENT describes the tables and the columns that people query; comments in these files give reasons.

-- Hot tables use domains instead of CHECK constraints. PostgreSQL parses the text of every CHECK of a table again at
-- each statement, which was a third of the time of a reservation (measured). It caches the rule of a domain, and checks
-- it only for the columns that change.
CREATE DOMAIN whole AS integer CHECK (VALUE >= 0);
CREATE DOMAIN whole_big AS bigint CHECK (VALUE >= 0);
CREATE DOMAIN dollars AS numeric(20, 9) CHECK (VALUE >= 0 AND VALUE <> 'NaN');
CREATE DOMAIN json_map AS jsonb CHECK (jsonb_typeof(VALUE) = 'object');

-- The tenant of the transaction; NULL: none, and then the policies show no row. nullif() because a setting that was
-- local to an earlier transaction reads as '' afterwards. PostgreSQL puts the body in the place of the call, so
-- policies use indexes.
CREATE FUNCTION current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('atlas.user_id', true), '')::uuid;

-- Raise an error unless the caller may act for a user: a tenant for itself, the owner of the tables for everybody.
-- Functions with the owner's rights call it. There current_user is the owner; `role` and session_user are still the
-- caller's.
CREATE FUNCTION check_tenant(p_user uuid) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_user = current_tenant()
        OR pg_has_role(coalesce(nullif(current_setting('role'), 'none')::name, session_user), current_user, 'USAGE') THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'permission denied for what is this user''s' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE FUNCTION update_updated_at_column() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

-- Return a text in lower case. COLLATE "C" knows ASCII only, so other texts take a collation that knows Unicode, of which
-- each server from 17 on and each one with ICU has one.
CREATE FUNCTION lower_unicode(p_text text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    folded text := lower(p_text COLLATE "C");
BEGIN
    IF octet_length(p_text) > char_length(p_text) THEN
        EXECUTE (SELECT format('SELECT lower($1 COLLATE pg_catalog.%I)', max(c.collname)) FROM pg_catalog.pg_collation AS c
                 WHERE c.collname IN ('default', 'pg_c_utf8', 'und-x-icu')) INTO folded USING p_text;
    END IF;
    RETURN folded;
END
$$;

-- Refuse every change of status but those in the arguments after the first, 'from>to'. The first argument is what
-- people call such a row. SQLSTATE 23T01 is our own, in the class of constraints. The facts are in DETAIL as JSON,
-- because nothing else of an error arrives unchanged on a cluster.
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

-- Refuse rows beyond the user's limit, with SQLSTATE 23T02 and the facts in DETAIL as JSON. The arguments are the name
-- of the limit and the condition of a row that counts. An insert waits for other inserts of the same user, and counts
-- what they have committed. (A transaction with its own snapshot cannot see that: it changes a row of the user, so that
-- two such transactions do not both commit.)
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

CREATE TABLE plans (
    name text NOT NULL,
    tokens_limit bigint,
    cost_limit numeric(20, 9),
    containers_limit integer,
    requests_limit integer,
    builds_limit integer,
    -- Bytes that the contents of memory take in the database.
    memory_limit bigint,
    -- True: a capture above the limit is refused. The default only reports it: losing memory is worse than storing it.
    memory_hard boolean NOT NULL DEFAULT false,
    -- How many there may be at one time: projects that are not deleted, valid sessions, live previews. These limits are
    -- hard, because all tenants share names, hosts and ports.
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
COMMENT ON TABLE plans IS 'The limits of each plan; NULL is unlimited. quota_apply_plan sets a change.';

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
    password_hash text,
    -- SQL that sets another password sets this too: sessions.issue compares it with what the sign-in has read.
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
    -- The form in which the SDK stores an address (atlas_sdk/ops/emails.py), so that SQL of others cannot store a second
    -- one. A domain with other characters is written as in the DNS, "xn--…".
    CONSTRAINT users_email_form CHECK (
        email = lower_unicode(email) AND email IS NFKC NORMALIZED
        AND octet_length(split_part(email, '@', 2)) = char_length(split_part(email, '@', 2))
    ),
    CONSTRAINT users_password_hash_length CHECK (char_length(password_hash) BETWEEN 1 AND 1024),
    CONSTRAINT users_name_length CHECK (char_length(name) <= 200),
    CONSTRAINT users_plan_known FOREIGN KEY (plan) REFERENCES plans (name)
);
COMMENT ON TABLE users IS 'The accounts. Deleting a row deletes everything of the user but the audit trail.';
COMMENT ON COLUMN users.id IS 'uuid v7, made by the client.';
COMMENT ON COLUMN users.email IS 'In NFKC and lower case, the domain as in the DNS; unique by its row in claims.';
COMMENT ON COLUMN users.password_hash IS 'Argon2; NULL: no sign-in by password, as with the local user of a laptop.';
COMMENT ON COLUMN users.password_changed_at IS 'When the password was chosen; a renewed hash leaves it alone. NULL: never.';
COMMENT ON COLUMN users.name IS 'The name to show.';
COMMENT ON COLUMN users.plan IS 'The plan that sets the limits in user_quotas.';
COMMENT ON COLUMN users.email_verified IS 'True when the user has proved to own the address.';
COMMENT ON COLUMN users.created_at IS 'When the user signed up.';
COMMENT ON COLUMN users.updated_at IS 'When the row was changed last.';

-- Not unique: uniqueness of an e-mail is a row in claims.
CREATE INDEX idx_users_email ON users (email);

-- A cluster cannot hold UNIQUE (email) on a table that is sharded by user. So the name itself is the key here, and this
-- table is sharded by it. Claim first, then insert, in one transaction: INSERT … ON CONFLICT DO NOTHING returns a row
-- when the name was free.
--
-- There is no foreign key to users: on Citus two tables with different shard keys cannot have one. Whoever deletes or
-- stops the thing deletes its claim in the same transaction, and maintenance removes the claims whose user is gone.
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
COMMENT ON TABLE claims IS 'Names that are unique across all tenants: e-mails, hosts of previews, session ids.';

-- Deleting a user releases everything the user claimed.
CREATE INDEX idx_claims_user ON claims (user_id, kind);

-- On sign-up: make the quota row from the plan. On a change of plan: set the limits of the new plan, except those that
-- were set for this user by hand; what is used stays.
--
-- It runs with the caller's rights, so under row-level security the sign-up first sets atlas.user_id to the new id. The
-- schema comes from TG_TABLE_SCHEMA: search_path is empty while a dump is restored, and a SET clause would pin the path
-- of the migration.
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

-- The token carries the user id, so one shard finds a session by (user_id, token_hash). A list of devices and the audit
-- name a session by its id: the hash of a credential belongs in neither.
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
    CONSTRAINT sessions_token_hash_length CHECK (octet_length(token_hash) = 32),
    CONSTRAINT sessions_expires_later CHECK (expires_at > created_at),
    CONSTRAINT sessions_user_agent_length CHECK (char_length(user_agent) <= 1024)
);
COMMENT ON TABLE sessions IS 'Sign-ins. A session ends by time or by being revoked, and never comes back.';
COMMENT ON COLUMN sessions.id IS 'uuid v7; what a list of devices and the audit show.';
COMMENT ON COLUMN sessions.user_id IS 'Who is signed in.';
COMMENT ON COLUMN sessions.token_hash IS 'SHA-256 of the token; the token itself is stored nowhere.';
COMMENT ON COLUMN sessions.expires_at IS 'When the session ends by itself.';
COMMENT ON COLUMN sessions.is_active IS 'False once it was revoked.';
COMMENT ON COLUMN sessions.ip IS 'Where the sign-in came from.';
COMMENT ON COLUMN sessions.user_agent IS 'What the client said it is.';
COMMENT ON COLUMN sessions.created_at IS 'When the user signed in.';
COMMENT ON COLUMN sessions.last_seen_at IS 'When the session was used last; written now and then, not at every request.';

CREATE TRIGGER sessions_refuse_over_limit AFTER INSERT ON sessions REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION refuse_over_limit('sessions', 'is_active AND expires_at > clock_timestamp()');

-- Maintenance deletes the expired sessions of all users.
CREATE INDEX idx_sessions_expires ON sessions (expires_at);

-- The audit trail outlives its users and projects, so it has no foreign keys. A cluster cannot shard by NULL, so events
-- without a user have the nil id.
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
COMMENT ON TABLE events IS 'The audit trail: who did what, when and from where. Rows are added, never changed.';
COMMENT ON COLUMN events.id IS 'uuid v7, made by the client.';
COMMENT ON COLUMN events.type IS 'What happened, as "build.created".';
COMMENT ON COLUMN events.user_id IS 'Whose it is; the nil id when no user is known, as with a failed sign-in.';
COMMENT ON COLUMN events.project_id IS 'The project that it is about, if any.';
COMMENT ON COLUMN events.ip IS 'Where the request came from.';
COMMENT ON COLUMN events.user_agent IS 'What the client said it is.';
COMMENT ON COLUMN events.meta IS 'The facts, as a JSON object; never contents, tokens or passwords.';
COMMENT ON COLUMN events.created_at IS 'When it happened.';

CREATE INDEX idx_events_user_created ON events (user_id, created_at DESC);
-- The trail of one project. Events without one cost nothing here.
CREATE INDEX idx_events_project ON events (user_id, project_id, created_at DESC, id DESC) WHERE project_id IS NOT NULL;
-- Maintenance deletes the old events of all users.
CREATE INDEX idx_events_created ON events (created_at);

-- The policies of the other tables are in 0012_administration.sql.
ALTER TABLE plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE claims ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON plans FOR SELECT USING (true);
CREATE POLICY tenant ON users USING (id = current_tenant());
-- A tenant sees its own claims only, yet it cannot take a foreign one: ON CONFLICT asks the unique index, which no
-- policy filters. A tenant can find out that a name is taken, and not by whom. An address belongs to whoever signed up
-- with it: no tenant takes or frees one. To lock the claim of its own host, a tenant needs the right to change it.
CREATE POLICY tenant_reads ON claims FOR SELECT USING (user_id = current_tenant());
CREATE POLICY tenant_claims ON claims FOR INSERT WITH CHECK (user_id = current_tenant() AND kind <> 'email');
CREATE POLICY tenant_holds ON claims FOR UPDATE USING (user_id = current_tenant() AND kind <> 'email');
CREATE POLICY tenant_releases ON claims FOR DELETE USING (user_id = current_tenant() AND kind <> 'email');
