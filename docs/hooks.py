"""What MkDocs needs so that the same links work on the site and where the repository is read.

Pages link to files of the repository as ``../kernels/neuron.py``. Two files of the root are pages of the site too and
their links are turned to them; links to any other file lead to the repository where ``repo_url`` says where that is,
and are plain text where it does not. A file that is not there is an error of the strict build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the root, and the pages that they become."""

LINK = re.compile(
    r"```.*?```|`[^`]+`"  # code, in which brackets mean something else
    r"|\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.DOTALL,
)

log = logging.getLogger("mkdocs.hooks.repository")


def on_files(files: Any, config: Any) -> Any:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    folder = ROOT if page.file.src_uri in PAGES.values() else Path(config.docs_dir)

    def resolved(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        if target is None:
            return match[0]
        path = (folder / target).resolve()
        if path.is_relative_to(config.docs_dir):
            return f"[{text}]({path.relative_to(config.docs_dir).as_posix()}{anchor})"
        if not path.exists() or not path.is_relative_to(ROOT):
            log.warning(f"{page.file.src_uri}: there is no {target}")
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"[{text}]({PAGES[name]}{anchor})"
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{name})" if config.repo_url else text

    return LINK.sub(resolved, markdown)
