"""Draws the pictures of docs/concepts.md.

    python -m tools.concept_pictures [--out docs/pictures]

White lies behind them, so that they can be read on dark pages too.
"""

import argparse
from pathlib import Path
from xml.sax.saxutils import escape

TOKEN, EXPERT, FRAME = ("#dbeafe", "#2563eb"), ("#dcfce7", "#16a34a"), ("#f5f7fa", "#52606d")
LOCAL, NODE, GLOBAL = "#16a34a", "#d97706", "#dc2626"
EMPTY, INK = ("#ffffff", "#9aa5b1"), "#323f4b"


class Drawing:
    """Shapes of an SVG, in the order in which they are drawn."""

    def __init__(self, width: int, height: int, label: str):
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="13" role="img" aria-label="{escape(label)}">'
        )
        self._shapes = [f'<rect width="{width}" height="{height}" fill="#ffffff"/>']

    def box(self, x, y, width, height, colours, text="", *, dashed=False) -> None:
        """A box with its text in the middle."""
        fill, stroke = colours
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'fill="{fill}" stroke="{stroke}"{dashes}/>'
        )
        if text:
            self.text(x + width / 2, y + height / 2 + 4.5, text, anchor="middle")

    def text(self, x, y, text, *, anchor="start", colour=INK) -> None:
        """A line of text; y is where its letters stand."""
        place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
        self._shapes.append(f'<text {place} fill="{colour}">{escape(text)}</text>')

    def arrow(self, x1, y1, x2, y2, colour=INK, *, dashed=False) -> None:
        """A line that ends in a point."""
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self._shapes.append(
            f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{colour}" stroke-width="1.8" '
            f'fill="none"{dashes} marker-end="url(#{colour[1:]})"/>'
        )

    def svg(self) -> str:
        """The file's text."""
        body = "\n".join(f"  {shape}" for shape in [_markers(), *self._shapes])
        return f"{self._head}\n{body}\n</svg>\n"


def _markers() -> str:
    points = "".join(
        f'<marker id="{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M0 0 L8 4 L0 8 Z" fill="{colour}"/></marker>'
        for colour in (LOCAL, NODE, GLOBAL, INK)
    )
    return f"<defs>{points}</defs>"


def draw_mixture() -> Drawing:
    """A token, the gate's probabilities, two experts, their weighted sum."""
    d = Drawing(760, 190, "A token goes to two of four experts, whose outputs are added up")
    d.box(20, 80, 90, 30, TOKEN, "token x")
    d.arrow(110, 95, 158, 95)
    d.box(160, 70, 120, 50, FRAME, "gate")
    d.text(220, 142, "softmax(W·x)", anchor="middle")
    shares = (0.08, 0.54, 0.11, 0.27)
    for number, share in enumerate(shares):
        y = 12 + 42 * number
        chosen = share > 0.2
        d.text(345, y + 20, f"{share:.2f}", anchor="middle")
        d.box(400, y, 110, 30, EXPERT if chosen else EMPTY, f"expert {number}", dashed=not chosen)
        if chosen:
            d.arrow(280, 95, 322, y + 16, LOCAL)
            d.arrow(366, y + 16, 398, y + 16, LOCAL)
            d.arrow(510, y + 16, 588, 95, LOCAL)
    d.text(556, 52, "× 0.67")
    d.text(556, 150, "× 0.33")
    d.box(590, 80, 150, 30, TOKEN, "sum, and the token")
    return d


def draw_capacity() -> Drawing:
    """Slots of four experts; two tokens find theirs full."""
    d = Drawing(760, 190, "Experts with four slots each; tokens that find no slot are dropped")
    d.text(
        20,
        28,
        "8 tokens, 2 choices each, 4 experts: an even share is 4 slots (--capacity-factor 1)",
    )
    slots = ("t0 t1 t3 t4", "t1 t2 t5 t6", "t0 t2", "t3 t5 t7")
    for number, tokens in enumerate(slots):
        x = 20 + 185 * number
        d.box(x, 42, 165, 90, EXPERT)
        d.text(x + 82, 62, f"expert {number}", anchor="middle")
        held = tokens.split()
        for slot in range(4):
            is_held = slot < len(held)
            name = held[slot] if is_held else ""
            colours = TOKEN if is_held else EMPTY
            d.box(x + 10 + 37 * slot, 78, 33, 30, colours, name, dashed=not is_held)
    for x, token in ((20, "t6"), (60, "t7"), (205, "t4")):
        d.box(x + 10, 150, 33, 26, ("#fee2e2", GLOBAL), token)
    d.text(
        262, 168, "dropped: the expert is full; the token keeps its other expert, or its own value"
    )
    return d


