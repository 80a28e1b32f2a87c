"""The command line that renders, deploys, proves, watches and rolls back the chat service.

Knowing and doing are apart. `environment`, `secrets`, `render`, `release` and `layer` know: they
read environments.yaml and build files, and touch no host. `commands` says, as plain data, what is
to be run; `transport` runs it; `deploy` puts the steps in order; `cli` parses, calls and shows.

Promises: a command that is killed breaks nothing, the next one mends it; what does not pass its
smoke test is never left serving; no secret is ever in a plan, a record, a log or an error.

A lower row never imports a higher one. opskit may use `chatservice` and `checks`; nothing there
imports opskit.
"""
