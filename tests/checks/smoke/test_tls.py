"""Over https and wss, as behind the proxy of a production host."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from checks.smoke import run_smoke
from tests.checks.smoke.target import SETTINGS, target_of
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "smoke test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextlib.asynccontextmanager
async def tls_in_front_of(service: ServiceProcess, certificate: Path) -> AsyncIterator[str]:
    """Take TLS off and pass everything on, as a proxy does; give the https address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while chunk := await source.read(65536):
                to.write(chunk)
                await to.drain()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            to.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", service.port)
        await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_every_check_passes_over_tls(
    service_factory: ServiceFactory, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection and request of the run goes through TLS, verified."""
    service = service_factory(SETTINGS)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async with tls_in_front_of(service, certificate) as url:
        report = await run_smoke(target_of(service, base_url=url), delivery_bound=30.0)

    assert {
        result.name: result.detail for result in report.results if result.verdict != "passed"
    } == {}


async def test_an_unknown_certificate_is_not_trusted(
    service_factory: ServiceFactory, certificate: Path
) -> None:
    """The tokens of the run go to nobody whose certificate does not verify."""
    service = service_factory(SETTINGS)

    async with tls_in_front_of(service, certificate) as url:
        report = await run_smoke(target_of(service, base_url=url))

    (failed,) = report.failures
    assert failed.name == "answers"
    assert "certificate verify failed" in failed.detail.lower()
