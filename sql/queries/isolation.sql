-- name: login
-- Whether row-level security applies to who is connected, and whether that one may act for a tenant.
SELECT row_security_active('users') AS walled,
       coalesce((SELECT pg_has_role(r.oid, 'MEMBER') FROM pg_roles AS r WHERE r.rolname = 'atlas_app'), false)
           AS may_act_as_user;
