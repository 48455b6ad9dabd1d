#!/usr/bin/env python3
"""A class of fence devices in a program of its own: the switch of a test bench, whose outlets are files with the word on or off.

Installed as FOLDER/fence-class/file_switch it is loaded when a configuration has `class = "file_switch"`; what is said here is
in the documentation of `ocf_stonith::driver::FENCE_CLASS`.
"""
import os
import sys
import time
import xmlrpc.client

CLASS = {"plugin_type": "fence-class", "name": "file_switch", "version": "1.0", "interface": {"major": 1, "minor": 0},
         "methods": ["about", "capabilities", "check", "execute"]}


def check(device):
    folder = device["parameters"].get("folder", "")
    mistakes = []
    if not os.path.isdir(folder):
        mistakes.append({"path": "parameters.folder", "value": folder, "problem": "is no folder",
                         "fix": "name the folder with a file for each outlet"})
    for name in sorted(set(device["parameters"]) - {"folder", "delay_ms"}):
        mistakes.append({"path": "parameters." + name, "value": "", "problem": "is not a parameter of this class",
                         "fix": "known are folder, delay_ms"})
    return mistakes


def execute(device, order):
    time.sleep(int(device["parameters"].get("delay_ms", "0")) / 1000)
    if order["action"] == "monitor":
        return {"detail": "the folder is there"} if not check(device) else fail("the folder is gone")
    outlet = os.path.join(device["parameters"]["folder"], order["plug"] or str(order["node"]))
    if not os.path.isfile(outlet):
        fail("there is no outlet " + outlet)
    if order["action"] in ("off", "on"):
        with open(outlet, "w") as file:
            file.write(order["action"])
    with open(outlet) as file:
        return {"read_back": file.read().strip(), "detail": outlet}


def fail(text):
    raise xmlrpc.client.Fault(1, text)


def answer(method, params):
    return {
        "plugin.describe": lambda: [CLASS],
        "file_switch/about": lambda: "a switch whose outlets are files",
        "file_switch/capabilities": lambda device: {"actions": ["off", "on", "status", "monitor"], "verifies_off": True},
        "file_switch/check": check,
        "file_switch/execute": execute,
    }[method](*params)


def main():
    while True:
        length = None
        while (line := sys.stdin.buffer.readline().strip()):
            name, value = line.split(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length is None:
            return
        params, method = xmlrpc.client.loads(sys.stdin.buffer.read(length), use_builtin_types=True)
        try:
            document = xmlrpc.client.dumps((answer(method, params),), methodresponse=True, allow_none=True)
        except xmlrpc.client.Fault as fault:
            document = xmlrpc.client.dumps(fault)
        document = document.encode()
        sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n" % len(document) + document)
        sys.stdout.buffer.flush()


main()
