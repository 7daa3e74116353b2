"""Check what a wire is given: its URL and options, all faults in one error; topics and frames.

No text made here has credentials: a URL is shown without user and password, and the value of a
secret option is not shown at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..exceptions import OptionError
from .wire import MAX_TOPIC, TIMEOUT, Frame

if TYPE_CHECKING:
    import ssl

#: Of a prefix, so that it can stand in any server's names.
_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class Fault(NamedTuple):
    """What is wrong with one option of a layer, and the remedy, without credentials."""

    option: str
    text: str


class WireOptionError(OptionError):
    """A URL and options that a wire refuses; ``faults`` has each fault by itself."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(each.text for each in faults))
        self.faults = tuple(faults)


class Option(NamedTuple):
    """One option that a wire takes."""

    default: Any
    #: Says what the value must be, in the words of an error: "a path of ...". None: it is right.
    wrong: Callable[[Any], str | None]
    #: Never show its value.
    secret: bool = False


def _seconds(value: Any) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # A day is longer than any user wants to wait, and no event loop's clock overflows.
    right = is_number and math.isfinite(value) and 0.05 <= value <= 86400
    return None if right else "a number of seconds from 0.05 to 86400"


def text(value: Any) -> str | None:
    """Check a string, for `Option.wrong`."""
    right = isinstance(value, str) and value != ""
    return None if right else "a string that is not empty"


def _file(value: Any) -> str | None:
    right = isinstance(value, (str, Path)) and Path(value).is_file()
    return None if right else "the path of a file that exists and that this user may see"


