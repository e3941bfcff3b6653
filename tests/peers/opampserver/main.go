// A small OpAMP server on opamp-go's server package, steered over HTTP by the tests of Adjutant. It is the second
// opinion on the protocol: what arrives here was understood by an implementation that is not ours.
//
// It listens on loopback only, keeps everything in memory and has no users; see ../README.md for the control API.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/open-telemetry/opamp-go/server"
)

func main() {
	opampAddr := flag.String("opamp-addr", "127.0.0.1:0", "loopback address for agents (path /v1/opamp)")
	apiAddr := flag.String("api-addr", "127.0.0.1:0", "loopback address of the control API")
	untilEOF := flag.Bool("until-stdin-closes", false, "exit when standard input ends, so that no test can leave it behind")
	flag.Parse()
	if err := run(*opampAddr, *apiAddr, *untilEOF); err != nil {
		fmt.Fprintln(os.Stderr, "opampserver:", err)
		os.Exit(1)
	}
}

func run(opampAddr, apiAddr string, untilEOF bool) error {
	agents, err := listen("--opamp-addr", opampAddr)
	if err != nil {
		return err
	}
	control, err := listen("--api-addr", apiAddr)
	if err != nil {
		return err
	}

	fleet := newFleet()
	handler, withConnection, err := server.New(nil).Attach(server.Settings{Callbacks: fleet.callbacks()})
	if err != nil {
		return fmt.Errorf("attach the OpAMP handler: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/opamp", handler)

	ended := make(chan error, 3)
	serve := func(what string, listener net.Listener, s *http.Server) {
		s.ReadHeaderTimeout = 10 * time.Second
		ended <- fmt.Errorf("serve %s on %s: %w", what, listener.Addr(), s.Serve(listener))
	}
	go serve("agents", agents, &http.Server{Handler: mux, ConnContext: withConnection})
	go serve("the control API", control, &http.Server{Handler: fleet.api()})
	if untilEOF {
		go func() {
			_, err := io.Copy(io.Discard, os.Stdin)
			ended <- err
		}()
	}

	// The sockets accept already, so whoever reads this line can connect.
	ports := map[string]int{"opamp": portOf(agents), "api": portOf(control)}
	if err := json.NewEncoder(os.Stdout).Encode(ports); err != nil {
		return fmt.Errorf("print the ports: %w", err)
	}
	return <-ended
}

func listen(name, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", name, address, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s %q: not a loopback address", name, address)
	}
	return net.Listen("tcp", address)
}

func portOf(listener net.Listener) int { return listener.Addr().(*net.TCPAddr).Port }
