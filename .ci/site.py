"""What mkdocs.yml adds to `docs`: pages from elsewhere in the project, and links between them.

On GitHub the pages link each other by their places in the project. On the site README.md is the first page, and a link
to what is no page (source code) leads to the repository, or is plain text where `repo_url` is not known.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

__all__ = ["PAGES", "on_files", "on_page_markdown", "relinked"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "tofu_export/demo/README.md": "demo-model.md",
}
"""Pages outside of docs -> what they are called on the site."""

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def relinked(markdown: str, source: str, repository: str) -> str:
    """The text of a page with the links of the site.

    Args:
        markdown: the page as it is in the project.
        source: its path in the project.
        repository: address of the project; "" if it has none.
    """
    here = _on_site(source) or source

    def replace(link: re.Match[str]) -> str:
        target, anchor = link["target"], link["anchor"] or ""
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = os.path.normpath(Path(source).parent / target)
        if not (ROOT / path).exists():
            return link[0]  # mkdocs says what is wrong with it
        page = _on_site(path)
        if page is not None:
            return f"{link['image']}[{link['text']}]({os.path.relpath(page, Path(here).parent)}{anchor})"
        return f"[{link['text']}]({repository.rstrip('/')}/blob/HEAD/{path}{anchor})" if repository else link["text"]

    return _LINK.sub(replace, markdown)


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs: add `PAGES`."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs: the text of a page as it is built."""
    names = {name: source for source, name in PAGES.items()}
    source = names.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return relinked(markdown, source, config["repo_url"] or "")


def _on_site(path: str) -> str | None:
    """Where a file of the project is on the site; None if it is not there."""
    inside = path.removeprefix("docs/")
    return PAGES.get(path) or (inside if inside != path and (ROOT / path).is_file() else None)
