"""The faults, each with the checks that must go red for it.

`FAULTS` is the table: for every check of the smoke test there is at least one fault that it, and
as few others as can be, must notice. A fault either changes the service's code while it starts
(`apply`), or is a wrong setting (`overrides`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.checks.smoke import faults_door, faults_record, faults_room
from tests.checks.smoke.target import ORIGINS

PRESENCE_GRACE: Final = 0.4
Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Fault:
    """One way in which the service is broken.

    Attributes:
        red: the checks that must fail.
        apply: breaks the service from within.
        overrides: settings that are not those that the target promises.
        may: further checks that may fail, as a consequence that depends on timing.
        bound: the delivery bound, in seconds, for this fault.
        grace: the grace period, in seconds; longer where a blink must fit in on a busy machine.
    """

    red: frozenset[str]
    apply: Callable[[], None] = lambda: None
    overrides: Overrides = field(default_factory=dict)
    may: frozenset[str] = frozenset()
    bound: float = 5.0
    grace: float = PRESENCE_GRACE


def _of(
    *red: str,
    by: Callable[[], None] = lambda: None,
    overrides: Overrides | None = None,
    may: tuple[str, ...] = (),
    bound: float = 5.0,
    grace: float = PRESENCE_GRACE,
) -> Fault:
    return Fault(frozenset(red), by, overrides or {}, frozenset(may), bound, grace)


_door, _record, _room = faults_door, faults_record, faults_room

FAULTS: Final[dict[str, Fault]] = {
    # --- the service itself
    "unhealthy": _of("health", by=_door.unhealthy),
    "unready": _of("ready", by=_door.unready),
    "nameless": _of("version", by=_door.nameless),
    # --- several users
    "full": _of(
        "connect", "token_carriers", "allowed_origin", "renewal", "renewal_refused", by=_door.full
    ),
    "tokens-checked-slowly": _of(
        "connect",
        "bad_token",
        "expired_token",
        "foreign_workspace",
        "token_carriers",
        "allowed_origin",
        "cors",
        "renewal",
        "renewal_refused",
        by=_door.tokens_checked_slowly,
    ),
    "frames-binary": _of(
        "connect", "token_carriers", "renewal", "renewal_refused", by=_room.frames_binary
    ),
    "type-last": _of("connect", "token_carriers", "renewal", "renewal_refused", by=_room.type_last),
    "commit-hangs": _of("delivery", by=_record.commit_hangs),
    "welcome-without-others": _of("online", "isolation", by=_room.welcome_without_others),
    "arrivals-unannounced": _of("online", "offline", "isolation", by=_room.arrivals_unannounced),
    "message-lost": _of("delivery", by=_room.message_lost),
    "message-garbled": _of("delivery", by=_room.message_garbled),
    "message-late": _of("delivery", by=_room.message_late, bound=0.25),
    "order-differs": _of("order", by=_room.order_differs),
    "number-skipped": _of(
        "order", by=_room.number_skipped, may=("history", "history_api", "resume", "client")
    ),
    "ack-with-wrong-number": _of("ack", "client", by=_room.ack_with_wrong_number),
    "ack-twice": _of("ack", by=_room.ack_twice),
    "repeat-with-new-number": _of("repeated_id", by=_room.repeat_with_new_number),
    "repeat-sent-again": _of("repeated_id", by=_room.repeat_sent_again),
    "repeat-stored-again": _of(
        "repeated_id",
        by=_record.repeat_stored_again,
        may=("history", "history_api", "members_api"),
    ),
    "typing-lost": _of("typing", by=_room.typing_lost),
    "typing-echoed": _of("typing", by=_room.typing_echoed),
    "text-unlimited": _of("too_long", by=_room.text_unlimited, may=("members_api",)),
    "text-limit-lower": _of("too_long", overrides={"limits": {"text": 1000}}),
    # --- what is kept
    "members-all-offline": _of("members_api", by=_record.members_all_offline),
    "members-miscounted": _of("members_api", "unread_offline", by=_record.members_miscounted),
    "newest-withheld": _of("history", by=_record.newest_withheld),
    "page-off-by-one": _of("history", "history_api", by=_record.page_off_by_one),
    "api-with-other-epoch": _of("history_api", by=_record.api_with_other_epoch),
    # --- unread
    "unread-miscounted": _of("unread", by=_room.unread_miscounted),
    "cursor-moves-back": _of("unread", by=_record.cursor_moves_back),
    "cursor-for-one-device": _of("unread_devices", by=_room.cursor_for_one_device),
    "cursor-for-everybody": _of("unread_devices", by=_room.cursor_for_everybody),
    "own-unread": _of("unread_own", by=_record.own_unread),
    "coming-back-reads": _of(
        "unread_offline", by=_record.coming_back_reads, may=("unread", "isolation_kept")
    ),
    # --- coming back
    "resume-repeats": _of("resume", by=_record.resume_repeats),
    "resume-loses": _of("resume", by=_record.resume_loses),
    "resume-refused": _of("resume", by=_record.resume_refused),
    "resume-loses-newest": _of("resume", by=_record.resume_loses_newest),
    "epoch-ignored": _of("other_epoch", by=_room.epoch_ignored),
    "future-believed": _of("ahead", by=_room.future_believed),
    # --- going away
    "grace-halved": _of("offline", overrides={"timing": {"presence_grace": 1.0}}, grace=2.0),
    "grace-endless": _of(
        "offline", by=_room.grace_as_set, overrides={"timing": {"presence_grace": 600.0}}
    ),
    "ghost-welcomed": _of("offline", by=_room.ghost_welcomed),
    "one-device-is-all": _of("second_device", by=_room.one_device_is_all),
    "blink-shown": _of("short_absence", by=_room.blink_shown, grace=2.0),
    # --- other workspaces
    "typing-leaks": _of("isolation", by=_room.typing_leaks),
    "rooms-merged": _of("isolation", by=_room.rooms_merged),
    "history-leaks": _of("isolation_kept", by=_record.history_leaks),
    "members-leak": _of("isolation_kept", by=_record.members_leak),
    # --- the door
    "anonymous-let-in": _of("no_token", by=_door.anonymous_let_in),
    "signature-unchecked": _of("bad_token", "renewal_refused", by=_door.signature_unchecked),
    "expiry-unchecked": _of("expired_token", by=_door.expiry_unchecked),
    "workspace-unchecked": _of("foreign_workspace", by=_door.workspace_unchecked),
    "query-token-ignored": _of("token_carriers", by=_door.query_token_ignored),
    "subprotocol-unanswered": _of("allowed_origin", by=_door.subprotocol_unanswered),
    "origin-unchecked": _of("foreign_origin", "cors", by=_door.origin_unchecked),
    "origin-missing": _of(
        "allowed_origin", "cors", "preflight", overrides={"auth": {"origins": list(ORIGINS[:1])}}
    ),
    "cors-for-all": _of("cors", by=_door.cors_for_all),
    "preflight-refused": _of("preflight", by=_door.preflight_refused),
    "renewal-with-other-expiry": _of("renewal", by=_door.renewal_with_other_expiry),
    "renewal-refused-closes": _of("renewal_refused", by=_door.renewal_refused_closes),
}

HARMLESS: Final[dict[str, Fault]] = {
    "tokens-checked-in-time": _of(by=_door.tokens_checked_in_time),
    "tokens-checked-at-leisure": _of(by=_door.tokens_checked_at_leisure),
}
"""Ways in which a service may be, and be well all the same."""
