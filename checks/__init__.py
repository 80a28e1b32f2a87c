"""What proves that a chat service works, and what is wrong with it when it does not.

Each check is a small function with a plain verdict. Checks may use the wire and the client of
chatservice; nothing here imports opskit, which calls the checks.
"""
