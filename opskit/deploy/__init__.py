"""Deploying and rolling back: one module a step, and `plan`, which runs and undoes them.

Promises: a release that fails its health checks or its smoke test is never left serving; opskit
may be killed at any point, the service stays up, and the next deploy, rollback or stop mends
what was left; of several at once one goes ahead, and the others are told who it is.

Steps reach a host only through the executor, so that they run the same on this machine and over
SSH, and so that the plan is what would really be run.
"""