def _switch(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


#: Options that every wire takes.
COMMON: Mapping[str, Option] = {"timeout": Option(TIMEOUT, _seconds)}
#: Options of wires with a user and a password.
CREDENTIALS: Mapping[str, Option] = {
    "username": Option(None, text),
    "password": Option(None, text, secret=True),
}
#: Options of wires that can be encrypted.
TLS: Mapping[str, Option] = {
    "ca_file": Option(None, _file),
    "cert_file": Option(None, _file),
    "key_file": Option(None, _file),
    "check_hostname": Option(True, _switch),
}
#: Options that a relay takes out before it makes the wire, which a user may have misspelt.
OF_RELAYS = ("backlog", "keys")


#: Stands for what may be a secret.
HIDDEN = "..."
#: What may be shown of a URL that lacks its scheme: a host that is recognised as one, or a class.
_PLAIN = re.compile(
    r"localhost|[a-z]+:/+[\w.-]+(:\d{1,5})?|[\w.-]+:\d{1,5}|[\w-]+(\.[\w-]+)+(:[A-Za-z_]\w*)?", re.A
)
_HOST = re.compile(r"(.*?)(?::(\d{0,5}))?", re.S)
_CHECKED = (
    "remove it: certificates are always checked. Name the file of the authority's, or of a"
    " certificate that signs itself, in relay_options['ca_file'], and set"
    " relay_options['check_hostname'] to False if it is for another name"
)
_INSTEAD = "remove it, and use relay_options[{!r}] instead"
#: What URLs have for redis-py behind their ``?``, and what to do about it.
_FOREIGN: Mapping[str, str] = {
    "ssl_cert_reqs": _CHECKED,
    **{
        name: _INSTEAD.format(option)
        for name, option in {
            "ssl_ca_certs": "ca_file",
            "ssl_certfile": "cert_file",
            "ssl_keyfile": "key_file",
            "ssl_check_hostname": "check_hostname",
            "socket_timeout": "timeout",
            "socket_connect_timeout": "timeout",
            "timeout": "timeout",
            "username": "username",
            "password": "password",
        }.items()
    },
}


def shown(url: str) -> str:
    """Return a URL as errors and logs may show it: scheme, host, port, and path if it is plain.

    A password that stands where it does not belong, such as in place of the port, is not shown.
    """
    scheme, mark, rest = url.partition("://")
    # Credentials end at the last "@", wherever a password with a "/", "?" or "#" ends the host.
    _, at, rest = (rest if mark else scheme).rpartition("@")
    rest = re.split(r"[?#]", rest)[0]
    if not mark:
        return rest if at or _PLAIN.fullmatch(rest) else HIDDEN
    host, slash, path = rest.partition("/")
    found = _HOST.fullmatch(host)
    # An address of IPv6 stands in brackets.
    if found is None or (":" in found[1] and not found[1].endswith("]") and "," not in host):
        host = f"{host.partition(':')[0]}:{HIDDEN}"
    # Behind a host there may be the number of a database; without one it is the path of a socket.
    if host and not re.fullmatch(r"\d{0,3}", path):
        path = HIDDEN
    return f"{shown_scheme(scheme)}://{host}{slash}{path}"


def shown_scheme(scheme: str) -> str:
    """Return a scheme as errors may show it: not if it looks like a password."""
    return scheme if re.fullmatch(r"[a-z+]{1,12}", scheme) else HIDDEN


class Settings:
    """The parts of a URL, and the options, of a wire; collects all faults until `finish`."""

    def __init__(self, url: str, prefix: str, schemes: Iterable[str]) -> None:
        self.shown = shown(url)
        self._faults: list[Fault] = []
        #: Whether the URL could be read, so that its parts mean something.
        self.right = True
        self.parts = self._split(url, tuple(schemes))
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            self.wrong(
                f"prefix is {prefix!r}; use 1 to 64 ASCII letters, digits, '-', '_' and '.', the"
                " first not '.'"
            )

    def _split(self, url: str, schemes: tuple[str, ...]) -> SplitResult:
        if "," in self.shown.partition("://")[2].partition("/")[0]:
            self.right = False
            self.wrong(
                "the URL names several servers; name one server, which all machines then use"
            )
            return urlsplit("")
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 (raises for a wrong one)
            (parts.hostname or "").encode("idna")  # As a look-up does.
        except ValueError:
            # The words of that error may have the password.
            self.right = False
            self.wrong(
                "the URL can't be read; write SCHEME://USER:PASSWORD@HOST:PORT, with each"
                " character of user and password that has a meaning in URLs as %XX"
            )
            return urlsplit("")
        if parts.scheme not in schemes:
            self.right = False
            scheme = shown_scheme(parts.scheme)
            self.wrong(f"the scheme is {scheme!r}; use {' or '.join(map(repr, schemes))}")
        parts = self._without_foreign(parts)
        if parts.fragment:
            self.right = False
            self.wrong("the URL has a '#'; if it belongs to a password, write it as %23")
        return parts

    def _without_foreign(self, parts: SplitResult) -> SplitResult:
        """Note what the URL has for other programs, as hosters hand it out; return the rest."""
        own = []
        for part in parts.query.split("&"):
            name = part.partition("=")[0]
            if name in _FOREIGN:
                self.wrong(f"the URL has {name!r} behind its '?'; {_FOREIGN[name]}")
            else:
                own.append(part)
        return parts._replace(query="&".join(own))

    @property
    def username(self) -> str | None:
        """The user that the URL names."""
        return unquote(self.parts.username) if self.parts.username else None

    @property
    def password(self) -> str | None:
        """The password that the URL has."""
        return unquote(self.parts.password) if self.parts.password else None

    def wrong(self, problem: str) -> None:
        """Note something that is wrong with the URL, with the remedy and without credentials."""
        self._faults.append(Fault("relay", f"relay {self.shown}: {problem}"))

    def wrong_option(self, text: str) -> None:
        """Note something that is wrong in ``relay_options``, as `wrong` does."""
        self._faults.append(Fault("relay_options", text))

    def options(self, given: Mapping[str, Any], takes: Mapping[str, Option]) -> dict[str, Any]:
        """Return each option's value, noting those that are unknown or wrong."""
        for name in given:
            if name not in takes:
                known = sorted((*takes, *OF_RELAYS))
                close = get_close_matches(str(name), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "remove it, or"
                self.wrong_option(
                    f"relay_options: there is no option {name!r} with {self.shown}; {hint} use"
                    f" {', '.join(map(repr, known))}"
                )
        values = {name: given.get(name, option.default) for name, option in takes.items()}
        for name, option in takes.items():
            value = values[name]
            must_be = None if value is option.default else option.wrong(value)
            if must_be is not None:
                is_now = "not that" if option.secret else repr(value)
                self.wrong_option(f"relay_options[{name!r}] is {is_now}; it must be {must_be}")
        return values

    def tls(self, given: Mapping[str, Any]) -> ssl.SSLContext | None:
        """Return what the options of `TLS` say, noting files that are of no use."""
        try:
            import ssl
        except ImportError:
            self.wrong(
                "it asks for TLS, and this Python was built without the module ssl; take"
                " another Python, or the scheme without TLS"
            )
            return None
        context = ssl.create_default_context()
        context.check_hostname = given["check_hostname"] is not False
        ca_file, cert_file, key_file = (given[f"{kind}_file"] for kind in ("ca", "cert", "key"))
        if key_file and not cert_file:
            self.wrong_option(
                "relay_options['key_file'] is of no use without 'cert_file'; give both"
            )
        try:
            if ca_file and _file(ca_file) is None:
                context.load_verify_locations(cafile=ca_file)
        except (OSError, ValueError):
            self.wrong_option(
                f"relay_options['ca_file'] is {ca_file!r}; it must have certificates in PEM form"
            )
        try:
            if cert_file and _file(cert_file) is None:
                # The password makes a key that is encrypted an error; by default it would be asked
                # for on the terminal.
                context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError):
            self.wrong_option(
                f"relay_options['cert_file'] is {cert_file!r}; it and 'key_file' must have a"
                " certificate and its key, not encrypted, in PEM form"
            )
        return context

    def one_of(self, name: str, in_url: str | None, as_option: str | None) -> str | None:
        """Return a value that may stand in the URL or in an option, but not in both."""
        if in_url is not None and as_option is not None:
            self.wrong(f"the URL and the option {name!r} both give one; remove one of the two")
        return in_url if in_url is not None else as_option

    def finish(self) -> None:
        """Raise `WireOptionError` with all that is wrong, a line each, if anything is."""
        if self._faults:
            raise WireOptionError(self._faults)


def check_topic(name: bytes) -> None:
    """Raise `ValueError` for a topic or queue name that no wire takes."""
    if not isinstance(name, bytes) or not 1 <= len(name) <= MAX_TOPIC:
        raise ValueError(f"{name!r} is no topic or queue; use 1 to {MAX_TOPIC} bytes")


def check_frames(frames: Sequence[Frame], limit: int) -> None:
    """Raise `ValueError` for a frame that the server would not take (W8)."""
    for topic, payload in frames:
        check_topic(topic)
        if len(payload) > limit:
            raise ValueError(
                f"a frame has {len(payload)} bytes; the server takes at most {limit}, so drop it"
            )
