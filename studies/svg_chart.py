"""A horizontal bar chart as SVG, readable on light and dark ground."""

from collections.abc import Mapping
from html import escape

WIDTH, ROW, LEFT = 720, 30, 190
INK, GREY, ACCENT = "#57606a", "#8c959f", "#0969da"


def bar_chart(shares: Mapping[str, float], accent: str = "Thalamus") -> str:
    """Shares in [0, 1] by name, drawn in the order given; names that begin with `accent` stand out."""
    height = ROW * len(shares) + 10
    # 70 for the value behind the longest bar.
    scale = (WIDTH - LEFT - 70) / max(shares.values(), default=1)
    rows = [_bar(n, name, share, scale, accent) for n, (name, share) in enumerate(shares.items())]
    # `role="img"`: a screen reader announces one picture, not its parts (WAI-ARIA 1.2, role img).
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img"'
    )
    return f'{head} font-family="system-ui, sans-serif" font-size="14">\n' + "\n".join(rows) + "\n</svg>\n"


def _bar(n: int, name: str, share: float, scale: float, accent: str) -> str:
    top, colour = n * ROW + 8, ACCENT if name.startswith(accent) else GREY
    words = f'<text x="{LEFT - 10}" y="{top + 15}" text-anchor="end" fill="{INK}">{escape(name)}</text>'
    bar = f'<rect x="{LEFT}" y="{top}" width="{share * scale:.1f}" height="20" rx="3" fill="{colour}"/>'
    value = f'<text x="{LEFT + share * scale + 8:.1f}" y="{top + 15}" fill="{INK}">{100 * share:.1f} %</text>'
    return words + bar + value
