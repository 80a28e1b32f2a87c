-- readable-from: 1
--
-- A message is repeated when the first one is still in history at its turn, and not at the
-- beginning of its batch; and no number is taken away from a message that is out of history, which
-- would be a gap if more of it were kept later.

-- Numbers and stores messages one after the other: for the rare batch in which a message may be
-- pushed out of history before the same id comes again. The rows of the workspaces are locked.
CREATE FUNCTION chat_append_one_by_one(
  keep bigint,
  a_workspace text[], a_sender text[], a_name text[], a_id text[], a_text text[], a_ts bigint[],
  OUT seqs bigint[], OUT tss bigint[], OUT repeats boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
  one record;
  room record;
  before record;
BEGIN
  FOR one IN
    SELECT * FROM unnest(a_workspace, a_sender, a_name, a_id, a_text, a_ts)
      WITH ORDINALITY AS x (workspace, sender, name, id, text, ts, ord) ORDER BY ord
  LOOP
    SELECT w.id, w.seq, greatest(w.pruned, w.seq - keep) AS floor INTO room
    FROM workspaces w WHERE w.name = one.workspace;
    SELECT m.seq, m.ts INTO before FROM messages m
    WHERE m.workspace_id = room.id AND m.sender = one.sender AND m.id = one.id;
    IF before.seq > room.floor THEN
      seqs := seqs || before.seq;
      tss := tss || before.ts;
      repeats := repeats || true;
      CONTINUE;
    END IF;
    IF before.seq IS NOT NULL THEN  -- out of history, but still on disk: the id is free again
      DELETE FROM messages m WHERE m.workspace_id = room.id AND m.seq <= room.floor;
      UPDATE workspaces w SET pruned = room.floor WHERE w.id = room.id;
    END IF;
    INSERT INTO messages (workspace_id, seq, ts, sender, id, name, text)
    VALUES (room.id, room.seq + 1, one.ts, one.sender, one.id, one.name, one.text);
    UPDATE workspaces w SET seq = room.seq + 1 WHERE w.id = room.id;
    seqs := seqs || (room.seq + 1);
    tss := tss || one.ts;
    repeats := repeats || false;
  END LOOP;
END
$$;

-- One batch: numbers and stores messages, then moves cursors. Called as a statement of its own,
-- so that no lock is held across a round trip: a client that freezes holds nobody up.
--
-- Rows of workspaces are locked first, in the order of their ids, then those of members, in order
-- too, so that two batches never wait for each other in a circle.
CREATE OR REPLACE FUNCTION chat_commit(
  keep bigint, slack bigint,
  a_workspace text[], a_sender text[], a_name text[], a_id text[], a_text text[], a_ts bigint[],
  c_workspace text[], c_member text[], c_seq bigint[],
  OUT seqs bigint[], OUT tss bigint[], OUT repeats boolean[],
  OUT reads bigint[], OUT unreads bigint[], OUT newest bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
  missing text;
  known_ords bigint[];
  known_seqs bigint[];
  known_tss bigint[];
  delicate boolean;
BEGIN
  PERFORM 1 FROM workspaces w WHERE w.name = ANY (a_workspace) ORDER BY w.id FOR UPDATE;

  SELECT x INTO missing FROM unnest(a_workspace || c_workspace) AS x
  WHERE NOT EXISTS (SELECT 1 FROM workspaces w WHERE w.name = x) LIMIT 1;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'workspace % does not exist', quote_literal(missing) USING ERRCODE = 'CS001';
  END IF;

  IF cardinality(a_workspace) > 0 THEN
    -- What is on disk under these ids; mostly nothing. `delicate`: it is out of history, or
    -- this batch may push it out before its own turn comes.
    SELECT array_agg(i.ord), array_agg(m.seq), array_agg(m.ts),
      bool_or(m.seq <= i.seq + i.arriving - keep)
    INTO known_ords, known_seqs, known_tss, delicate
    FROM (
      SELECT x.*, w.id AS wid, w.seq, count(*) OVER (PARTITION BY w.id) AS arriving
      FROM unnest(a_workspace, a_sender, a_id) WITH ORDINALITY AS x (workspace, sender, id, ord)
      JOIN workspaces w ON w.name = x.workspace
    ) AS i
    JOIN messages m ON m.workspace_id = i.wid AND m.sender = i.sender AND m.id = i.id;

    -- The batch alone may be longer than history, and repeat what it has pushed out itself.
    IF cardinality(a_workspace) > keep THEN
      delicate := delicate IS TRUE OR EXISTS (
        SELECT 1 FROM unnest(a_workspace, a_sender, a_id) AS x (workspace, sender, id)
        GROUP BY x.workspace, x.sender, x.id HAVING count(*) > 1);
    END IF;

    IF delicate THEN
      SELECT one.seqs, one.tss, one.repeats INTO seqs, tss, repeats
      FROM chat_append_one_by_one(keep, a_workspace, a_sender, a_name, a_id, a_text, a_ts) AS one;
    ELSE
      WITH input AS MATERIALIZED (
        SELECT x.*, w.id AS wid, w.seq AS base
        FROM unnest(a_workspace, a_sender, a_name, a_id, a_text, a_ts)
          WITH ORDINALITY AS x (workspace, sender, name, id, text, ts, ord)
        JOIN workspaces w ON w.name = x.workspace
      ), known AS MATERIALIZED (
        SELECT * FROM unnest(known_ords, known_seqs, known_tss) AS k (ord, seq, ts)
      ), fresh AS MATERIALIZED (
        SELECT DISTINCT ON (i.wid, i.sender, i.id) i.*
        FROM input i LEFT JOIN known k ON k.ord = i.ord
        WHERE k.ord IS NULL
        ORDER BY i.wid, i.sender, i.id, i.ord
      ), numbered AS MATERIALIZED (
        SELECT f.*, f.base + row_number() OVER (PARTITION BY f.wid ORDER BY f.ord) AS seq
        FROM fresh f
      ), stored AS (
        INSERT INTO messages (workspace_id, seq, ts, sender, id, name, text)
        SELECT n.wid, n.seq, n.ts, n.sender, n.id, n.name, n.text FROM numbered n
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
    END IF;

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
