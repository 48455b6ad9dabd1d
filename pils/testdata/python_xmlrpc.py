"""The peer for the XML-RPC codec: Python's own implementation.

vectors   prints calls as Python writes them, with the JSON form of their parameters
read      reads a JSON list of documents and prints the JSON form of the parameters that Python finds in each
"""
import base64, json, sys
import xmlrpc.client as x


def form(v):
    """The JSON form of pils::Value."""
    if isinstance(v, x.Binary):
        return {"$bytes": base64.b64encode(v.data).decode()}
    if isinstance(v, x.DateTime):
        return {"$dateTime": v.value}
    if isinstance(v, (list, tuple)):
        return [form(i) for i in v]
    if isinstance(v, dict):
        d = {k: form(i) for k, i in v.items()}
        if len(d) == 1 and next(iter(d)).startswith("$"):
            d = {"$" + k: i for k, i in d.items()}
        return d
    return v


VECTORS = {
    "no_parameters": (),
    "scalars": (None, True, False, 0, -1, 2**31 - 1, -(2**31), "text", ""),
    "doubles": (0.0, -0.0, 1.5, 0.1, 1e300, 5e-324, -1e21, 123456789.125),
    "texts": (" leading and trailing ", "a\nb\tc", "<a>&amp;]]>", "é ☃ 🦀", "'\""),
    "bytes": (x.Binary(b""), x.Binary(bytes(range(256)))),
    "dates": (x.DateTime("19980717T14:08:55"), x.DateTime("20240229T23:59:59")),
    "lists": ([], [1, [2, [3]]], ["a", None, False]),
    "structs": ({}, {"b": 1, "a": [{"": "empty name"}]}, {"<&>": "x"}, {"$bytes": "plain"}),
}

if sys.argv[1] == "vectors":
    out = [
        {"name": n, "xml": x.dumps(p, "test." + n, allow_none=True), "params": form(p)}
        for n, p in VECTORS.items()
    ]
else:
    out = [form(x.loads(d)[0]) for d in json.load(sys.stdin)]
json.dump(out, sys.stdout, indent=1, ensure_ascii=True)
print()
