"""Whether a server can be reached and trusted, in words that say who has to do what.

What is asked of it is what any stranger could ask.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .finding import Finding, Level

if TYPE_CHECKING:
    from cryptography import x509

_TIMEOUT = 5.0
_LONGEST_ANSWER, _LONGEST_WORDS = 4096, 80
# Of OpenSSL's reasons to refuse a certificate (X509_V_ERR_...).
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME = 9, 10, (62, 64)


@dataclass(frozen=True)
class Answer:
    status: int
    date: str | None
    asked: float
    """Local time in the middle of the exchange."""


def clock(answer: Answer) -> Finding:
    """This machine's clock against the server's, which tells whole seconds."""
    try:
        theirs = parsedate_to_datetime(answer.date or "").timestamp() + 0.5
    except (ValueError, TypeError):
        return Finding("clock", "warning", "not compared: the server's answer has no time",
                       "Make sure that NTP sets this machine's clock.")  # fmt: skip
    ahead = answer.asked - theirs
    level: Level = "ok" if abs(ahead) <= 30 else "warning" if abs(ahead) <= 300 else "bad"
    text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if level == "ok":
        return Finding("clock", "ok", "within 30 s of the server's")
    return Finding("clock", level, text, "Set this machine's clock by NTP, or tell the operator that "
                   "the server's clock is wrong: if they differ, connections are refused.")  # fmt: skip


class Unusable(Exception):
    """The server cannot be reached, or is not to be trusted; why, and what to do."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


