"""Each public item of the crate velodrome that is for Rust programs has an example in its documentation, or is used
in one of its type. That they run is for `cargo test --doc`.

rustdoc's own lint, missing_doc_code_examples, needs a nightly compiler, and does not look at what is re-exported.
"""

import re
import unittest
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "crates" / "velodrome" / "src"

# The model beneath: public for the crates that drive it, whose callers are not programs. See docs/rust.md.
MODEL = set(
    "client crowd datagram driver engine executor inbox life pipe poller process registry server signal stream timer"
    " tls waker".split()
)
# And these, which stand in other files.
OF_MODEL = {"FdWakers", "Step", "Woken", "Errno", "Result", "is_retry", "SEND_FLAGS", "set_nodelay", "local_address"}
ITEM = re.compile(r"( *)pub (?:async |unsafe |const )*(fn|struct|enum|trait|type|const|static) (\w+)")
METHOD = re.compile(r"    (?:async |unsafe )*fn (\w+)")
IMPL = re.compile(r"impl(?:<.*?>)? (?:(?P<trait>\S+) for )?(?P<type>\w+)")


class Item:
    def __init__(self, file, line, name, owner, docs):
        self.file = file
        self.where = f"{file.relative_to(SOURCES)}:{line}"
        self.name = name
        self.type = owner or name  # of a method, its own
        self.title = f"{owner}::{name}" if owner else name
        self.examples = "\n".join(re.findall(r"```(?:should_panic|no_run)?\n(.*?)```", docs, re.DOTALL))


def public_items(file):
    """Of a file that rustfmt has formatted: functions, types and traits, and their methods."""
    docs, owner, in_trait = [], None, False
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if "mod tests {" in line or "mod interleavings {" in line:
            return
        text = line.strip()
        if text.startswith("///"):
            docs.append(text[3:].removeprefix(" "))
            continue
        if text.startswith("#[") or (docs and text.startswith(("#", ")]"))):
            continue
        if line == "}":
            owner, in_trait = None, False
        if found := IMPL.match(line):
            owner = None if found["trait"] else found["type"]
        elif found := ITEM.match(line):
            indent, kind, name = found.groups()
            if not indent or owner:
                yield Item(file, number, name, owner if indent else None, "\n".join(docs))
            if kind == "trait":
                owner, in_trait = name, True
        elif in_trait and (found := METHOD.match(line)):
            yield Item(file, number, found[1], owner, "\n".join(docs))
        docs = []


def exported_names():
    """What lib.rs and the public modules beside the model's show of private ones, and those modules."""
    names, modules = set(), set()
    text = (SOURCES / "lib.rs").read_text()
    for module in re.findall(r"^pub mod (\w+);", text, re.MULTILINE):
        if module not in MODEL:
            modules.add(module)
            text += (SOURCES / f"{module}.rs").read_text()
    for path, several in re.findall(r"^pub use (\w+(?:::\w+)*)(?:::\{([^}]*)\})?", text, re.MULTILINE):
        if not path.startswith("rustix"):
            names |= set(re.findall(r"\w+", several)) if several else {path.rsplit("::", 1)[-1]}
    return names, modules


class Examples(unittest.TestCase):
    def test_each_item_has_an_example_or_is_used_in_one_of_its_type(self):
        names, modules = exported_names()
        items = []
        for file in sorted(SOURCES.rglob("*.rs")):
            module, *inner = file.relative_to(SOURCES).with_suffix("").parts
            if module in MODEL:
                continue
            is_public = module in modules and not inner
            found = [item for item in public_items(file) if is_public or item.type in names]
            items += [item for item in found if item.type not in OF_MODEL]
        self.assertGreater(len(items), 200)
        # An example is one of the type that it stands at, of the others of its file, and of those that it names.
        everything = [item.examples for item in items if item.examples]
        of_type = {}
        for name in {item.type for item in items}:
            files = {item.file for item in items if item.type == name}
            own = [item.examples for item in items if item.file in files]
            of_type[name] = "\n".join(own + [text for text in everything if re.search(rf"\b{name}\b", text)])
        missing = [
            f"{item.where}: {item.title}"
            for item in items
            if not item.examples and not re.search(rf"\b{item.name}\b", of_type[item.type])
        ]
        self.assertFalse(missing, f"{len(missing)} of {len(items)} have no example:\n" + "\n".join(missing))


if __name__ == "__main__":
    unittest.main()
