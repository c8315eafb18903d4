"""For mkdocs (see mkdocs.yml): the files of the repository that the pages link to, the methods of native classes, and
what a finished page may hold.

The pages in docs/ are read in the repository as well as on the site, so they link to files beside docs/. Each such
file, and what it links to in turn, becomes a page of the site below repository/; a folder becomes a list of its files.
"""

import asyncio
import inspect
import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel
from velodrome import _native

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*href=["']?(?:https?:)?//"""
)
METHODS = re.compile(r"^<!-- methods of (\w+) -->$", re.MULTILINE)
FENCES = {".py": "python", ".rs": "rust", ".toml": "toml", ".sh": "sh"}


def on_files(files, config):
    """Add a page for each file of the repository that is linked to."""
    waiting = [_origin(file) for file in files.documentation_pages()]
    waiting += [entry.removeprefix("repository/") for entry in _entries(config.nav) if entry.startswith("repository/")]
    seen = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        text = _text(path)
        if not path.startswith("docs/"):
            uri = _page(path)
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
        waiting += [target for target in _targets(path, text) if not target.startswith("docs/")]
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links to files of the repository lead to their pages, and put methods where they are asked for."""
    origin = _origin(page.file)
    here = PurePosixPath(page.file.src_uri).parent

    def rewritten(match):
        target = _resolve(origin, match[1])
        if target is None:
            return match[0]  # for mkdocs to complain about
        uri = target.removeprefix("docs/") if target.startswith("docs/") else _page(target)
        return os.path.relpath(uri, here)

    markdown = _outside_code(markdown, lambda text: LINK.sub(rewritten, text))
    return METHODS.sub(lambda match: _methods(getattr(_native, match[1])), markdown)


def on_page_content(html, page, config, files):
    """Say which language a page is in: the shapes of many characters depend on it."""
    language = re.search(r"\.(\w\w)\.md$", page.file.src_uri)
    return f'<div lang="{language[1]}">{html}</div>' if language else html


def on_post_page(output, page, config):
    """Refuse what a browser would have to fetch from elsewhere."""
    if found := EXTERNAL.search(output):
        raise PluginError(f"{page.file.src_uri}: not from this site: {output[found.start() : found.end() + 60]}")
    return output


def _methods(native):
    """The methods of a native class as Markdown. Its stub, which mkdocstrings would read, documents nothing."""
    lines = [f"### {native.__name__}", inspect.getdoc(native) or ""]
    for name in sorted(dir(native)):
        method = getattr(native, name)
        if name.startswith("_") or hasattr(asyncio.Protocol, name):  # the latter: TLS is a protocol of what is below
            continue
        signature = re.sub(r"self, |self(?=\))|/, |, /|/(?=\))", "", str(inspect.signature(method)))
        lines += [f"#### `{name}{signature}`", inspect.getdoc(method)]
    return "\n\n".join(lines) + "\n"


def _entries(nav):
    if isinstance(nav, dict):
        nav = nav.values()
    return [nav] if isinstance(nav, str) else [found for entry in nav for found in _entries(entry)]


def _origin(file):
    """Where in the repository a page comes from."""
    if file.src_uri.startswith("repository/"):
        path = file.src_uri.removeprefix("repository/")
        return path if (ROOT / path).exists() else path.removesuffix(".md").removesuffix("/index")
    return f"docs/{file.src_uri}"


def _page(path):
    """The page of a file or folder of the repository."""
    if (ROOT / path).is_dir():
        return f"repository/{path}/index.md"
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _text(path):
    """A file of the repository as Markdown."""
    found = ROOT / path
    if found.is_dir():
        names = sorted(str(name.relative_to(found)) for name in found.rglob("*") if _is_source(name))
        return f"# {path}/\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    text = found.read_text()
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n````{FENCES.get(found.suffix, '')}\n{text}````\n"


def _is_source(path):
    return path.is_file() and "__pycache__" not in path.parts and "target" not in path.parts


def _targets(path, markdown):
    """What of the repository a page links to."""
    targets = []
    _outside_code(markdown, lambda text: targets.extend(_resolve(path, link) for link in LINK.findall(text)) or text)
    return [target for target in targets if target is not None]


def _outside_code(markdown, change):
    """`markdown` with `change` applied to what is between its pieces of code."""
    pieces, end = [], 0
    for code in CODE.finditer(markdown):
        pieces += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, change(markdown[end:])])


def _resolve(path, link):
    """The path in the repository of what a page links to; None if there is no such file."""
    folder = path if (ROOT / path).is_dir() else os.path.dirname(path)
    target = os.path.normpath(os.path.join(folder, link))
    return target if not target.startswith("..") and (ROOT / target).exists() else None
