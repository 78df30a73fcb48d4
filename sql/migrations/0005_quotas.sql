-- Quotas: hard limits on tokens, cost, containers, requests an hour and builds a day.
--
-- The SQL API is quota_reserve, quota_lease, quota_hit, quota_settle, quota_release, quota_extend, quota_progress,
-- quota_add, quota_grant, quota_apply_plan, quota_wait, quota_leave, and what maintenance does. Nothing else writes
-- these counters. Why they are safe:
--   * Each function locks the user's row first, reads the clock after that, and decides on the counters of the locked
--     row. (The short cuts of reserve, hit and settle are one UPDATE, which locks and decides at once on columns of
--     that row. They read the clock again afterwards, and take the change back if a new minute, day or period has
--     begun.) now() would not do: it is the start of the transaction, so a session that waited for the lock would see
--     the period that has ended.
--   * Every statement must see what was committed before the lock was taken: call them in autocommit, READ COMMITTED.
--     (At REPEATABLE READ a lost race is an error, never an oversale.)
--   * A NULL limit is unlimited: "x > NULL" is not true, so every test here asks "is it over?".
--   * used = SUM(ledger of the period), held = SUM(reservations of the period), slots = SUM(slots of all reservations).
--
-- Tables and arithmetic are here. The internal steps are in 0006_quota_steps.sql, the SQL API is in
-- 0007_quota_reserve.sql to 0010_quota_waiters.sql. A refused argument raises SQLSTATE 22023, an unknown user 23503.

CREATE DOMAIN limit_names AS text[]
CHECK (VALUE <@ ARRAY[
    'tokens', 'cost', 'containers', 'requests', 'builds', 'memory', 'projects', 'sessions', 'previews'
]);
-- A zone that this server does not know fails here (SQLSTATE 22023), not at the next reservation. So does a rule of
-- POSIX, because its sign misleads: 'UTC+2' is two hours west of Greenwich. The names in the list only look like rules.
-- The SDK accepts the names of pg_timezone_names only, which a CHECK cannot read.
CREATE DOMAIN time_zone_name AS text
CHECK (
    char_length(VALUE) BETWEEN 1 AND 64 AND timestamp '2000-01-01 00:00' AT TIME ZONE VALUE IS NOT NULL
    AND (VALUE !~ '^[^/]*[0-9]'
         OR VALUE IN ('EST5EDT', 'CST6CDT', 'MST7MDT', 'PST8PDT', 'GMT0', 'GMT+0', 'GMT-0'))
);
-- One for each minute of an hour that begins and ends within a minute.
CREATE DOMAIN request_cells AS integer[] CHECK (array_length(VALUE, 1) = 61);
CREATE DOMAIN holder_name AS text CHECK (char_length(VALUE) <= 200);
CREATE DOMAIN usage_kind AS text CHECK (VALUE ~ '^[a-z][a-z0-9_.]*$' AND char_length(VALUE) <= 64);
-- Corrections are negative.
CREATE DOMAIN usage_amount AS numeric(20, 6) CHECK (VALUE <> 'NaN');
CREATE DOMAIN usage_cost AS numeric(20, 9) CHECK (VALUE <> 'NaN');

