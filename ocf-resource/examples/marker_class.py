#!/usr/bin/env python3
"""A class of resource agents in a program of its own. Its one agent, `marker`, runs what is a file: it is there or not.

Installed as FOLDER/agent-class/markers it is loaded when a resource has the agent `markers:marker`; what is said here is in the
documentation of `ocf_resource::AGENT_CLASS`.
"""
import os
import sys
import time
import xmlrpc.client

CLASS = {"plugin_type": "agent-class", "name": "markers", "version": "1.0", "interface": {"major": 1, "minor": 0},
         "methods": ["list", "metadata", "run"]}
METADATA = """<?xml version="1.0"?>
<resource-agent name="marker"><version>1.1</version><shortdesc lang="en">A file that is there</shortdesc><parameters>
<parameter name="file" required="1"><shortdesc lang="en">path of the file</shortdesc><content type="string"/></parameter>
<parameter name="delay_ms"><shortdesc lang="en">how long a start takes</shortdesc><content type="integer" default="0"/></parameter>
</parameters><actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="10s"/><action name="meta-data" timeout="5s"/>
<action name="validate-all" timeout="5s"/></actions></resource-agent>"""
SUCCESS, ARGUMENTS, UNIMPLEMENTED, NOT_RUNNING = 0, 2, 3, 7


def run(operation):
    action, parameters = operation["action"], operation["parameters"]
    path = parameters.get("file", "")
    if not os.path.isabs(path):
        return {"code": ARGUMENTS, "reason": "file is no absolute path"}
    if action == "start":
        time.sleep(int(parameters.get("delay_ms", "0")) / 1000)
        open(path, "w").close()
    elif action == "stop":
        if os.path.exists(path):
            os.remove(path)
    elif action == "monitor":
        if not os.path.exists(path):
            return {"code": NOT_RUNNING, "reason": path + " is not there"}
    elif action != "validate-all":
        return {"code": UNIMPLEMENTED}
    return {"code": SUCCESS, "output": path}


def answer(method, params):
    return {
        "plugin.describe": lambda: [CLASS],
        "markers/list": lambda: ["marker"],
        "markers/metadata": lambda name: METADATA,
        "markers/run": run,
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
