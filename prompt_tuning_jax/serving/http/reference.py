"""The HTTP interface's reference as one page: what every route takes and answers.

It is made of the schema in `/openapi.json`, whole and without a script, since the pages that
FastAPI brings for it load theirs from elsewhere.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
_REFERENCE = "#/components/schemas/"
_RANGES = {  # the names of the least and the most, and what of
    ("minimum", "maximum"): "",
    ("minLength", "maxLength"): " characters",
    ("minItems", "maxItems"): " items",
}


def reference(schema: Schema) -> str:
    """The body of a page on an OpenAPI schema: its routes by their tags, then its objects."""
    objects = schema["components"]["schemas"]
    parts = [f"<h1>{_text(schema['info']['title'])}</h1>", _paragraph(schema["info"])]
    parts.append(_contents(schema))
    for tag in dict.fromkeys(tag for *_, facts in _operations(schema) for tag in facts["tags"]):
        parts.append(f"<h2>{_text(tag.capitalize())}</h2>")
        for method, path, facts in _operations(schema):
            if tag in facts["tags"]:
                parts.append(_route(method, path, facts, objects))
    parts.append("<h2>Objects</h2>")
    parts += [_object(name, facts) for name, facts in objects.items()]
    return "\n".join(parts)


def _operations(schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    """(method, path, facts) of each."""
    for path, methods in schema["paths"].items():
        for method, facts in methods.items():
            yield method.upper(), path, facts


def _contents(schema: Schema) -> str:
    rows = [
        f'<tr><td><a href="#{_anchor(method, path)}"><code>{method} {_text(path)}</code></a></td>'
        f"<td>{_text(facts['summary'])}</td></tr>"
        for method, path, facts in _operations(schema)
    ]
    return f'<nav aria-label="Routes"><table>{"".join(rows)}</table></nav>'


def _route(method: str, path: str, facts: Schema, objects: Schema) -> str:
    inside = [f"<h3><code>{method} {_text(path)}</code></h3>"]
    token = " Takes a bearer token, where the server has one." if "security" in facts else ""
    inside += [f"<p>{_text(facts['summary'])}.{token}</p>", _paragraph(facts)]
    if parameters := facts.get("parameters"):
        inside.append(_fields({one["name"]: _parameter(one) for one in parameters}))
    for kind, body in facts.get("requestBody", {}).get("content", {}).items():
        inside.append(f"<p>Body: {_content(kind, body)}</p>")
        inside.append(_object_fields(objects.get(_name(body["schema"]), {})))
    answers = facts["responses"].items()
    inside += [_answer(status, answer) for status, answer in answers if status < "400"]
    if errors := [(status, answer) for status, answer in answers if status >= "400"]:
        each = (f"{status} {_text(answer.get('description', ''))}" for status, answer in errors)
        kinds = dict.fromkeys(_contents_of(answer) for _, answer in errors)
        inside.append(f"<p>Errors: {', '.join(each)}. {' or '.join(filter(None, kinds))}</p>")
    return f'<article id="{_anchor(method, path)}">{"".join(inside)}</article>'


def _parameter(facts: Schema) -> Schema:
    """As a field of an object, with the place where it stands."""
    where = f"In the {facts['in']}. {facts.get('description', '')}"
    return {**facts["schema"], "description": where.strip()}


def _answer(status: str, facts: Schema) -> str:
    said = _text(facts.get("description", ""))
    return f"<p>Answer: {_text(status)} {said}. {_contents_of(facts)}</p>"


def _contents_of(facts: Schema) -> str:
    return "; ".join(_content(*each) for each in facts.get("content", {}).items())


def _content(kind: str, facts: Schema) -> str:
    what = _type(facts["schema"]) if facts.get("schema") else ""
    return f"<code>{_text(kind)}</code> {what}".strip()


def _object(name: str, facts: Schema) -> str:
    inside = f"<h3>{_text(name)}</h3>{_paragraph(facts)}{_object_fields(facts)}"
    return f'<article id="{_text(name)}">{inside}</article>'


def _object_fields(facts: Schema) -> str:
    return _fields(facts.get("properties", {}), facts.get("required", ()))


def _fields(fields: Schema, required: Sequence[str] = ()) -> str:
    rows = []
    for name, facts in fields.items():
        must = "required" if name in required else ""
        kind = ", ".join(filter(None, [_type(facts), must, *_limits(facts), _default(facts)]))
        said = _text(facts.get("description", ""))
        rows.append(
            f"<tr><th><code>{_text(name)}</code></th>"
            f'<td>{kind}<div class="faint">{said}</div></td></tr>'
        )
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _name(facts: Schema) -> str:
    """Of the object that is referred to, if it is one."""
    return str(facts.get("$ref", "")).removeprefix(_REFERENCE)


def _type(facts: Schema) -> str:
    """What a value is, in words: objects are links to where they are described."""
    if name := _name(facts):
        return f'<a href="#{_text(name)}">{_text(name)}</a>'
    if "const" in facts:
        return f"<code>{_text(facts['const'])}</code>"
    if "enum" in facts:
        return " or ".join(f"<code>{_text(each)}</code>" for each in facts["enum"])
    if several := facts.get("anyOf"):
        return " or ".join(dict.fromkeys(map(_type, several)))
    kind = facts.get("type")
    if kind == "array":
        return f"list of {_type(facts.get('items', {}))}"
    if kind == "object" and isinstance(inner := facts.get("additionalProperties"), Mapping):
        return f"object of {_type(inner)}"
    return _text(facts.get("format") or kind or "any")


def _limits(facts: Schema) -> list[str]:
    """Its bounds, and those of whichever of several kinds has some."""
    found = []
    for names, what in _RANGES.items():
        least, most = (_json(facts[name]) if facts.get(name) else "" for name in names)
        if most:
            found.append(f"{least or 0} to {most}{what}")
        elif least:
            found.append(f"at least {least}{what}")
    for each in facts.get("anyOf", ()):
        found += _limits(each)
    return list(dict.fromkeys(found))


def _default(facts: Schema) -> str:
    return f"default {_json(facts['default'])}" if facts.get("default") is not None else ""


def _json(value: Any) -> str:
    """As JSON has it, 1 for 1.0 too."""
    is_whole = isinstance(value, float) and value.is_integer()
    return _text(json.dumps(int(value) if is_whole else value))


def _anchor(method: str, path: str) -> str:
    return re.sub(r"\W+", "-", f"{method} {path}".lower()).strip("-")


def _paragraph(facts: Schema) -> str:
    return f"<p>{_text(facts['description'])}</p>" if facts.get("description") else ""


def _text(value: Any) -> str:
    """Escaped, with `code` as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(value)))
