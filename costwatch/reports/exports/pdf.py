"""A statement as PDF, for people: what one team owes, or all of them, line by line on A4.

Letters that the PDF's own fonts lack (they have those of Western Europe) are shown as a question mark; the other files
have them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import LongTable, Paragraph, SimpleDocTemplate, Spacer, TableStyle

from costwatch.domain import money
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.reports.chargeback import Chargeback
from costwatch.reports.exports.files import pieces_of
from costwatch.reports.lines import ADJUSTMENT, Line

CONTENT_TYPE = "application/pdf"
EXTENSION = "pdf"
MOST_LINES = 5000  # some hundred pages; whoever needs more wants a file that a program reads

_TEXT = ParagraphStyle("text", fontName="Helvetica", fontSize=8, leading=10)
_RIGHT = ParagraphStyle("right", parent=_TEXT, alignment=2)
_HEAD = ParagraphStyle("head", parent=_TEXT, fontName="Helvetica-Bold")
_HEAD_RIGHT = ParagraphStyle("head right", parent=_HEAD, alignment=2)
_TITLE = ParagraphStyle("title", fontName="Helvetica-Bold", fontSize=17, leading=22)
_ABOUT = ParagraphStyle("about", parent=_TEXT, fontSize=9, leading=13)
_WIDTHS = [width * mm for width in (58, 32, 24, 40, 21)]  # 4 mm less than the page has
_STYLE = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black),
        ("LINEBELOW", (0, 1), (-1, -2), 0.25, colors.lightgrey),
        ("LINEABOVE", (0, -1), (-1, -1), 0.8, colors.black),
        ("LEFTPADDING", (0, 0), (0, -1), 0),  # in line with the text above
        ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 2.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
    ]
)
_CAUSES = {
    "late": "late calls",
    "price": "another price",
    "exchange_rate": "another exchange rate",
    "rule": "another team pays",
    "several": "several causes",
}


def chunks(chargeback: Chargeback) -> Iterator[bytes]:
    """Raises ValueError for more lines than anybody prints."""
    if len(chargeback.lines) > MOST_LINES:
        raise ValueError(
            f"{len(chargeback.lines)} lines: a PDF holds up to {MOST_LINES}; ask for one team, or for another format"
        )
    return pieces_of(partial(_write, chargeback=chargeback))


def _write(path: Path, chargeback: Chargeback) -> None:
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        leftMargin=15 * mm,
        rightMargin=15 * mm,
        topMargin=16 * mm,
        bottomMargin=18 * mm,
        title=f"Statement {chargeback.month}",
        author=_plain(chargeback.organization),
        invariant=1,  # nothing in it tells when it was made
    )
    foot = partial(_foot, chargeback=chargeback)
    document.build(_story(chargeback), onFirstPage=foot, onLaterPages=foot)


def _story(chargeback: Chargeback) -> list[Any]:
    one = chargeback.teams[0] if len(chargeback.teams) == 1 else None
    whose = one.team if one else "All teams"
    about = [f"{chargeback.organization}, {chargeback.month}, amounts in {chargeback.currency}"]
    if one and one.cost_centre:
        about.append(f"Cost centre {one.cost_centre}")
    if chargeback.sha256:
        about.append(f"Closed, edition {chargeback.edition}")
    else:
        about.append("Not closed: no statement yet, amounts may still change")
    if chargeback.unpriced_lines:
        about.append(
            f"Lines without a known price, which the total lacks: {chargeback.unpriced_lines}"
        )
    return [
        Paragraph(_safe(f"{whose[:1].upper()}{whose[1:]}"), _TITLE),
        *(Paragraph(_safe(text), _ABOUT) for text in about),
        Spacer(0, 6 * mm),
        LongTable(
            _table(chargeback, one is None),
            colWidths=_WIDTHS,
            repeatRows=1,
            style=_STYLE,
            hAlign="LEFT",
        ),
    ]


def _table(chargeback: Chargeback, with_team: bool) -> list[list[Paragraph]]:
    head = [Paragraph(text, _HEAD) for text in ("What", "Feature", "Used in")]
    head += [Paragraph(text, _HEAD_RIGHT) for text in ("Quantity and price", "Amount")]
    last = [Paragraph("Total", _HEAD), *(Paragraph("", _TEXT) for _ in range(3))]
    last.append(Paragraph(f"{chargeback.total:,f}", _HEAD_RIGHT))
    return [head, *(_row(line, with_team) for line in chargeback.lines), last]


def _row(line: Line, with_team: bool) -> list[Paragraph]:
    what = " ".join(filter(None, [line.device_type or line.provider, line.model]))
    meter = "device time" if line.meter == "device_ns" else line.meter.replace("_", " ")
    details = [meter, line.service_tier, line.method]
    if with_team:
        details.insert(0, line.team)
    said = f"{_safe(what or 'unknown model')}<br/>{_safe(', '.join(filter(None, details)))}"
    used_in = line.used_in
    if line.kind == ADJUSTMENT:
        used_in += f"<br/>{_CAUSES[line.cause]}"
    amount = "unknown" if line.is_unpriced and not line.cost else f"{line.cost:,f}"
    return [
        Paragraph(said, _TEXT),
        Paragraph(_safe(line.feature or "–"), _TEXT),
        Paragraph(used_in, _TEXT),
        Paragraph(f"{_quantity(line)}<br/>{_safe(_price(line))}", _RIGHT),
        Paragraph(amount, _RIGHT),
    ]


def _quantity(line: Line) -> str:
    if line.meter == "device_ns":
        return f"{line.quantity / NS_PER_HOUR:,.4f} h"
    return f"{line.quantity:,}"


def _price(line: Line) -> str:
    if line.unit_price is None:
        if line.kind == ADJUSTMENT:
            return ""
        return "price not known" if line.is_unpriced else "several prices"
    price = f"× {line.unit_price.normalize():f} {line.price_currency} / {line.unit_label}"
    if line.price_cost is None:
        return price
    amount = money.rounded(line.price_cost, money.places_of(line.price_currency))
    return f"{price} = {amount:,f} {line.price_currency}"


def _foot(canvas: Any, document: Any, chargeback: Chargeback) -> None:
    canvas.saveState()
    canvas.setFont("Helvetica", 7)
    if chargeback.sha256:
        canvas.drawString(15 * mm, 10 * mm, f"SHA-256 of the month: {chargeback.sha256}")
    canvas.drawRightString(A4[0] - 15 * mm, 10 * mm, f"Page {document.page}")
    canvas.restoreState()


def _safe(text: str) -> str:
    """Text of other people, in which nothing is markup."""
    return escape(_plain(text))


def _plain(text: str) -> str:
    return text.encode("cp1252", "replace").decode("cp1252")
