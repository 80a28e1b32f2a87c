"""The smallest environments that there are, one of each kind."""

from __future__ import annotations

from pathlib import Path

from opskit.environment import Environment
from opskit.environments import load_environments

DEV = """\
environments:
  dev:
    target: local
    root: .opskit/dev
    secrets:
      jwt_secret: generate
"""
PROD = """\
environments:
  prod:
    target: ssh
    hosts: [chat1.example.net]
    url: https://chat.example.net
    secrets:
      jwt_secret: env:CHAT_JWT_SECRET
"""


def dev(file: Path, more: str = "") -> Environment:
    file.write_text(DEV + more, encoding="utf-8")
    return load_environments(file).get("dev")
