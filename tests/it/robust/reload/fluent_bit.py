#!/usr/bin/env python3
"""Counts as Fluent Bit does: GET /api/v1/metrics by plugin, /api/v2/reload the reloads. Fifty records a second come in; they
go out unless the config names the host `nowhere`, where each is an error. Healthy all the time.
"""

import http.server, json, os, signal, sys, threading, time

state = {"text": "", "count": 0, "in": 0, "out": 0, "errors": 0}


def read():
    with open(sys.argv[sys.argv.index("--config") + 1]) as file:
        state["text"] = file.read()


def on_hup(*_):
    read()
    state.update(count=state["count"] + 1, errors=0, out=0)
    state["in"] = 0


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {"fluent-bit": {"version": "3.0"}}
        if self.path == "/api/v2/reload":
            body = {"hot_reload_count": state["count"]}
        if self.path == "/api/v1/metrics":
            body = {
                "input": {"dummy.0": {"records": state["in"], "bytes": 9 * state["in"]}},
                "filter": {},
                "output": {"http.0": {"proc_records": state["out"], "errors": state["errors"], "retries": 0}},
            }
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def main():
    if "--dry-run" in sys.argv:
        return
    signal.signal(signal.SIGHUP, on_hup)
    read()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(0.02)
        state["in"] += 1
        state["errors" if "nowhere" in state["text"] else "out"] += 1


main()
