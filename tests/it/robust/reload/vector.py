#!/usr/bin/env python3
"""Stands in for Vector where its behaviour is known: the check contacts sinks unless it is told not to; a HUP that would
change a global option is refused and the old config goes on; the API answers GET /health and knows no GraphQL.

vector.py validate [--skip-healthchecks] FILE
vector.py --config FILE
"""
import http.server, json, os, signal, socket, sys, threading, time

GLOBALS = ("data_dir", "timezone", "api")
state = {"config": {}, "asked": False, "calls": []}


def read(path):
    with open(path) as file:
        return json.load(file)


def tell():
    with open("running.tmp", "w") as file:
        file.write("%s %d 0" % (state["config"].get("name", "nothing"), os.getpid()))
    os.rename("running.tmp", "running")


def validate(arguments):
    config = read(arguments[-1])
    if "graphql" in config.get("api", {}) or "playground" in config.get("api", {}):
        sys.exit("unknown field in api")
    if "--skip-healthchecks" not in arguments:
        for sink in config.get("sinks", {}).values():
            host, port = sink["address"].split(":")
            try:
                socket.create_connection((host, int(port)), 1)
            except OSError as error:
                sys.exit("health check of a sink failed: %s" % error)


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("calls", "a") as file:
            file.write(self.path + "\n")
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    if sys.argv[1] == "validate":
        return validate(sys.argv[1:])
    path = sys.argv[-1]
    signal.signal(signal.SIGHUP, lambda *_: state.update(asked=True))
    state["config"] = read(path)
    api = state["config"].get("api", {})
    if api.get("enabled"):
        host, port = api["address"].split(":")
        http.server.ThreadingHTTPServer.allow_reuse_address = True
        server = http.server.ThreadingHTTPServer((host, int(port)), Api)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    tell()
    while True:
        if state["asked"]:
            state["asked"] = False
            new = read(path)
            if any(new.get(key) != state["config"].get(key) for key in GLOBALS):
                # A supervisor that believes its HUP would report this as applied.
                print("ERROR vector: Config reload rejected due to a change of a global option.", file=sys.stderr, flush=True)
            else:
                state["config"] = new
                tell()
                print("INFO vector: Vector has reloaded.", file=sys.stderr, flush=True)
        time.sleep(0.02)


main()