-- No constraint says used <= limit: a limit may be set below what is used, and then refuses until the period ends.
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
    -- Counting months from period_start would drift: 31 January, 28 February, 28 March.
    period_anchor timestamptz NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    time_zone time_zone_name NOT NULL DEFAULT 'UTC',
    memory_limit whole_big,
    memory_hard boolean NOT NULL DEFAULT false,
    projects_limit whole,
    sessions_limit whole,
    previews_limit whole,
    overridden limit_names NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    tokens_held whole_big NOT NULL DEFAULT 0,
    cost_held dollars NOT NULL DEFAULT 0,
    tokens_level smallint NOT NULL DEFAULT 0,
    cost_level smallint NOT NULL DEFAULT 0,
    -- A window of 60 minutes touches at most 61 of them, so their sum is never less than what happened in the hour.
    request_cells request_cells NOT NULL DEFAULT array_fill(0, ARRAY[61]),
    request_minute bigint NOT NULL DEFAULT 0,
    build_day date,
    requests_held whole NOT NULL DEFAULT 0,
    tokens_granted whole_big NOT NULL DEFAULT 0,
    tokens_burned whole_big NOT NULL DEFAULT 0,
    cost_granted dollars NOT NULL DEFAULT 0,
    cost_burned dollars NOT NULL DEFAULT 0,
    grants_expire_at timestamptz,
    memory_level smallint NOT NULL DEFAULT 0,
    prior_at timestamptz,
    epoch bigint NOT NULL DEFAULT 0,
    waiting_until timestamptz,
    PRIMARY KEY (user_id),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT user_quotas_period CHECK (period_end > period_start)
)
-- The hottest row of the schema: half-empty pages keep its updates on the page (98 % HOT, measured).
WITH (fillfactor = 50);
COMMENT ON TABLE user_quotas IS 'One row a user: the limits, and what is used and held. A NULL limit is unlimited.';
COMMENT ON COLUMN user_quotas.user_id IS 'The tenant.';
COMMENT ON COLUMN user_quotas.tokens_limit IS 'Tokens of a month, top-ups included.';
COMMENT ON COLUMN user_quotas.tokens_used IS 'Tokens charged to the period.';
COMMENT ON COLUMN user_quotas.cost_limit IS 'US dollars of a month, top-ups included.';
COMMENT ON COLUMN user_quotas.cost_used IS 'US dollars charged to the period.';
COMMENT ON COLUMN user_quotas.containers_limit IS 'Containers at one time.';
COMMENT ON COLUMN user_quotas.containers_used IS 'Slots of all reservations.';
COMMENT ON COLUMN user_quotas.requests_limit IS 'Requests in any 60 minutes.';
COMMENT ON COLUMN user_quotas.requests_used IS 'Sum of request_cells at the last request.';
COMMENT ON COLUMN user_quotas.builds_limit IS 'Builds of a day in the user''s zone.';
COMMENT ON COLUMN user_quotas.builds_used IS 'Builds of build_day.';
COMMENT ON COLUMN user_quotas.period_anchor IS 'Months begin at the anchor plus n months.';
COMMENT ON COLUMN user_quotas.period_start IS 'When the month began.';
COMMENT ON COLUMN user_quotas.period_end IS 'When the month ends; the next use after it begins the new one.';
COMMENT ON COLUMN user_quotas.time_zone IS 'The zone of days and months.';
COMMENT ON COLUMN user_quotas.memory_limit IS 'Bytes that the contents of memory may take in the database.';
COMMENT ON COLUMN user_quotas.memory_hard IS 'Whether a capture above memory_limit is refused.';
COMMENT ON COLUMN user_quotas.projects_limit IS 'Projects that are not deleted.';
COMMENT ON COLUMN user_quotas.sessions_limit IS 'Valid sessions.';
COMMENT ON COLUMN user_quotas.previews_limit IS 'Live previews.';
COMMENT ON COLUMN user_quotas.overridden IS 'Limits that were set by hand, as tokens: a change of plan leaves them alone.';
COMMENT ON COLUMN user_quotas.created_at IS 'When the row was made.';
COMMENT ON COLUMN user_quotas.updated_at IS 'When the row was changed last.';
COMMENT ON COLUMN user_quotas.tokens_held IS 'Tokens held by open reservations; they count against the limit.';
COMMENT ON COLUMN user_quotas.cost_held IS 'US dollars held by open reservations; they count against the limit.';
COMMENT ON COLUMN user_quotas.tokens_level IS 'Highest of 0, 50, 80, 100 per cent of tokens that an event of the period reported.';
COMMENT ON COLUMN user_quotas.cost_level IS 'Highest of 0, 50, 80, 100 per cent of cost that an event of the period reported.';
COMMENT ON COLUMN user_quotas.request_cells IS 'Requests by minute, the newest last.';
COMMENT ON COLUMN user_quotas.request_minute IS 'Minutes since 1970 of the newest cell.';
COMMENT ON COLUMN user_quotas.build_day IS 'The day, in the user''s zone, that builds_used counts.';
COMMENT ON COLUMN user_quotas.requests_held IS 'Requests of leases; counted when a lease is settled, which keeps the hour.';
COMMENT ON COLUMN user_quotas.tokens_granted IS 'The part of tokens_limit that comes from top-ups.';
COMMENT ON COLUMN user_quotas.tokens_burned IS 'How much of tokens_granted this period has used up for good.';
COMMENT ON COLUMN user_quotas.cost_granted IS 'The part of cost_limit that comes from top-ups.';
COMMENT ON COLUMN user_quotas.cost_burned IS 'How much of cost_granted this period has used up for good.';
COMMENT ON COLUMN user_quotas.grants_expire_at IS 'When the next open top-up expires; NULL: none does.';
COMMENT ON COLUMN user_quotas.memory_level IS 'Highest per cent of memory_limit that an event reported.';
COMMENT ON COLUMN user_quotas.prior_at IS 'When the row was changed before its last short cut: shows who else uses it.';
COMMENT ON COLUMN user_quotas.epoch IS 'Counts reservations: a later holder has a higher number, for fencing.';
COMMENT ON COLUMN user_quotas.waiting_until IS 'Until then calls may wait: steps that give something back notify them.';

