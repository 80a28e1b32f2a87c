"""A mail server that keeps what it is given: SMTP (RFC 5321) with STARTTLS (RFC 3207)."""

from __future__ import annotations

import base64
import email
import email.policy
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest


class Mailbox(socketserver.ThreadingTCPServer):
    """Takes mail on a port of its own.

    Args:
        certificate: for STARTTLS; None: it knows none.
        login: `user:password` without which it takes nothing; empty: from anybody.
    """

    daemon_threads = True

    def __init__(self, certificate: Path | None = None, login: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.tls = None
        if certificate is not None:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(certificate)
        self.login = login
        self.mail: list[EmailMessage] = []
        self.encrypted: list[bool] = []
        self._news = threading.Condition()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def take(self, message: bytes, *, encrypted: bool) -> None:
        with self._news:
            parsed: Any = email.message_from_bytes(message, policy=email.policy.default)
            self.mail.append(parsed)
            self.encrypted.append(encrypted)
            self._news.notify_all()

    def wait(self, count: int, seconds: float = 45.0) -> list[EmailMessage]:
        """Wait until there are so many."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.mail) >= count, seconds):
                pytest.fail(f"{len(self.mail)} mails came in {seconds:g} s, not {count}")
            return list(self.mail)


class _Session(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        encrypted, known = False, not self.server.login
        self._say("220 mail.test")
        while line := self.rfile.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            match verb.upper():
                case "EHLO":
                    self._say("250-mail.test")
                    if self.server.tls is not None and not encrypted:
                        self._say("250-STARTTLS")
                    self._say("250 AUTH PLAIN" if self.server.login else "250 8BITMIME")
                case "STARTTLS" if self.server.tls is not None:
                    self._say("220 go on")
                    secured = self.server.tls.wrap_socket(self.request, server_side=True)
                    self.rfile, self.wfile = secured.makefile("rb"), secured.makefile("wb")
                    encrypted = True
                case "AUTH":
                    given = base64.b64decode(rest.partition(" ")[2]).decode().split("\0")
                    known = ":".join(given[1:]) == self.server.login
                    self._say("235 welcome" if known else "535 who are you?")
                case "MAIL" | "RCPT":
                    self._say("250 fine" if known else "530 who are you?")
                case "DATA":
                    self._say("354 go on")
                    self.server.take(self._message(), encrypted=encrypted)
                    self._say("250 taken")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("502 what?")

    def _message(self) -> bytes:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return b"".join(lines)

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
        self.wfile.flush()


@contextmanager
def receiving_mail(certificate: Path | None = None, login: str = "") -> Iterator[Mailbox]:
    """Take mail until the end of the block."""
    with Mailbox(certificate, login) as mailbox:
        thread = threading.Thread(target=mailbox.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield mailbox
        finally:
            mailbox.shutdown()
            thread.join()
