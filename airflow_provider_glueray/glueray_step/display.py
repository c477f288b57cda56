"""The JSON form of a cell's value, and its forms for a notebook.

The source of both functions is also sent with the statements of a session, so they use no other names of this module.
Python 3.9, standard library.
"""

from __future__ import annotations


def glueray_describe_value(value: object, explicit: bool) -> dict[str, object]:
    """Return ``{"value": JSON, "shown": {MIME type: text}}``; either may be missing.

    An explicit value that has no JSON form is the author's mistake and raises; the value of a last expression merely
    has none then. Pictures and tables are taken where an object draws itself.
    """
    import base64
    import json

    most = 1_000_000

    def plain(value_: object) -> object:
        for form in ("item", "isoformat"):
            if hasattr(value_, form):
                return getattr(value_, form)()
        raise TypeError(f"a {type(value_).__name__} has no JSON form")

    found: dict[str, object] = {}
    try:
        text = json.dumps(value, default=plain)
    except (TypeError, ValueError):
        if explicit:
            raise
    else:
        if len(text) <= most:
            found["value"] = text
        elif explicit:
            raise ValueError(f"the value has {len(text)} characters as JSON, more than {most}")
    if not explicit:
        shown = {"text/plain": repr(value)[:100_000]}
        for kind, form in (("text/html", "_repr_html_"), ("image/png", "_repr_png_")):
            try:
                drawn = getattr(value, form)()
            except Exception:  # what an object cannot draw is left out
                continue
            if drawn:
                shown[kind] = base64.b64encode(drawn).decode() if isinstance(drawn, bytes) else drawn
        found["shown"] = shown
    return found


def glueray_print_value(tag: str, value: object, explicit: bool) -> None:
    """Print a value's forms as one line of JSON after a tag."""
    import json

    print("\n" + tag + json.dumps(glueray_describe_value(value, explicit)))