CREATE TRIGGER update_user_quotas_updated_at BEFORE UPDATE ON user_quotas
FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
-- Maintenance closes periods that have ended. It changes once a month, so the updates of the hot row stay on their
-- page.
CREATE INDEX idx_user_quotas_period_end ON user_quotas (period_end, user_id);

-- quota_reserve adds a row. Settling or releasing removes it; after its expiry the user's next refusal, the end of the
-- period or maintenance does, whichever comes first. An expired reservation is charged in tokens and cost, because the
-- provider may have billed them; its slots come free.
CREATE TABLE quota_reservations (
    user_id           uuid           NOT NULL,
    -- Made by the client: the idempotency key.
    id                uuid           NOT NULL,
    -- The period that pays, also when it has ended by the time of the settlement.
    period_start      timestamptz    NOT NULL,
    tokens            whole_big      NOT NULL,
    cost              dollars        NOT NULL,
    slots             whole          NOT NULL,
    -- Counted when granted and never given back, because these limit attempts; of a lease see leased.
    requests          whole          NOT NULL,
    builds            whole          NOT NULL,
    -- What a stream has used so far: charged when it ends without a settlement of its own.
    tokens_progressed whole_big      NOT NULL DEFAULT 0,
    cost_progressed   dollars        NOT NULL DEFAULT 0,
    epoch             bigint         NOT NULL,
    expires_at        timestamptz    NOT NULL,
    created_at        timestamptz    NOT NULL,
    -- A block that a process spends from: its requests are held, and counted when it is settled.
    leased            boolean        NOT NULL DEFAULT false,
    holder            holder_name    NOT NULL DEFAULT '',
    meta              json_map       NOT NULL DEFAULT '{}',
    PRIMARY KEY (user_id, id),
    -- Not to users: the referential check then locks a row that the transaction has locked already.
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE quota_reservations IS 'Open reservations: what is held for calls, containers and leases.';

CREATE TABLE quota_history (
    user_id      uuid           NOT NULL,
    period_start timestamptz    NOT NULL,
    period_end   timestamptz    NOT NULL,
    tokens_used  whole_big      NOT NULL,
    tokens_limit whole_big,
    cost_used    dollars        NOT NULL,
    cost_limit   dollars,
    closed_at    timestamptz    NOT NULL,
    -- What the end of the period charged to top-ups that last longer, {id of the grant: [tokens, cost]}. A reservation
    -- that then costs less gives the difference back, but first it pays what was over the limit with all top-ups
    -- (unpaid).
    burned       json_map       NOT NULL DEFAULT '{}',
    tokens_unpaid whole_big     NOT NULL DEFAULT 0,
    cost_unpaid  dollars        NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, period_start),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
COMMENT ON TABLE quota_history IS 'One row for each period that has ended. Late settlements still change what it used.';

CREATE TABLE quota_grants (
    user_id       uuid           NOT NULL,
    -- Made by the client: the idempotency key.
    id            uuid           NOT NULL,
    tokens        whole_big      NOT NULL,
    cost          dollars        NOT NULL,
    -- Used up for good: computed at the end of a period and when the grant expires.
    tokens_burned whole_big      NOT NULL DEFAULT 0,
    cost_burned   dollars        NOT NULL DEFAULT 0,
    reason        text           NOT NULL DEFAULT '',
    created_at    timestamptz    NOT NULL,
    -- NULL: never.
    expires_at    timestamptz,
    -- Expired or used up.
    closed_at     timestamptz,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE,
    CONSTRAINT quota_grants_amounts CHECK (
        tokens_burned <= tokens AND cost_burned <= cost
    ),
    CONSTRAINT quota_grants_reason_length CHECK (char_length(reason) <= 500)
);
COMMENT ON TABLE quota_grants IS
'Top-ups of the monthly limits, used after the plan''s own allowance; what is left is the next month''s.';

-- project_id has no foreign key: a cascade would delete the bill with the project and leave user_quotas with more used
-- than the ledger accounts for, and a cluster cannot SET NULL. Readers join projects on (user_id, project_id), so it
-- cannot lead to another tenant.
CREATE TABLE usage_ledger (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    project_id uuid,
    kind usage_kind NOT NULL,
    amount usage_amount NOT NULL,
    cost usage_cost NOT NULL DEFAULT 0,
    meta json_map NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    period_start timestamptz,
    reservation_id uuid,
    granted_tokens bigint,
    granted_cost numeric(20, 9),
    progressed_tokens bigint,
    progressed_cost numeric(20, 9),
    counted_requests integer,
    counted_at timestamptz,
    PRIMARY KEY (user_id, id),
    -- Not to users: the referential check then locks a row that a settlement has locked already.
    FOREIGN KEY (user_id) REFERENCES user_quotas (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE usage_ledger IS 'What was used, row by row. Rows are never edited: a correction is a new row.';
COMMENT ON COLUMN usage_ledger.id IS 'uuid v7, made by the client.';
COMMENT ON COLUMN usage_ledger.user_id IS 'The tenant.';
COMMENT ON COLUMN usage_ledger.project_id IS 'The project that used it, if any; it may be gone.';
COMMENT ON COLUMN usage_ledger.kind IS 'tokens, expired, released, container_minutes, or a kind of the application.';
COMMENT ON COLUMN usage_ledger.amount IS 'In the unit of the kind; tokens are whole, a correction may be negative.';
COMMENT ON COLUMN usage_ledger.cost IS 'US dollars; a correction may be negative.';
COMMENT ON COLUMN usage_ledger.meta IS 'What the caller said, as a JSON object: model, project and the like.';
COMMENT ON COLUMN usage_ledger.created_at IS 'When it was recorded.';
COMMENT ON COLUMN usage_ledger.period_start IS 'The period that pays; NULL: recorded by the application, outside of the quota.';
COMMENT ON COLUMN usage_ledger.reservation_id IS 'The reservation that it ends.';
COMMENT ON COLUMN usage_ledger.granted_tokens IS 'Tokens that the reservation held.';
COMMENT ON COLUMN usage_ledger.granted_cost IS 'US dollars that the reservation held.';
COMMENT ON COLUMN usage_ledger.progressed_tokens IS 'Of an entry expired: tokens that a stream had reported.';
COMMENT ON COLUMN usage_ledger.progressed_cost IS 'Of an entry expired: US dollars that a stream had reported.';
COMMENT ON COLUMN usage_ledger.counted_requests IS 'Of a lease that expired or was released: requests that were counted for it.';
COMMENT ON COLUMN usage_ledger.counted_at IS 'The minute that counted_requests are counted in.';

-- Tokens are whole. Not a CHECK, for the reason of the domains: a third of the time of an entry (measured).
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
-- A reservation ends once as 'expired' or 'released' and is settled once, as 'tokens': a settlement after an expiry is
-- the difference to what the expiry charged.
CREATE UNIQUE INDEX idx_usage_ledger_reservation ON usage_ledger (user_id, reservation_id, kind)
WHERE reservation_id IS NOT NULL;

-- Set how long the SQL API waits for a lock, if the session has no limit of its own. Calls hold the user's row for
-- milliseconds, so whoever holds it for seconds is a transaction that somebody left open. Then 55P03 is raised, and
-- nothing was changed. A SET clause of the functions would override a shorter limit of the session.
CREATE FUNCTION quota_lock_timeout() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN current_setting('lock_timeout') = '0' THEN set_config('lock_timeout', '8s', true) END
$$;

-- Refuse what one call cannot ask for: more than a trillion tokens or a billion dollars. Nine million calls with that
-- many tokens fit the counters of a period, and 99 with that many dollars; a call that does not fit is refused (22003).
-- "Not between", because NaN is greater than any number.
CREATE FUNCTION quota_check_amounts(p_id uuid, p_tokens bigint, p_cost numeric, p_meta jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_id IS NULL THEN
        RAISE EXCEPTION 'a reservation needs an id' USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT p_tokens BETWEEN 0 AND 1000000000000 THEN
        RAISE EXCEPTION 'tokens must be from 0 to 1000000000000, not %', p_tokens
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT p_cost BETWEEN 0 AND 1000000000 THEN
        RAISE EXCEPTION 'cost must be from 0 to 1000000000 dollars, not %', p_cost
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF jsonb_typeof(p_meta) <> 'object' OR octet_length(p_meta::text) > 16384 THEN
        RAISE EXCEPTION 'meta must be a JSON object of at most 16384 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

CREATE FUNCTION quota_check_ttl(p_ttl interval, p_holder text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_ttl IS NULL OR NOT (p_ttl > interval '0' AND p_ttl <= interval '24 hours') THEN
        RAISE EXCEPTION 'ttl must be more than 0 and at most 24 hours, not %', p_ttl
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF char_length(p_holder) > 200 THEN
        RAISE EXCEPTION 'holder must have at most 200 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

CREATE TYPE quota_months AS (period_start timestamptz, period_end timestamptz);

-- Return the month that contains a moment: [anchor + n months, anchor + n+1 months) in the user's zone. It always
-- counts from the anchor, so that the 31st comes back after February. Both ends have one formula, so that months
-- neither overlap nor leave a gap where clocks change.
CREATE FUNCTION quota_month(p_anchor timestamptz, p_zone text, p_at timestamptz) RETURNS quota_months
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path FROM CURRENT AS $$
DECLARE
    -- interval '1 month' follows the calendar of a local time; on a timestamptz that would be the zone of the session.
    first_at timestamp := p_anchor AT TIME ZONE p_zone;
    local_at timestamp := p_at AT TIME ZONE p_zone;
    n integer := (EXTRACT(year FROM local_at) - EXTRACT(year FROM first_at)) * 12
               + EXTRACT(month FROM local_at) - EXTRACT(month FROM first_at);
BEGIN
    WHILE (first_at + make_interval(months => n)) AT TIME ZONE p_zone > p_at LOOP
        n := n - 1;
    END LOOP;
    WHILE (first_at + make_interval(months => n + 1)) AT TIME ZONE p_zone <= p_at LOOP
        n := n + 1;
    END LOOP;
    RETURN ((first_at + make_interval(months => n)) AT TIME ZONE p_zone,
            (first_at + make_interval(months => n + 1)) AT TIME ZONE p_zone);
END
$$;
