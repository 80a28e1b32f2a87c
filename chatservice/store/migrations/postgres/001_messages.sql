-- readable-from: 1
--
-- Workspaces, their messages, who has been there, and how far each has read; and the one function
-- through which messages come in.

CREATE TABLE workspaces (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text   NOT NULL UNIQUE,
  epoch      text   NOT NULL,
  seq        bigint NOT NULL DEFAULT 0,  -- the newest number given out
  pruned     bigint NOT NULL DEFAULT 0,  -- no message up to this number is kept any more
  created_ts bigint NOT NULL             -- milliseconds since the Unix epoch
) WITH (fillfactor = 50);  -- every commit updates the row in place, in the same page

CREATE TABLE messages (
  workspace_id bigint NOT NULL,
  seq          bigint NOT NULL,
  ts           bigint NOT NULL,  -- milliseconds since the Unix epoch
  sender       text   NOT NULL,
  id           text   NOT NULL,  -- the sender's own
  name         text   NOT NULL,
  text         text   NOT NULL,
  PRIMARY KEY (workspace_id, seq)
);

-- Stores a message once, and counts a user's own messages without reading them.
CREATE UNIQUE INDEX messages_by_sender ON messages (workspace_id, sender, id) INCLUDE (seq, ts);

CREATE TABLE members (
  workspace_id bigint NOT NULL,
  member       text   NOT NULL,
  name         text   NOT NULL,
  read         bigint NOT NULL,  -- the cursor: everything up to this number is read
  PRIMARY KEY (workspace_id, member)
) WITH (fillfactor = 70);

-- One row, written by every health check.
CREATE TABLE heartbeat (
  one integer PRIMARY KEY CHECK (one = 1),
  ts  bigint NOT NULL
);

-- Whose history this is. It changes when a standby was promoted (a new timeline) and when the
-- database was restored into another cluster; then nobody can say whether the tail is complete.
CREATE FUNCTION chat_lineage() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT (SELECT system_identifier::text FROM pg_control_system())
    || '-' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
$$;

-- One batch: numbers and stores messages, then moves cursors. Called as a statement of its own,
-- so that no lock is held across a round trip: a client that freezes holds nobody up.
--
-- Rows of workspaces are locked first, in the order of their ids, then those of members, in order
-- too, so that two batches never wait for each other in a circle.
CREATE FUNCTION chat_commit(
  keep bigint, slack bigint,
  a_workspace text[], a_sender text[], a_name text[], a_id text[], a_text text[], a_ts bigint[],
  c_workspace text[], c_member text[], c_seq bigint[],
  OUT seqs bigint[], OUT tss bigint[], OUT repeats boolean[],
  OUT reads bigint[], OUT unreads bigint[], OUT newest bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
  missing text;
BEGIN
  PERFORM 1 FROM workspaces w WHERE w.name = ANY (a_workspace) ORDER BY w.id FOR UPDATE;

  SELECT x INTO missing FROM unnest(a_workspace || c_workspace) AS x
  WHERE NOT EXISTS (SELECT 1 FROM workspaces w WHERE w.name = x) LIMIT 1;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'workspace % does not exist', quote_literal(missing) USING ERRCODE = 'CS001';
  END IF;

  IF cardinality(a_workspace) > 0 THEN
    WITH input AS MATERIALIZED (
      SELECT x.*, w.id AS wid, w.seq AS base, greatest(w.pruned, w.seq - keep) AS floor
      FROM unnest(a_workspace, a_sender, a_name, a_id, a_text, a_ts)
        WITH ORDINALITY AS x (workspace, sender, name, id, text, ts, ord)
      JOIN workspaces w ON w.name = x.workspace
    ), known AS MATERIALIZED (
      SELECT i.ord, m.seq, m.ts FROM input i
      JOIN messages m ON m.workspace_id = i.wid AND m.sender = i.sender AND m.id = i.id
      WHERE m.seq > i.floor
    ), fresh AS MATERIALIZED (
      SELECT DISTINCT ON (i.wid, i.sender, i.id) i.*
      FROM input i LEFT JOIN known k ON k.ord = i.ord
      WHERE k.ord IS NULL
      ORDER BY i.wid, i.sender, i.id, i.ord
    ), numbered AS MATERIALIZED (
      SELECT f.*, f.base + row_number() OVER (PARTITION BY f.wid ORDER BY f.ord) AS seq
      FROM fresh f
    ), stored AS (
      INSERT INTO messages AS m (workspace_id, seq, ts, sender, id, name, text)
      SELECT n.wid, n.seq, n.ts, n.sender, n.id, n.name, n.text FROM numbered n
      -- It fell out of history, but is still on disk: the id is free again.
      ON CONFLICT (workspace_id, sender, id) DO UPDATE
      SET seq = excluded.seq, ts = excluded.ts, name = excluded.name, text = excluded.text
    ), counted AS (
      UPDATE workspaces w SET seq = w.seq + c.count
      FROM (SELECT n.wid, count(*) AS count FROM numbered n GROUP BY n.wid) AS c
      WHERE w.id = c.wid
    )
    SELECT array_agg(coalesce(k.seq, n.seq) ORDER BY i.ord),
           array_agg(coalesce(k.ts, n.ts) ORDER BY i.ord),
           array_agg(n.ord IS DISTINCT FROM i.ord ORDER BY i.ord)
    INTO seqs, tss, repeats
    FROM input i
    LEFT JOIN known k ON k.ord = i.ord
    LEFT JOIN numbered n ON k.ord IS NULL
      AND n.wid = i.wid AND n.sender = i.sender AND n.id = i.id;

    -- Amortised: a workspace is pruned when a slack's worth has piled up.
    WITH due AS (
      SELECT w.id, w.seq - keep AS floor FROM workspaces w
      WHERE w.name = ANY (a_workspace) AND w.seq - keep >= w.pruned + slack
    ), gone AS (
      DELETE FROM messages m USING due WHERE m.workspace_id = due.id AND m.seq <= due.floor
    )
    UPDATE workspaces w SET pruned = due.floor FROM due WHERE w.id = due.id;
  END IF;

  IF cardinality(c_workspace) > 0 THEN
    INSERT INTO members AS m (workspace_id, member, name, read)
    SELECT w.id, c.member, c.member, greatest(0, least(max(c.seq), w.seq))
    FROM unnest(c_workspace, c_member, c_seq) AS c (workspace, member, seq)
    JOIN workspaces w ON w.name = c.workspace
    GROUP BY w.id, w.seq, c.member ORDER BY w.id, c.member
    ON CONFLICT (workspace_id, member) DO UPDATE SET read = excluded.read
    WHERE excluded.read > m.read;

    SELECT array_agg(m.read ORDER BY c.ord),
           array_agg(w.seq - s.seen - (
             SELECT count(*) FROM messages own
             WHERE own.workspace_id = w.id AND own.sender = c.member
               AND own.seq > s.seen AND own.seq <= w.seq) ORDER BY c.ord),
           array_agg(w.seq ORDER BY c.ord)
    INTO reads, unreads, newest
    FROM unnest(c_workspace, c_member) WITH ORDINALITY AS c (workspace, member, ord)
    JOIN workspaces w ON w.name = c.workspace
    JOIN members m ON m.workspace_id = w.id AND m.member = c.member
    CROSS JOIN LATERAL (SELECT greatest(m.read, w.pruned, w.seq - keep) AS seen) AS s;
  END IF;
END
$$;
