"""For mkdocstrings, which reads the stub of the native classes: what they say of themselves once they are imported."""

import inspect

import griffe
from velodrome import _native

_PREFIX = "velodrome._native."


class NativeDocstrings(griffe.Extension):
    def on_object(self, *, obj, **_options):
        if obj.docstring or not obj.path.startswith(_PREFIX):
            return
        native = _native
        for name in obj.path.removeprefix(_PREFIX).split("."):
            native = getattr(native, name, None)
        if native is not None and (text := inspect.getdoc(native)):
            obj.docstring = griffe.Docstring(text, parent=obj)