class Server:
    """The server as a stranger meets it. Every step ends after five seconds, or is ``Unusable``."""

    def __init__(self, host: str, port: int, authority: Path, proxy: str | None = None) -> None:
        """proxy: http://HOST:PORT on the way to it."""
        self.host, self.port, self._proxy = host, port, proxy
        # With an authority given, what the system trusts besides does not count.
        self._context = ssl.create_default_context(cafile=authority)

    def days_left(self) -> int:
        """Connect, and check the certificate; whole days until it expires."""
        with self._connected() as plain:
            try:
                with self._context.wrap_socket(plain, server_hostname=self.host) as secure:
                    until = (secure.getpeercert() or {})["notAfter"]
            except ssl.SSLCertVerificationError as error:
                raise self._refused(error) from None
            except TimeoutError:
                raise self._silent("does not start a TLS connection") from None
            except OSError as error:
                raise Unusable(
                    f"{self._address} accepts connections, but not TLS ({_reason(error)})",
                    "Check host and port: another program may listen there, or a device in "
                    "between may interfere.",
                ) from None
        return int((ssl.cert_time_to_seconds(str(until)) - time.time()) // 86400)

    def ask(self, path: str) -> Answer:
        """A GET request; what it answers does not matter but for status and date."""
        connection = http.client.HTTPSConnection(
            *self._first_hop, timeout=_TIMEOUT, context=self._context
        )
        if self._proxy:
            connection.set_tunnel(self.host, self.port)
        begun = time.time()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            middle = (begun + time.time()) / 2
            return Answer(answer.status, answer.getheader("Date"), middle)
        except TimeoutError:
            raise self._silent("does not answer HTTP requests") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unusable(
                f"{self._address} does not answer HTTP requests ({_reason(error)})",
                "Ask the operator whether umbel server runs there.",
            ) from None
        finally:
            connection.close()

    @property
    def _address(self) -> str:
        return f"{self.host}, port {self.port}"

    def _resolved(self) -> list[tuple[Any, ...]]:
        """Addresses of the host, or of the proxy. The resolver has no time limit of its own."""
        host, port = self._first_hop
        found: list[list[tuple[Any, ...]] | OSError] = []

        def resolve() -> None:
            try:
                found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.append(OSError(str(error)))

        thread = threading.Thread(target=resolve, daemon=True)
        thread.start()
        thread.join(_TIMEOUT)
        if found and not isinstance(found[0], OSError):
            return found[0]
        raise Unusable(
            f"the name {host} cannot be resolved" + ("" if found else " (no answer in 5 s)"),
            "Check [server] in client.toml, and this machine's DNS." + self._unused_proxy,
        )

    def _connected(self) -> socket.socket:
        last: OSError = OSError("no address")
        for family, kind, protocol, _, address in self._resolved():
            plain = socket.socket(family, kind, protocol)
            plain.settimeout(_TIMEOUT)
            try:
                plain.connect(address)
            except OSError as error:
                plain.close()
                last = error
            else:
                return self._through_proxy(plain) if self._proxy else plain
        if isinstance(last, ConnectionRefusedError):
            raise Unusable(
                f"{self._address}: the connection was refused",
                "Ask the operator whether umbel server runs, and on which port."
                + self._unused_proxy,
            )
        if isinstance(last, TimeoutError):
            raise self._silent("does not take connections")
        raise Unusable(
            f"{self._address} cannot be reached ({_reason(last)})",
            "Check this machine's network and firewall." + self._unused_proxy,
        )

    def _silent(self, what: str) -> Unusable:
        return Unusable(
            f"{self._address} timed out: it {what} within 5 s",
            "A firewall may be in between: outgoing TCP connections to it must be allowed."
            + self._unused_proxy,
        )

    @property
    def _first_hop(self) -> tuple[str, int]:
        """Host and port that this machine connects to."""
        if self._proxy is None:
            return self.host, self.port
        host, _, port = self._proxy.removeprefix("http://").rpartition(":")
        return host.strip("[]"), int(port)

    def _through_proxy(self, plain: socket.socket) -> socket.socket:
        """The same connection, once the proxy has made the rest of the way."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            plain.sendall(f"CONNECT {host}:{self.port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_ANSWER:
                part = plain.recv(1)  # not a byte of what comes after it
                answer += part
                if not part:
                    break
        except OSError as error:
            plain.close()
            raise self._proxy_refuses(_reason(error)) from None
        words = answer.split(b"\r\n")[0].decode("latin-1").split(" ", 1)
        if not (len(words) == 2 and words[1].startswith("2")):
            plain.close()
            raise self._proxy_refuses(words[-1][:_LONGEST_WORDS] or "it closed the connection")
        return plain

    def _proxy_refuses(self, why: str) -> Unusable:
        return Unusable(
            f"the proxy {self._proxy} does not connect to {self._address} ({why})",
            "It must pass CONNECT to this host and port without a password: ask the people who run it, "
            "or correct [server] proxy in client.toml.",
        )

    @property
    def _unused_proxy(self) -> str:
        """A word on a proxy that the environment names, and the agent does not use."""
        if self._proxy is None and {"https", "all"} & urllib.request.getproxies().keys():
            return (
                " A proxy is set for this user (HTTPS_PROXY or ALL_PROXY), but the agent does not use it: "
                "if the server can only be reached through it, set [server] proxy in client.toml."
            )
        return ""

    def _refused(self, error: ssl.SSLCertVerificationError) -> Unusable:
        """Why the certificate is not accepted, with what it says of itself."""
        shown, now = self._shown(), datetime.now(UTC)
        if error.verify_code == _EXPIRED:
            until = None if shown is None else shown.not_valid_after_utc
            if until is not None and until > now:
                return Unusable("the consortium's certificate authority has expired",
                                 "Tell the operator: a new consortium is needed.")  # fmt: skip
            return Unusable(
                f"the server's certificate has expired{_on(until)}",
                "Tell the operator (umbel consortium renew); or correct this machine's clock if "
                "it is wrong.",
            )
        if error.verify_code == _NOT_YET_VALID:
            since = None if shown is None else shown.not_valid_before_utc
            return Unusable(
                f"the server's certificate is not valid yet{_on(since)}",
                f"Check this machine's clock: it says {now:%Y-%m-%d %H:%M} UTC.",
            )
        if error.verify_code in _OTHER_NAME:
            names = f" but for {', '.join(_names(shown))}" if shown else ""
            return Unusable(
                f"the server's certificate is not for the host name {self.host}{names}",
                "Set server.address in client.toml to the name that the operator gave out.",
            )
        return Unusable(
            "the server's certificate is from an unknown authority, not from this consortium's "
            f"({error.verify_message})",
            "Stop here: another server answers, or a firewall opens the connection. Ask the "
            "operator.",
        )

    def _shown(self) -> x509.Certificate | None:
        """The certificate, unchecked: to explain why it was refused, and for nothing else."""
        from cryptography import x509

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with self._connected() as plain, context.wrap_socket(plain) as secure:
                return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
        except (OSError, ValueError, Unusable):
            return None


def _names(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ["no host name"]
    return [str(name.value) for name in found]


def _on(day: datetime | None) -> str:
    return "" if day is None else f" ({day:%Y-%m-%d %H:%M} UTC)"


def _reason(error: Exception) -> str:
    """Why, in the words of the system."""
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
