"""The report's section of semantic IDs, with the contents of `inspect`."""

from __future__ import annotations

from recbole_qbert.reports.inspection import html
from recbole_qbert.reports.inspection.facts import Facts
from recbole_qbert.reports.inspection.pictures import Pictures
from recbole_qbert.reports.sections import ReportSection


def ids_section(facts: Facts, pictures: Pictures | None, dataset: str) -> ReportSection:
    """Make the section: code usage, tree, groups, nearest items and purity."""
    bodies = html.section_bodies(facts, pictures)
    blocks = [html.summary(facts)]
    blocks += [f"<h2>{title}</h2>{bodies[key]}" for key, title in html.SECTIONS.items()]
    name = facts.catalog.name
    return ReportSection(
        "ids",
        "Semantic IDs",
        name,
        f"recbole-qbert tokenize --dataset={dataset}; alone: recbole-qbert inspect "
        f"--dataset={dataset} --html=ids.html",
        tuple(blocks),
    )
