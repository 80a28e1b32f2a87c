-- readable-from: 1
--
-- Workspaces, their messages, who has been there, and how far each has read.

CREATE TABLE workspaces (
  id         INTEGER PRIMARY KEY,
  name       TEXT    NOT NULL UNIQUE,
  epoch      TEXT    NOT NULL,
  seq        INTEGER NOT NULL,  -- the newest number given out
  pruned     INTEGER NOT NULL,  -- no message up to this number is kept any more
  created_ts INTEGER NOT NULL   -- milliseconds since the Unix epoch
) STRICT;

-- Clustered by workspace and number, so that a page of history is one range of the file. The
-- text comes last: a long one then spills over without taking the other columns with it.
CREATE TABLE messages (
  workspace_id INTEGER NOT NULL,
  seq          INTEGER NOT NULL,
  ts           INTEGER NOT NULL,  -- milliseconds since the Unix epoch
  user         TEXT    NOT NULL,
  id           TEXT    NOT NULL,  -- the sender's own
  name         TEXT    NOT NULL,
  text         TEXT    NOT NULL,
  PRIMARY KEY (workspace_id, seq)
) STRICT, WITHOUT ROWID;

-- Stores a message once, and counts a user's own messages without reading them.
CREATE UNIQUE INDEX messages_by_sender ON messages (workspace_id, user, id);

CREATE TABLE members (
  workspace_id INTEGER NOT NULL,
  user         TEXT    NOT NULL,
  name         TEXT    NOT NULL,
  read         INTEGER NOT NULL,  -- the cursor: everything up to this number is read
  PRIMARY KEY (workspace_id, user)
) STRICT, WITHOUT ROWID;

-- One row, written by every health check.
CREATE TABLE heartbeat (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  ts  INTEGER NOT NULL
) STRICT;
