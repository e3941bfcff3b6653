#!/usr/bin/env python3
"""A program that reloads on HUP, and misbehaves the ways that real ones were reported to.

stand_in.py --check FILE     exit 1 for what a validator sees
stand_in.py FILE PORT        run; GET /reload counts reloads, /config names the revision that runs

FILE is JSON. `habit` is how the process that runs it takes a HUP: drop (the first one), slow (deaf meanwhile), exit.
`effect` is what loading it does: refuse, kill, hang, lie, bare. `open` is how many files it holds open.
"""
import http.server, json, os, signal, sys, threading, time

state = {"config": {}, "revision": "", "count": 0, "reloading": False, "asked": False, "dropped": 0}


def read(path):
    with open(path) as file:
        config = json.load(file)
    with open(os.path.join(os.path.dirname(path), "adjutant.revision")) as file:
        return config, file.read().strip()


def tell():
    line = "%s %d %d" % (state["config"].get("name", "nothing"), os.getpid(), state["count"])
    with open("running.tmp", "w") as file:
        file.write(line)
    os.rename("running.tmp", "running")


def take(config, revision):
    state["config"], state["revision"] = config, revision
    state["open"] = [open("/dev/null") for _ in range(config.get("open", 0))]
    tell()


def on_hup(*_):
    if state["reloading"]:
        return
    if state["config"].get("habit") == "drop" and state["dropped"] == 0:
        state["dropped"] = 1
        return
    state["asked"] = True


def reload(path):
    state["reloading"] = True
    if state["config"].get("habit") == "exit":
        sys.exit("telemetry of its own went in circles")
    config, revision = read(path)
    if state["config"].get("habit") == "slow":
        time.sleep(1.5)
    effect = config.get("effect")
    if effect in ("kill", "bare"):
        sys.exit("cannot reload: pipeline is broken")
    if effect == "hang":
        state["server"].shutdown()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
    if effect == "refuse":
        print("ERROR stand_in: Reload was not successful. sink is wrong", file=sys.stderr, flush=True)
    elif effect == "lie":
        print("INFO stand_in: reload requested, status 200", flush=True)
    else:
        state["count"] += 1
        take(config, revision)
        print("INFO stand_in: has reloaded. path=%s" % path, flush=True)
    state["reloading"] = False


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/reload":
            body = json.dumps({"hot_reload_count": state["count"]})
        else:
            body = "running %s\n" % state["revision"]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def main():
    if sys.argv[1] == "--check":
        with open(sys.argv[2]) as file:
            if json.load(file).get("invalid"):
                sys.exit("agent.json: unknown sink")
        return
    path, port = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGHUP, on_hup)
    config, revision = read(path)
    effect = config.get("effect")
    if effect in ("kill", "lie", "refuse"):
        sys.exit("cannot start: pipeline is broken")
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    state["server"] = http.server.ThreadingHTTPServer(("127.0.0.1", port), Api)
    threading.Thread(target=state["server"].serve_forever, daemon=True).start()
    if effect == "bare" or os.path.exists("come-up-bare"):
        take({}, "")
    else:
        take(config, revision)
    while True:
        if state["asked"]:
            state["asked"] = False
            reload(path)
        time.sleep(0.02)


main()
