"""What is wrong with a document, gathered until everything has been looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from gwproxy.controlplane.masking import scrub
from gwproxy.controlplane.places import Path, path_text
from gwproxy.controlplane.text import Source
from gwproxy.model import Problem


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, before its line is known.

    :ivar path: from the top of the object form.
    :ivar key: whether the last key is meant rather than its value.
    """

    path: Path
    found: str
    expected: str
    key: bool = False


class Report:
    """Gathers findings about one source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._refused: dict[Finding, None] = {}
        self._warned: dict[Finding, None] = {}
        self._unknown: set[Path] = set()
        self._secrets: set[str] = set()

    def refuse(self, path: Path, found: str, expected: str, *, key: bool = False) -> None:
        """Note a reason to refuse the document; texts from the environment are masked in it."""
        self.extend([Finding(path, scrub(found, self._secrets), scrub(expected, self._secrets), key)])

    def extend(self, findings: Iterable[Finding]) -> None:
        """Note several reasons to refuse the document, as they are."""
        self._refused.update((finding, None) for finding in findings if finding.path not in self._unknown)

    def resolved(self, unset: Iterable[Path], secrets: Iterable[str]) -> None:
        """Take note of references to the environment.

        :param unset: paths about which nothing more is noted: what stands there is not known, and that has been said.
        :param secrets: texts that no message may show.
        """
        self._unknown.update(unset)
        self._secrets.update(secrets)

    def warn(self, path: Path, found: str, expected: str) -> None:
        """Note what the operator should know of."""
        self._warned[Finding(path, found, expected)] = None

    def problems(self) -> tuple[Problem, ...]:
        """Return every reason to refuse, by line."""
        return self._sorted(self._refused)

    def warnings(self) -> tuple[Problem, ...]:
        """Return every warning, by line."""
        return self._sorted(self._warned)

    def _sorted(self, findings: Iterable[Finding]) -> tuple[Problem, ...]:
        problems = [
            Problem(path_text(f.path), f.found, f.expected, *self._source.place(f.path, key=f.key), self._source.file) for f in findings
        ]
        return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def did_you_mean(written: str, names: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest of ``names``, or nothing if none is near."""
    near = get_close_matches(written, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
