-- readable-from: 1
--
-- Who is online where. Unlogged: it is true for seconds only, and written anew after a crash.

CREATE UNLOGGED TABLE nodes (
  node    text PRIMARY KEY,
  expires timestamptz NOT NULL  -- the lease; each heartbeat moves it
);

CREATE UNLOGGED TABLE presence (
  workspace text NOT NULL,
  node      text NOT NULL,
  member    text NOT NULL,
  name      text NOT NULL,
  PRIMARY KEY (workspace, node, member)
);

CREATE INDEX presence_by_node ON presence (node);
