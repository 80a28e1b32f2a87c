"""Runs the multi-user smoke test against an environment. The one place that knows checks.smoke."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from chatservice.config import CHECKS_GRACE, Settings
from checks.smoke import CheckResult, Report, SmokeTarget, interruptible, run_smoke
from opskit.environment import SIGNING, Environment
from opskit.failure import Failure
from opskit.fleet import Fleet
from opskit.layout import PROXY_AUTHORITY
from opskit.target import Target
from opskit.tokens import signer


def smoke(
    fleet: Fleet,
    secrets: Mapping[str, bytes],
    *,
    number: int,
    users: int | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> Report:
    """Prove that an environment's service works; what the run leaves in it is forgotten.

    Args:
        fleet: where it is; the connections are spread over its nodes.
        secrets: what to sign tokens with.
        number: the release that serves; what it promises stands in its own settings, and it is
            asked to forget the run's workspaces.
        users: how many simulated users; the environment's own number by default.
        on_result: called with each result as soon as there is one.

    Raises:
        Misuse: there is nothing to sign tokens with.
    """
    environment, target = fleet.environment, fleet.lead
    settings = target.settings_of(number)
    signs = signer(environment, secrets, settings.auth)

    goal = SmokeTarget(
        base_url=reached_at(environment, settings),
        sign=signs.sign,
        sign_bad=signs.bad,
        origins=tuple(settings.auth.origins),
        presence_grace=min(settings.timing.presence_grace, CHECKS_GRACE),
        history_keep=settings.history.keep,
        text_limit=settings.limits.text,
        cleanup=Forgetting(target, number),
        certificates=authorities(fleet),
    )
    try:
        with interruptible():
            return asyncio.run(
                run_smoke(
                    goal,
                    users=environment.smoke.users if users is None else users,
                    delivery_bound=environment.smoke.delivery_ms / 1000,
                    deadline=environment.smoke.timeout,
                    on_result=on_result,
                    nodes=nodes_of(fleet, number),
                )
            )
    except ValueError as error:
        raise Failure(f"the smoke test cannot run: {error}") from None


def authorities(fleet: Fleet) -> str:
    """Give the certificates of the authorities that the hosts' proxies made for themselves.

    They come over SSH from hosts whose keys are verified, so that they can be trusted.
    """
    if not fleet.environment.base_url.startswith("https") or fleet.environment.target == "local":
        return ""
    return "".join(fleet.each(lambda node: node.executor.get(PROXY_AUTHORITY)))


class Forgetting:
    """Has workspaces forgotten: all that are asked for at one time by one command."""

    def __init__(self, target: Target, number: int) -> None:
        self._target = target
        self._number = number
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, workspace: str) -> None:
        """Have one forgotten.

        Raises:
            Failure: it, or another that was asked for meanwhile, could not be.
        """
        if workspace not in self._waiting:
            self._waiting[workspace] = asyncio.get_running_loop().create_future()
        mine = self._waiting[workspace]
        await asyncio.sleep(0)  # the others are about to ask, too
        if self._waiting:
            batch, self._waiting = self._waiting, {}
            words = ("ctl", "forget", *batch)
            try:
                await asyncio.to_thread(self._target.ask, self._number, *words, changes=True)
            except Failure as failure:
                for one in batch.values():
                    if not one.done():  # who asked may have given up
                        one.set_exception(Failure(str(failure)))
            else:
                for one in batch.values():
                    if not one.done():
                        one.set_result(None)
        await mine


def nodes_of(fleet: Fleet, number: int) -> tuple[str, ...]:
    """Give the addresses to spread connections over; on hosts there is one, in front of all."""
    if len(fleet.nodes) == 1 or fleet.environment.target != "local":
        return ()
    return tuple(reached_at(node.environment, node.settings_of(number)) for node in fleet.nodes)


def reached_at(environment: Environment, settings: Settings) -> str:
    """Give the URL of a release, which may have been deployed with another port."""
    if environment.target != "local":
        return environment.base_url
    return environment.base_url.replace(
        f":{environment.settings.service.port}", f":{settings.service.port}"
    )


def smoke_now(
    fleet: Fleet,
    *,
    users: int | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> Report:
    """Run the smoke test against what serves now.

    Raises:
        Failure: nothing serves.
        ConfigError: a secret that tokens are signed with is missing.
    """
    serving, environment = fleet.lead.survey().serving, fleet.environment
    if serving is None:
        raise Failure(
            f"{environment.name}: nothing serves", hint=f"opskit deploy {environment.name}"
        )
    secrets = environment.resolve_secrets(SIGNING)
    return smoke(fleet, secrets, number=serving.release, users=users, on_result=on_result)
