"""The web store against real servers: credentials, TLS, proxies, and answers that are not the file."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge_agent.control.fetch import Polled, StoreFileMissingError, open_store
from edge_agent.documents.errors import StoreUnreachableError
from edge_agent.documents.settings import StoreSettings


@dataclass
class Answers:
    """What a server answers with, and the requests that it got."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"content"
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    to: Callable[[str, dict[str, str]], "Answers"] | None = None


@contextmanager
def serving(answers: Answers, context: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = dict(self.headers.items())
            answers.requests.append((self.path, headers))
            answer = answers if answers.to is None else answers.to(self.path, headers)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="server", daemon=True)
        thread.start()
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(url: str, **fields: str) -> bytes:
    with closing(open_store(StoreSettings(url=url, timeout_s=5, **fields))) as store:
        return store.get("a/b+c.json", 100)


class TestRequests:
    def test_paths_are_quoted_below_the_base(self) -> None:
        answers = Answers()
        with serving(answers) as url:
            assert get(f"{url}/deep/store/") == b"content"
        ((path, headers),) = answers.requests
        assert path == "/deep/store/a/b%2Bc.json"
        assert headers["Accept-Encoding"] == "identity"
        assert headers["User-Agent"].startswith("edge-agent/")

    def test_a_bearer_token_goes_to_the_store_alone(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("s3cret\n")
        elsewhere = Answers()
        with serving(elsewhere) as other:
            store = Answers(302, {"Location": f"{other}/x".replace("127.0.0.1", "localhost")}, b"")
            with serving(store) as url:
                assert get(url, bearer_token_file=str(tmp_path / "token")) == b"content"
        assert store.requests[0][1]["Authorization"] == "Bearer s3cret"
        assert "Authorization" not in elsewhere.requests[0][1]

    def test_a_proxy_is_used(self) -> None:
        proxy = Answers()
        with serving(proxy) as url:
            assert get("http://store.invalid", proxy=url) == b"content"
        assert proxy.requests[0][0] == "http://store.invalid/a/b%2Bc.json"

    def test_a_server_without_etags_is_compared_by_content(self) -> None:
        answers = Answers()
        with serving(answers) as url, closing(open_store(StoreSettings(url=url))) as store:
            first = store.poll("x", 100, None)
            assert store.poll("x", 100, first.etag) == Polled(False, first.etag)
            answers.body = b"other"
            assert store.poll("x", 100, first.etag).changed

    @pytest.mark.parametrize(
        ("answers", "message"),
        [
            (Answers(500), "answered HTTP 500 for http"),
            (Answers(401), r"wants credentials .* check store\.bearer_token_file"),
            (Answers(200, {"Content-Encoding": "gzip"}), "compresses"),
            (Answers(200, {"Content-Length": "1000"}), "Cannot get"),
            (Answers(200, body=b"x" * 101), "longer than the 100 bytes"),
            (Answers(302, {"Location": "/"}), "redirects in circles"),
            (Answers(304), "answered HTTP 304"),
            (Answers(200, {"Content-Type": "text/html"}, b"\n <html>"), "a web page instead of the file"),
        ],
    )
    def test_what_is_not_the_file_is_told(self, answers: Answers, message: str) -> None:
        with serving(answers) as url, pytest.raises(StoreUnreachableError, match=message):
            get(url)

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_a_missing_file_is_told_apart(self, status: int) -> None:
        with serving(Answers(status)) as url, pytest.raises(StoreFileMissingError, match=f"HTTP {status}"):
            get(url)

    def test_a_password_in_the_address_is_not_shown(self) -> None:
        with serving(Answers(500)) as url, pytest.raises(StoreUnreachableError) as raised:
            get(url.replace("http://", "http://user:hunter2@"))
        assert "hunter2" not in str(raised.value)

    def test_nobody_there_is_told(self) -> None:
        with pytest.raises(StoreUnreachableError, match=r"Cannot get http://127\.0\.0\.1:1/a/b%2Bc\.json: "):
            get("http://127.0.0.1:1")


class TestStreams:
    def read(self, url: str, offset: int) -> tuple[int, bytes]:
        with closing(open_store(StoreSettings(url=url))) as store, store.stream("x", offset) as stream:
            return stream.offset, b"".join(stream.chunks)

    def test_a_server_without_ranges_starts_at_the_beginning(self) -> None:
        with serving(Answers()) as url:
            assert self.read(url, 3) == (0, b"content")

    def test_a_wrong_range_is_refused(self) -> None:
        wrong = Answers(206, {"Content-Range": "bytes 1-6/7"}, b"ontent")
        with (
            serving(wrong) as url,
            pytest.raises(StoreUnreachableError, match="answered a request for bytes 3-"),
        ):
            self.read(url, 3)

    def test_a_range_behind_the_end_starts_over(self) -> None:
        answers = Answers(to=lambda _, headers: Answers(416, body=b"") if "Range" in headers else Answers())
        with serving(answers) as url:
            assert self.read(url, 1000) == (0, b"content")


@dataclass(frozen=True)
class Certificates:
    authority: Path
    server: Path
    client: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority_key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def issue(subject: str, key: Ed25519PrivateKey, authority: bool) -> Path:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name if authority else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(authority_key, None)
        path = folder / f"{subject}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(certificate.public_bytes(Encoding.PEM) + (b"" if authority else private))
        return path

    return Certificates(
        issue("authority", authority_key, authority=True),
        issue("server", Ed25519PrivateKey.generate(), authority=False),
        issue("client", Ed25519PrivateKey.generate(), authority=False),
    )


class TestTls:
    def context(self, certificates: Certificates) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server)
        return context

    def test_the_bundle_of_the_settings_decides(self, certificates: Certificates) -> None:
        with serving(Answers(), self.context(certificates)) as url:
            assert get(url, ca_bundle=str(certificates.authority)) == b"content"
            with pytest.raises(StoreUnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
                get(url)

    def test_a_client_certificate_is_shown(self, certificates: Certificates) -> None:
        context = self.context(certificates)
        context.load_verify_locations(certificates.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        bundle = str(certificates.authority)
        with serving(Answers(), context) as url:
            assert get(url, ca_bundle=bundle, client_certificate=str(certificates.client)) == b"content"
