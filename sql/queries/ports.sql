-- name: held (read)
-- Return the ports of a preview. The SDK gives a preview one port at most.
SELECT port FROM preview_ports WHERE user_id = %(user_id)s AND preview_id = %(preview_id)s AND machine = %(machine)s;

-- name: take
-- Give a preview a free port in place of its present port; return NULL if no port is free.
SELECT preview_port_take(%(user_id)s, %(preview_id)s, %(machine)s, %(first)s, %(last)s) AS port;

-- name: taken (read)
SELECT port, user_id, preview_id FROM preview_ports
WHERE machine = %(machine)s AND port BETWEEN %(first)s AND %(last)s
ORDER BY port;

-- name: living (read)
-- Return those of the given previews that are live. A preview that stopped or failed never comes back.
SELECT id FROM previews
WHERE user_id = ANY(%(user_ids)s) AND id = ANY(%(preview_ids)s) AND status IN ('creating', 'running', 'sleeping');

-- name: free
-- Free these ports, except those that another preview has got meanwhile.
DELETE FROM preview_ports AS p
USING unnest(%(ports)s::integer[], %(preview_ids)s::uuid[]) AS dead (port, preview_id)
WHERE p.machine = %(machine)s AND p.port = dead.port AND p.preview_id = dead.preview_id;

-- name: release
DELETE FROM preview_ports WHERE user_id = %(user_id)s AND preview_id = %(preview_id)s;
