"""What mkdocs does beside its own: pages of `datasets/` become part of the site, and links to code become its names."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Adds the page of each dataset."""
    for page in sorted((ROOT / "datasets").glob("*/README.md")):
        files.append(
            File.generated(config, f"datasets_of/{page.parent.name}.md", content=page.read_text(encoding="utf-8"))
        )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links that lead out of `docs/` into links within the site, or into plain names."""
    if page.file.src_uri.startswith("datasets_of/"):
        markdown = re.sub(r"\]\(\.\./([\w-]+)/README\.md\)", r"](\1.md)", markdown)
    up = "../" * page.file.src_uri.count("/")
    markdown = re.sub(r"\]\((?:\.\./)+datasets/([\w-]+)/?(?:README\.md)?\)", rf"]({up}datasets_of/\1.md)", markdown)
    markdown = re.sub(r"\]\((?:\.\./)+docs/([^)]+)\)", rf"]({up}\1)", markdown)
    return re.sub(
        r"\[([^\]]+)\]\(((?:\.\./)+(?:posecore|pipelines|tests|benchmarks|infra)/[^)]*|benchmarks/)\)", r"\1", markdown
    )
