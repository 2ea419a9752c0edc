"""The picture of a forecast, as SVG written here: one chart for each CA.

Three lines a chart are 100 lines of text; a plotting library would bring some 100 MB of wheels and a second of start for
them, and SVG opens in any browser and scales.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from workers.core.lifetime.forecast import Day

_WIDTH, _HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 46, 30
_SERIES = (
    ("expiries", "#8a8f98", "certificates of today's that expire"),
    ("by_servers", "#2f7ed8", "renewals, if servers renew by themselves"),
    ("by_certpilot", "#d9662b", "renewals, if certpilot renews all"),
)
_TICKS = 4
_LABELS = 8
_TEN = 10


def svg_of(days: Sequence[Day]) -> str:
    """Draw the days of a forecast, in order."""
    cas = sorted({day.ca for day in days})
    height = max(1, len(cas)) * _HEIGHT
    charts = [
        _chart(ca, [day for day in days if day.ca == ca], number * _HEIGHT) for number, ca in enumerate(cas)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
        f' viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11">\n'
        f"<title>Expiries and renewals per day</title>\n"
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n' + "".join(charts) + "</svg>\n"
    )


def _chart(ca: str, days: Sequence[Day], top: int) -> str:
    most = _round_up(max(max(day.expiries, day.by_servers, day.by_certpilot) for day in days))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = width / len(days)
    parts = [f'<g transform="translate({_LEFT} {top + _TOP})">\n']
    # A name comes from a certificate: it must not become markup.
    parts.append(f'<text x="0" y="-28" font-size="14" font-weight="bold">{escape(ca)}</text>\n')
    for tick in range(_TICKS + 1):
        y = height - height * tick / _TICKS
        parts.append(f'<line x1="0" y1="{y:.1f}" x2="{width}" y2="{y:.1f}" stroke="#e3e5e8"/>\n')
        parts.append(f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{most * tick // _TICKS:,}</text>\n')
    for number in range(0, len(days), max(1, -(-len(days) // _LABELS))):
        x = (number + 0.5) * step
        parts.append(
            f'<text x="{x:.1f}" y="{height + 16}" text-anchor="middle">{days[number].day.isoformat()}</text>\n'
        )
    for number, (name, colour, meaning) in enumerate(_SERIES):
        points = " ".join(
            f"{(index + 0.5) * step:.1f},{height - height * getattr(day, name) / most:.1f}"
            for index, day in enumerate(days)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>\n')
        x = number * width / len(_SERIES)
        parts.append(f'<rect x="{x:.0f}" y="-20" width="12" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="-12">{escape(meaning)}</text>\n')
    return "".join(parts) + "</g>\n"


def _round_up(number: int) -> int:
    """The next number that divides well by the ticks."""
    if number <= _TICKS:
        return _TICKS
    tenth = 10 ** (len(str(number)) - 2) if number >= _TEN else 1
    return next(
        tenth * times for times in (4, 8, 12, 16, 20, 24, 32, 40, 60, 80, 100) if tenth * times >= number
    )
