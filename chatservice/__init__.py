"""The chat service: one WebSocket room per workspace, durable, ordered, resumable.

Promises: an acknowledged message is on disk; each workspace numbers its messages 1, 2, 3 ...
without a gap and every member sees that order whole, once; a reconnecting client that says the
last number it saw misses and repeats nothing.

A frame travels `connection -> server -> room -> committer -> store`, and back the same way. A
lower row never imports a higher one, and nothing here ever imports `opskit` or `checks`.
"""
