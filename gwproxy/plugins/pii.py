"""Finding personal data and masking it: detectors, and the walk through what a request holds.

Nothing here returns a value as it was found. The time is linear in what is looked at: patterns are RE2, or repeat
within bounds. Other requests get their turn meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

from gwproxy.plugins.redaction import MASK, plain

MOST_FIELDS = 100  # different fields in one entry
MOST_VALUES = 20_000  # looked at in one body
BREATH = 32  # values between two chances for other requests to run
TURN = 1e-9  # seconds: enough for that; in greenlets 0 comes back before a single socket was looked at
PIECE = 1 << 10  # characters of a long value looked at in one go
OVERLAP = 128
LONGEST_NAME = 128

# Issuers and their lengths, ISO/IEC 7812: Visa, Mastercard, American Express, Diners, JCB, Discover and UnionPay, Maestro.
_ISSUED = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[0689]\d{12,17}|35\d{14,17}|6\d{15,18}|5[06-9]\d{11,17}", re.ASCII
)
# Lengths by country, of the IBAN registry (ISO 13616).
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 "
        "LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 "
        "SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
}
_DOUBLED = str.maketrans("0123456789", "0246813579")


def compile_pattern(pattern: str) -> Any:
    """Compile an RE2 pattern of at most 1 MiB of memory.

    :raises ValueError: it is none, it is too large, or it matches nothing at all (and so everywhere).
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not RE2 syntax"
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    if compiled.search("") is not None:
        raise ValueError("it matches the empty text")
    return compiled


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of personal data.

    :ivar pattern: of candidates.
    :ivar hint: a character without which there is none; empty: there is no such character.
    :ivar shortest: characters a value has at least.
    :ivar group: of the pattern, the candidate. Where it is 1, it stands in a lookahead: candidates may overlap.
    :ivar accept: returns the value within a candidate, or None.
    :ivar mask: returns what may be logged of a value.
    """

    kind: str
    pattern: Any
    hint: str
    shortest: int
    group: int
    accept: Callable[[str], str | None]
    mask: Callable[[str], str]

    def find(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield each value in ``text`` with its mask."""
        if len(text) >= self.shortest and self.hint in text:
            for match in self.pattern.finditer(text):
                value = self.accept(match.group(self.group))
                if value is not None:
                    yield value, self.mask(value)


def mask(text: str) -> str:
    """Mask a value of no known form: its first character stays if it is long enough not to tell much."""
    return text[0] + MASK if len(text) > 4 else MASK


def _mask_email(text: str) -> str:
    name, _, domain = text.rpartition("@")
    return f"{name[0]}{MASK}@{domain[0]}{MASK}.{domain.rpartition('.')[2]}"


def _leading(candidate: str, accepts: Callable[[str], bool]) -> str | None:
    """Return the groups from the beginning that are accepted together: what follows a number may look like part of it."""
    joined = ""
    for group in re.split("[ -]", candidate):
        joined += group
        if accepts(joined):
            return joined
    return None


def _is_card(digits: str) -> bool:
    if not _ISSUED.fullmatch(digits):
        return False
    doubled = digits[-2::-2].translate(_DOUBLED)
    return (sum(map(int, digits[-1::-2])) + sum(map(int, doubled))) % 10 == 0  # Luhn, ISO/IEC 7812-1 annex B


