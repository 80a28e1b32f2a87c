"""Runs the multi-user smoke test against an environment. The one place that knows checks.smoke."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from checks.smoke import CheckResult, Report, SmokeTarget, run_smoke
from opskit.failure import Failure
from opskit.target import Target
from opskit.tokens import signer


def smoke(
    target: Target,
    secrets: Mapping[str, bytes],
    *,
    number: int,
    base_url: str = "",
    users: int | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> Report:
    """Prove that an environment's service works; what the run leaves in it is forgotten.

    Args:
        target: where it is.
        secrets: what to sign tokens with.
        number: the release that serves; it is asked to forget the run's workspaces.
        base_url: where to reach it, when that is not the environment's URL.
        users: how many simulated users; the environment's own number by default.
        on_result: called with each result as soon as there is one.

    Raises:
        Misuse: there is nothing to sign tokens with.
    """
    environment = target.environment
    signs, settings = signer(environment, secrets), environment.settings

    async def forget(workspace: str) -> None:
        await asyncio.to_thread(target.ask, number, "ctl", "forget", workspace, changes=True)

    goal = SmokeTarget(
        base_url=base_url or environment.base_url,
        sign=signs.sign,
        sign_bad=signs.bad,
        origins=tuple(settings.auth.origins),
        presence_grace=settings.timing.presence_grace,
        history_keep=settings.history.keep,
        text_limit=settings.limits.text,
        cleanup=forget,
    )
    try:
        return asyncio.run(
            run_smoke(
                goal,
                users=environment.smoke.users if users is None else users,
                delivery_bound=environment.smoke.delivery_ms / 1000,
                deadline=environment.smoke.timeout,
                on_result=on_result,
            )
        )
    except ValueError as error:
        raise Failure(f"the smoke test cannot run: {error}") from None


def smoke_now(
    target: Target,
    *,
    users: int | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> Report:
    """Run the smoke test against what serves now.

    Raises:
        Failure: nothing serves.
        ConfigError: a secret that tokens are signed with is missing.
    """
    serving, environment = target.survey().serving, target.environment
    if serving is None:
        raise Failure(
            f"{environment.name}: nothing serves", hint=f"opskit deploy {environment.name}"
        )
    secrets = environment.resolve_secrets()
    return smoke(target, secrets, number=serving.release, users=users, on_result=on_result)
