"""TLS in front of a service, with a certificate that can be changed: what a proxy does."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Signs certificates of 127.0.0.1 for itself, all with one key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())

    def certificate(self, name: str, valid: timedelta) -> Path:
        """Write a certificate with its key; one that ends in the past is expired."""
        ends = datetime.now(UTC) + valid
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chat.test")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        signed = (
            x509.CertificateBuilder(
                subject, subject, self._key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(ends - timedelta(days=400))
            .not_valid_after(ends)
            .add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        path = self._directory / f"{name}.pem"
        path.write_bytes(
            signed.public_bytes(serialization.Encoding.PEM)
            + self._key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path


class TlsProxy:
    """Takes TLS off and passes everything on to a port of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    async def start(self, certificate: Path) -> str:
        """Listen; gives the address."""
        self.use(certificate)
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._context)
        return f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def use(self, certificate: Path) -> None:
        """Show another certificate to whoever connects from now on."""
        self._context.load_cert_chain(certificate)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, ours), _pass_on(theirs, writer))


async def _pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := await source.read(65536):
            to.write(chunk)
            await to.drain()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        to.close()
