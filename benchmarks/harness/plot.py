"""A plot of what a core serves, written as SVG by hand: bars need no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_LEFT, _WIDTH, _BAR, _GAP = 190, 520, 20, 8
_OURS, _OTHERS = "#2f6f4f", "#9aa5b1"


def bars(charts: Mapping[str, Mapping[str, float]], unit: str, ours: Sequence[str]) -> str:
    """Return an SVG with a chart of horizontal bars for each title.

    :param charts: by title, numbers by name.
    :param ours: the names whose bars stand out.
    """
    parts: list[str] = []
    y = 28
    for title, numbers in charts.items():
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}: {escape(unit)}</text>')
        y += 14
        most = max(numbers.values(), default=1.0)
        for name, number in numbers.items():
            width = max(1.0, number / most * _WIDTH)
            middle = y + _BAR * 0.7
            parts += [
                f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{_OURS if name in ours else _OTHERS}"/>',
                f'<text x="{_LEFT + width + 6:.1f}" y="{middle:.0f}">{number:,.0f}</text>',
            ]
            y += _BAR + _GAP
        y += 30
    size = f'width="{_LEFT + _WIDTH + 90}" height="{y - 20}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"
