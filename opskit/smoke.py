"""Runs the multi-user smoke test against an environment. The one place that knows checks.smoke."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable, Mapping

from chatservice.config import Settings, SettingsError, settings_from
from checks.smoke import CheckResult, Report, SmokeTarget, run_smoke
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.target import Target
from opskit.tokens import signer


def smoke(
    target: Target,
    secrets: Mapping[str, bytes],
    *,
    number: int,
    users: int | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> Report:
    """Prove that an environment's service works; what the run leaves in it is forgotten.

    Args:
        target: where it is.
        secrets: what to sign tokens with.
        number: the release that serves; what it promises stands in its own settings, and it is
            asked to forget the run's workspaces.
        users: how many simulated users; the environment's own number by default.
        on_result: called with each result as soon as there is one.

    Raises:
        Misuse: there is nothing to sign tokens with.
    """
    environment = target.environment
    settings = settings_of(target, number)
    signs = signer(environment, secrets, settings.auth)

    async def forget(workspace: str) -> None:
        await asyncio.to_thread(target.ask, number, "ctl", "forget", workspace, changes=True)

    goal = SmokeTarget(
        base_url=reached_at(environment, settings),
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


def settings_of(target: Target, number: int) -> Settings:
    """Give the settings that a release was deployed with.

    They may differ from those configured now. What this version cannot read is taken from now.
    """
    text = target.executor.get(target.layout.settings(number))
    try:
        return settings_from(tomllib.loads(text), where=release_name(number))
    except (tomllib.TOMLDecodeError, SettingsError):
        return target.environment.settings


def reached_at(environment: Environment, settings: Settings) -> str:
    """Give the URL of a release, which may have been deployed with another port."""
    if environment.target != "local":
        return environment.base_url
    return environment.base_url.replace(
        f":{environment.settings.service.port}", f":{settings.service.port}"
    )


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
