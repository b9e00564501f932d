"""Small drawings as inline SVG: no script, no style attribute (the policy forbids both), colours by class.

A drawing only repeats what stands beside it in numbers, so it is hidden from those who listen to a page.
"""

from collections.abc import Sequence

from markupsafe import Markup

from gateway.traffic import POINTS

WIDTH, HEIGHT = 240.0, 44.0


def stacked(histories: Sequence[Sequence[float]]) -> Markup:
    """Draw versions' rates one upon the other, the first at the bottom, the newest second at the right edge."""
    totals = [sum(values) for values in zip(*histories, strict=False)] if histories else []
    top = max(totals, default=0.0)
    areas = Markup("")
    floor = [0.0] * len(totals)
    step = WIDTH / (POINTS - 1)
    left = WIDTH - step * (len(totals) - 1)
    for number, history in enumerate(histories):
        ceiling = [low + value for low, value in zip(floor, history, strict=False)]
        if top > 0 and len(totals) > 1:
            upper = [_point(left + step * place, value / top) for place, value in enumerate(ceiling)]
            lower = [_point(left + step * place, value / top) for place, value in enumerate(floor)]
            areas += Markup('<polygon class="version-{}" points="{}"/>').format(
                number % 6, " ".join([*upper, *reversed(lower)])
            )
        floor = ceiling
    return _drawing(WIDTH, HEIGHT, "sparkline", areas)


def pair(observed: float, expected: float, most: float) -> Markup:
    """Draw two bars, observed above expected, on a scale whose end is `most`."""
    wide = 100.0 / most if most > 0 else 0.0
    return _drawing(
        100.0,
        14.0,
        "pair",
        Markup(
            '<rect class="observed" x="0" y="1" width="{:.2f}" height="6"/>'
            '<rect class="expected" x="0" y="8" width="{:.2f}" height="5"/>'
        ).format(observed * wide, expected * wide),
    )


def gauge(share: float) -> Markup:
    """Draw how far something is on its way to its limit."""
    return _drawing(
        100.0,
        8.0,
        "gauge",
        Markup(
            '<rect class="rail" x="0" y="2" width="100" height="4"/>'
            '<rect class="fill" x="0" y="2" width="{:.1f}" height="4"/>'
        ).format(share * 100),
    )


def _drawing(width: float, height: float, name: str, inside: Markup) -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(name, width, height, inside)


def _point(across: float, share: float) -> str:
    # One unit stays free at the top, so that the highest point is not cut off.
    return f"{across:.1f},{HEIGHT - share * (HEIGHT - 1):.1f}"
