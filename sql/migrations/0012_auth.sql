-- Signing in: what a session cannot become.
--
-- A session only ever ends: one that was revoked stays revoked, none lives longer than its token says, and none changes
-- its token or its owner. Then whoever can write to this table by a mistake of an application cannot let anybody back in.
-- Refused with SQLSTATE 23T01, as illegal changes of status are everywhere.
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

-- The condition stands here: `last_seen_at` moves with the traffic, and then no function is called.
CREATE TRIGGER sessions_refuse_return BEFORE UPDATE ON sessions
FOR EACH ROW WHEN (
    (NEW.is_active AND NOT OLD.is_active) OR NEW.expires_at > OLD.expires_at OR NEW.token_hash <> OLD.token_hash
    OR NEW.user_id <> OLD.user_id OR NEW.id <> OLD.id
)
EXECUTE FUNCTION refuse_session_return();
