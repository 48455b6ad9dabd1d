#!/usr/bin/env python3
"""A plug-in in a program of its own: two counters. The whole protocol is in the function `main`.

Used by the tests of the loader; with `--crash-after N` it dies in call N, with `--hang` it never answers `add`.
"""
import os
import sys
import time
import xmlrpc.client

PLUGINS = [
    {"plugin_type": "counter", "name": name, "version": "2.0", "interface": {"major": 1, "minor": 0},
     "methods": ["next", "add"]}
    for name in ("python_up", "python_down")
]
counts = {"python_up": 0, "python_down": 0}


def answer(method, params):
    if method == "plugin.describe":
        return PLUGINS
    name, method = method.split("/")
    step = 1 if name == "python_up" else -1
    if method == "add":
        if "--hang" in sys.argv:
            time.sleep(3600)
        if len(params) != 1 or not isinstance(params[0], int):
            raise xmlrpc.client.Fault(-32602, "add takes one integer")
        step *= params[0]
    counts[name] += step
    return counts[name]


def main():
    calls = 0
    limit = int(sys.argv[sys.argv.index("--crash-after") + 1]) if "--crash-after" in sys.argv else None
    while True:
        length = None
        while (line := sys.stdin.buffer.readline().strip()):
            name, value = line.split(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length is None:
            return
        params, method = xmlrpc.client.loads(sys.stdin.buffer.read(length), use_builtin_types=True)
        calls += 1
        if limit is not None and calls > limit:
            print("a counter overflowed", file=sys.stderr)
            sys.stderr.flush()
            os._exit(3)
        try:
            document = xmlrpc.client.dumps((answer(method, params),), methodresponse=True)
        except xmlrpc.client.Fault as fault:
            document = xmlrpc.client.dumps(fault)
        document = document.encode()
        sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n" % len(document) + document)
        sys.stdout.buffer.flush()


main()