def _is_iban(text: str) -> bool:
    if _IBAN_LENGTHS.get(text[:2].upper()) != len(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


#: What is built in, by the name used in configurations.
DETECTORS = {
    detector.kind: detector
    for detector in (
        Detector("email", compile_pattern(r"[\pL\pN._%+\-]+@[\pL\pN\-]+(?:\.[\pL\pN\-]+)*\.\pL{2,}"), "@", 6, 0, str, _mask_email),
        # PERF: re, not RE2, where repetition is bounded: 0.4 µs a value, against 3.
        Detector(
            "card",  # unbroken, or as printed: in fours, or American Express's and Diners' 4-6-5 and 4-6-4
            re.compile(
                r"(?<![\w+])(?=([2-6](?:[0-9]{12,18}|[0-9]{3}(?:[ -][0-9]{4}){3}(?:[ -][0-9]{1,3})?"
                r"|[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5}))(?!\w))"
            ),
            "",
            13,
            1,
            lambda candidate: _leading(candidate, _is_card),
            lambda value: MASK + value[-4:],
        ),
        Detector(
            "iban",  # unbroken, or as printed: in fours
            re.compile(r"(?<!\w)(?=([A-Za-z]{2}[0-9]{2}(?:[A-Za-z0-9]{11,30}|(?: [A-Za-z0-9]{4}){2,7}(?: [A-Za-z0-9]{1,4})?))(?!\w))"),
            "",
            15,
            1,
            lambda candidate: _leading(candidate, _is_iban),
            lambda value: value[:2] + MASK + value[-4:],
        ),
        Detector(
            "phone", re.compile(r"\+[1-9](?:[ ().\-/]{0,2}[0-9]){6,14}(?!\w)"), "+", 8, 0, str, lambda value: value[:3] + MASK + value[-2:]
        ),
    )
}


class Findings:
    """What was found in one request: each field once, with how often, and how its first value looks masked."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], int] = {}
        self._masked: dict[tuple[str, str, str], str] = {}
        self.unread: list[str] = []
        self.truncated = False

    def __bool__(self) -> bool:
        return bool(self._counts or self.unread or self.truncated)

    def again(self, where: str, name: str, kind: str) -> bool:
        """Count one more of a field that was found before; False if it was not."""
        key = (where, name, kind)
        if key not in self._counts:
            return False
        self._counts[key] += 1
        return True

    def add(self, where: str, name: str, kind: str, masked: str) -> None:
        """Note a field; beyond 100 different ones only that there are more."""
        if self.again(where, name, kind):
            return
        if len(self._counts) == MOST_FIELDS:
            self.truncated = True
            return
        self._counts[where, name, kind] = 1
        self._masked[where, name, kind] = masked

    def fields(self, clean: Callable[[str], str]) -> list[dict[str, Any]]:
        """Return the fields for a log. ``clean`` masks what is personal in a name."""
        return [
            {"where": where, "name": clean(name), "kind": kind, "masked": self._masked[where, name, kind], "count": count}
            for (where, name, kind), count in self._counts.items()
        ]


class Scanner:
    """Looks for personal data: by the names of fields, and by what values look like.

    :param names: fields that are personal whatever they hold; all below an object of that name is, too.
    :param detectors: for the values of all other fields.
    """

    def __init__(self, names: Iterable[str], detectors: Iterable[Detector]) -> None:
        kinds: Mapping[str, str] = {plain(name): name for name in names}
        self._detectors = tuple(detectors)
        self._kind_of = lru_cache(maxsize=256)(lambda name: kinds.get(plain(name)))

    def kind_of(self, name: str) -> str | None:
        """Return what kind of personal data goes by ``name``; None if none does."""
        return self._kind_of(name) if len(name) <= LONGEST_NAME else None

    def clean(self, text: str) -> str:
        """Return ``text`` with everything personal in it masked."""
        for _, value, masked in self._find(text):
            text = text.replace(value, masked) if value in text else MASK
        return text

    def value(self, findings: Findings, where: str, name: str, value: object, kind: str | None = None) -> None:
        """Note what is personal in one value. ``kind``: what it is by its name, or by that of what it is part of."""
        if value is None or value == "" or isinstance(value, bool):
            return
        if kind is not None:
            if not findings.again(where, name, kind):
                findings.add(where, name, kind, self._mask(value))
        elif isinstance(value, str):
            for found, _, masked in self._find(value):
                findings.add(where, name, found, masked)
        elif isinstance(value, int) and value >= 10**12:  # a card number has 13 digits
            for found, _, masked in self._find(str(value)):
                findings.add(where, name, found, masked)

    def _mask(self, value: object) -> str:
        masked = next((masked for _, _, masked in self._find(str(value))), None)
        return masked or (mask(value) if isinstance(value, str) else MASK)

    def _find(self, text: str) -> Iterator[tuple[str, str, str]]:
        """Yield kind, value and mask of everything personal in ``text``."""
        for start in range(0, len(text), PIECE):
            piece = text if len(text) <= PIECE else text[start : start + PIECE + OVERLAP]
            for detector in self._detectors:
                for value, masked in detector.find(piece):
                    yield detector.kind, value, masked
            if len(text) > PIECE:
                time.sleep(TURN)

    def pairs(self, findings: Findings, where: str, pairs: Iterable[tuple[str, str]]) -> None:
        """Note what is personal in the parameters of a query or a form."""
        self._leaves(findings, where, ((_short(name), self.kind_of(name), value) for name, value in pairs))

    def json(self, findings: Findings, where: str, value: object) -> None:
        """Note what is personal in a parsed JSON value."""
        self._leaves(findings, where, _walk(value, self.kind_of))

    def _leaves(self, findings: Findings, where: str, leaves: Iterable[tuple[str, str | None, object]]) -> None:
        for count, (path, kind, leaf) in enumerate(leaves, 1):
            if count > MOST_VALUES:
                findings.truncated = True
                return
            self.value(findings, where, path, leaf, kind)
            if count % BREATH == 0:
                time.sleep(TURN)


def _short(name: str) -> str:
    """Return ``name`` unless it may be an address or is too long to show; it is not cut: half an address would not be recognized."""
    return MASK if "@" in name else name if len(name) <= LONGEST_NAME else "..."


def _below(path: str, key: str) -> str:
    """Return the path of a field; a path that is long already grows no more, however deep a body is."""
    if len(path) > LONGEST_NAME:
        return path
    return f"{path}.{_short(key)}" if path else _short(key)


def _walk(value: object, kind_of: Callable[[str], str | None]) -> Iterator[tuple[str, str | None, object]]:
    """Yield every leaf as path, kind, value; the items of a list share ``path[]``. A key that may be an address is a leaf too."""
    pending: list[tuple[str, str | None, Iterator[tuple[str | None, object]]]] = [("", None, iter([(None, value)]))]
    while pending:
        above, inherited, items = pending[-1]
        for key, item in items:
            path, kind = above, inherited
            if key is not None:
                path, kind = _below(above, key), inherited or kind_of(key)
                if "@" in key:
                    yield above, None, key
            if isinstance(item, dict):
                pending.append((path, kind, iter(item.items())))
                break
            if isinstance(item, list):
                pending.append((f"{path}[]", kind, ((None, one) for one in item)))
                break
            yield path, kind, item
        else:
            pending.pop()
