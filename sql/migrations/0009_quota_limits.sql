-- Quotas: top-ups, plans, and the end of periods (0005_quotas.sql says what makes it safe).

-- Add to the monthly limits until p_expires_at (NULL: until it is used). False: this id was granted before.
CREATE FUNCTION quota_grant(
    p_user uuid, p_id uuid, p_tokens bigint, p_cost numeric, p_expires_at timestamptz, p_reason text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    at timestamptz;
BEGIN
    PERFORM quota_check_amounts(p_id, p_tokens, p_cost, NULL);
    IF num_nulls(p_tokens, p_cost) > 0 OR p_tokens = 0 AND round(p_cost, 9) = 0 THEN
        RAISE EXCEPTION 'nothing to grant: tokens and cost are 0' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM quota_lock(p_user);
    at := clock_timestamp();
    IF p_expires_at <= at THEN
        RAISE EXCEPTION 'a grant must expire in the future, not at %', p_expires_at
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO quota_grants (user_id, id, tokens, cost, reason, created_at, expires_at)
    VALUES (p_user, p_id, p_tokens, round(p_cost, 9), coalesce(p_reason, ''), at, p_expires_at)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE user_quotas AS u
    SET tokens_limit = u.tokens_limit + p_tokens, tokens_granted = u.tokens_granted + p_tokens,
        cost_limit = u.cost_limit + round(p_cost, 9), cost_granted = u.cost_granted + round(p_cost, 9),
        -- least() passes over NULL, which is never.
        grants_expire_at = least(u.grants_expire_at, p_expires_at)
    WHERE u.user_id = p_user;
    RETURN true;
END
$$;

-- Set a user's limits to those of the plan, but the overridden ones; what is used and granted stays.
CREATE FUNCTION quota_apply_plan(p_user uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM quota_lock(p_user);
    UPDATE user_quotas AS u
    SET tokens_limit = CASE WHEN 'tokens' = ANY (u.overridden) THEN u.tokens_limit
                            ELSE p.tokens_limit + u.tokens_granted END,
        cost_limit = CASE WHEN 'cost' = ANY (u.overridden) THEN u.cost_limit ELSE p.cost_limit + u.cost_granted END,
        containers_limit = CASE WHEN 'containers' = ANY (u.overridden) THEN u.containers_limit
                                ELSE p.containers_limit END,
        requests_limit = CASE WHEN 'requests' = ANY (u.overridden) THEN u.requests_limit ELSE p.requests_limit END,
        builds_limit = CASE WHEN 'builds' = ANY (u.overridden) THEN u.builds_limit ELSE p.builds_limit END,
        memory_limit = CASE WHEN 'memory' = ANY (u.overridden) THEN u.memory_limit ELSE p.memory_limit END,
        memory_hard = CASE WHEN 'memory' = ANY (u.overridden) THEN u.memory_hard ELSE p.memory_hard END
    FROM users AS o
    JOIN plans AS p ON p.name = o.plan
    WHERE u.user_id = p_user AND o.id = p_user;
END
$$;

-- Do that for the users of a plan after p_after in the order of ids, at most p_limit of them; the last one's id,
-- or NULL when there are no more. In the order of ids, so that two of us cannot deadlock.
CREATE FUNCTION quota_apply_plan_to_all(p_plan text, p_after uuid, p_limit integer) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    next_id uuid;
    last_id uuid;
BEGIN
    FOR next_id IN
        SELECT o.id FROM users AS o WHERE o.plan = p_plan AND o.id > p_after ORDER BY o.id LIMIT p_limit
    LOOP
        PERFORM quota_apply_plan(next_id);
        last_id := next_id;
    END LOOP;
    RETURN last_id;
END
$$;

-- Close the periods that have ended, of at most p_limit users; the number of them. Nothing depends on it:
-- every other call does the same for its own user.
CREATE FUNCTION quota_roll(p_limit integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    due uuid;
    rolled integer := 0;
BEGIN
    FOR due IN
        -- Who is locked is busy with a call that rolls. In the order of ids, so that two of us cannot deadlock.
        SELECT user_id FROM user_quotas WHERE period_end <= clock_timestamp()
        ORDER BY user_id LIMIT p_limit FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM quota_lock(due);
        rolled := rolled + 1;
    END LOOP;
    RETURN rolled;
END
$$;
