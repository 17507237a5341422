"""MkDocs: pages from outside docs/, with links that lead to the same files in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "results/*.md", "results/*.yaml")
OUTSIDE += ("results/tables/*/table.md", "properties/**/*.yaml", "properties/**/*.smk")


def on_files(files: Files, config: Any) -> Files:
    """Results, changelog, guide to contributing, and the settings that they link to."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The pages of docs/ stand beside those of the repository's root here."""
    if "/" in page.file.src_uri:
        return markdown.replace("](../docs/", "](../")
    return re.sub(r"\]\((?:\.\./|docs/)", "](", markdown)