def draw_layout() -> Drawing:
    """Two nodes with two ranks each, hosted by one, two or four processes."""
    d = Drawing(760, 250, "One logical layout of four ranks on one, two or four processes")
    d.text(20, 24, "the layout, part of the model: 2 nodes × 2 ranks, 8 experts")
    for rank in range(4):
        x = 30 + 180 * rank
        if rank % 2 == 0:
            d.box(x - 10, 36, 350, 92, EMPTY, dashed=True)
            d.text(x, 52, f"node {rank // 2}")
        d.box(x, 60, 160, 58, FRAME)
        d.text(x + 80, 78, f"rank {rank}: its own batch", anchor="middle")
        for place in range(2):
            d.box(x + 12 + 70 * place, 86, 66, 24, EXPERT, f"expert {2 * rank + place}")
    for row, processes in enumerate((1, 2, 4)):
        y = 142 + 34 * row
        width = 720 / processes
        for process in range(processes):
            name = f"process {process}"
            d.box(20 + width * process, y, width - 10, 26, TOKEN, name)
    return d


def draw_reaches() -> Drawing:
    """What Seq and Feat divide."""
    d = Drawing(760, 216, "SCoMoE-Seq divides a rank's tokens, SCoMoE-Feat every token's features")
    colours = (("#dcfce7", LOCAL), ("#ffedd5", NODE), ("#fee2e2", GLOBAL))
    d.text(20, 24, "Seq: whole tokens")
    for token in range(8):
        kind = 0 if token < 2 else 1 if token < 5 else 2
        d.box(20, 34 + 20 * token, 210, 17, colours[kind], f"token {token}")
    for y, text in ((52, "α: own rank"), (100, "β: own node"), (162, "γ: everywhere")):
        d.text(242, y, text)
    d.text(420, 24, "Feat: slices of every token")
    for token in range(8):
        y = 34 + 20 * token
        for x, width, kind in ((420, 75, 0), (495, 120, 1), (615, 105, 2)):
            d.box(x, y, width, 17, colours[kind])
    for x, text in ((457, "α"), (555, "β"), (667, "γ")):
        d.text(x, 208, text, anchor="middle")
    return d


def draw_clusters() -> Drawing:
    """Tokens meet their like, pass the mixtures and go home."""
    d = Drawing(760, 200, "Tokens change ranks once, before the mixtures, and return behind them")
    home = (("dog", "runs", "cat"), ("walks", "bird", "flies"))
    away = (("dog", "cat", "bird"), ("runs", "walks", "flies"))
    for rank in range(2):
        y = 30 + 85 * rank
        d.text(20, y - 8, f"rank {rank}")
        for number, word in enumerate(home[rank]):
            d.box(20 + 58 * number, y, 52, 26, TOKEN, word)
            d.box(580 + 58 * number, y, 52, 26, TOKEN, word)
        d.box(270, y - 6, 234, 60, FRAME)
        for number, word in enumerate(away[rank]):
            d.box(300 + 60 * number, y, 52, 22, TOKEN, word)
        d.text(387, y + 44, "all mixtures, one after the other", anchor="middle")
    for x in (198, 508):
        for y1, y2, colour in (
            (43, 43, LOCAL),
            (43, 128, GLOBAL),
            (128, 43, GLOBAL),
            (128, 128, LOCAL),
        ):
            d.arrow(x, y1, x + 66, y2, colour)
    d.text(20, 190, "attention: with the words of the sentence")
    d.text(580, 190, "home again")
    return d


def draw_hierarchical() -> Drawing:
    """A token with two experts on another node, sent twice or once."""
    d = Drawing(
        760, 190, "A token with two experts on another node crosses the slow link twice or once"
    )
    for x, title, hops in ((20, "direct", 2), (400, "hierarchical", 1)):
        d.text(x, 24, f"{title}: {hops} × between the nodes, there and back")
        d.box(x, 36, 130, 140, EMPTY, dashed=True)
        d.box(x + 20, 92, 90, 28, TOKEN, "token")
        d.box(x + 200, 36, 140, 140, EMPTY, dashed=True)
        d.box(x + 245, 52, 84, 28, EXPERT, "expert 4")
        d.box(x + 245, 132, 84, 28, EXPERT, "expert 6")
        d.text(x + 6, 170, "node 0")
        d.text(x + 206, 170, "node 1")
    d.arrow(130, 100, 263, 68, GLOBAL)
    d.arrow(130, 112, 263, 144, GLOBAL)
    d.box(606, 92, 60, 28, TOKEN, "copy")
    d.arrow(510, 106, 604, 106, GLOBAL)
    d.arrow(650, 92, 672, 82, NODE)
    d.arrow(650, 120, 672, 130, NODE)
    return d


PICTURES = {
    "mixture": draw_mixture,
    "capacity": draw_capacity,
    "layout": draw_layout,
    "reaches": draw_reaches,
    "clusters": draw_clusters,
    "hierarchical": draw_hierarchical,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder to write")
    out = parser.parse_args().out
    for name, draw in PICTURES.items():
        (out / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
