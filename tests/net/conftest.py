"""What the tests with peers in processes share: certificates, made once."""

from __future__ import annotations

import ssl

import pytest
import trustme

from .support import Tls


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate in files, and contexts for both sides."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    for_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(for_server)
    for_client = ssl.create_default_context()
    authority.configure_trust(for_client)
    return Tls(folder / "server.pem", folder / "authority.pem", for_server, for_client)
