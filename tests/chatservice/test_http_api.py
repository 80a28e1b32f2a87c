"""What members may ask for over HTTP: pages of the past, and who is a member."""

from __future__ import annotations

import pytest

from tests.chatservice.wire import Answer, Wire, bearer, eventually, http
from tests.service_process import Overrides, ServiceProcess


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "history": {"keep": 100, "newest": 5, "page": 20},
        "timing": {"presence_grace": 0.0},
    }


def test_history_and_members_are_given_to_members(module_service: ServiceProcess) -> None:
    workspace = "api"
    with (
        Wire.join(module_service, workspace, "ann") as ann,
        Wire.join(module_service, workspace, "bob"),
    ):
        for number in range(1, 31):
            ann.send("send", id=str(number), text=f"text {number}")
        ann.until("ack", id="30")
        ann.send("read", seq=10)
        ann.until("read")
        headers = bearer(module_service.token("bob", workspace))

        def get(path: str) -> Answer:
            return http(module_service, f"/api/chat/workspace/{workspace}/{path}", headers)

        for query, expected, more in (
            ("", range(11, 31), True),
            ("?limit=3", range(28, 31), True),
            ("?limit=1000", range(11, 31), True),
            ("?before=5", range(1, 5), False),
            ("?before=5&limit=2", range(3, 5), True),
            ("?before=1", range(0), False),
            ("?before=0", range(0), False),
            ("?before=999999999999999", range(11, 31), True),
            ("?limit=0", range(30, 31), True),
        ):
            answer = get(f"messages{query}")
            assert answer.status == 200
            page = answer.json
            assert list(page) == ["epoch", "seq", "messages", "more"]
            assert (page["epoch"], page["seq"]) == (ann.welcome["epoch"], 30)
            assert [m["seq"] for m in page["messages"]] == list(expected), query
            assert page["more"] is more
        message = get("messages?before=2").json["messages"][0]
        assert message == {
            "type": "message",
            "seq": 1,
            "id": "1",
            "user": "ann",
            "name": "ann",
            "text": "text 1",
            "ts": message["ts"],
        }
        for query in ("?before=x", "?limit=-1", "?before="):
            assert get(f"messages{query}").status == 400
        assert get("members").json == {
            "members": [
                {"user": "ann", "name": "ann", "state": "online", "read": 10, "unread": 0},
                {"user": "bob", "name": "bob", "state": "online", "read": 0, "unread": 30},
            ]
        }
    eventually(lambda: {m["state"] for m in get("members").json["members"]} == {"offline"})
