// Clients made with opamp-go, for numbers to hold ours against: the same reports to the same server, measured in the
// same run. It talks to loopback only.
//
//	opampclient codec                     ns and allocations for one message each way
//	opampclient idle URL COUNT BEAT       COUNT clients that say hello and beat every BEAT until standard input closes
//
// Every answer is one line of JSON on standard output. `idle` prints a line when all are connected.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-telemetry/opamp-go/client"
	"github.com/open-telemetry/opamp-go/client/types"
	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/proto"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "opampclient:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "codec":
		return codec()
	case len(args) == 4 && args[0] == "idle":
		count, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		beat, err := time.ParseDuration(args[3])
		if err != nil {
			return err
		}
		return idle(args[1], count, beat)
	}
	return fmt.Errorf("not understood: %q", args)
}

func text(key, value string) *protobufs.KeyValue {
	return &protobufs.KeyValue{Key: key, Value: &protobufs.AnyValue{
		Value: &protobufs.AnyValue_StringValue{StringValue: value},
	}}
}

func description() *protobufs.AgentDescription {
	return &protobufs.AgentDescription{
		IdentifyingAttributes: []*protobufs.KeyValue{
			text("service.name", "bench"), text("service.version", "1.0.0"), text("service.instance.id", "bench-0"),
		},
		NonIdentifyingAttributes: []*protobufs.KeyValue{
			text("os.type", "linux"), text("host.name", "bench-host"), text("host.arch", "amd64"),
		},
	}
}

func health(status string) *protobufs.ComponentHealth {
	return &protobufs.ComponentHealth{Healthy: true, StartTimeUnixNano: 1, Status: status}
}

func files() *protobufs.AgentConfigMap {
	body := make([]byte, 4096)
	for i := range body {
		body[i] = 'x'
	}
	return &protobufs.AgentConfigMap{ConfigMap: map[string]*protobufs.AgentConfigFile{
		"": {Body: body, ContentType: "text/yaml"},
	}}
}

func codec() error {
	report := &protobufs.AgentToServer{
		InstanceUid: make([]byte, 16), SequenceNum: 7, Capabilities: 0xFFFF,
		AgentDescription: description(), Health: health("up"),
		EffectiveConfig: &protobufs.EffectiveConfig{ConfigMap: files()},
	}
	offer, err := proto.Marshal(&protobufs.ServerToAgent{
		InstanceUid:  make([]byte, 16),
		RemoteConfig: &protobufs.AgentRemoteConfig{Config: files(), ConfigHash: make([]byte, 32)},
	})
	if err != nil {
		return err
	}
	encode := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := proto.Marshal(report); err != nil {
				b.Fatal(err)
			}
		}
	})
	decode := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if err := proto.Unmarshal(offer, &protobufs.ServerToAgent{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	return print(map[string]any{
		"encode_ns": encode.NsPerOp(), "encode_allocations": encode.AllocsPerOp(),
		"decode_ns": decode.NsPerOp(), "decode_allocations": decode.AllocsPerOp(),
	})
}

func start(target string, beat time.Duration, callbacks types.Callbacks) (client.OpAMPClient, error) {
	parsed, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	var one client.OpAMPClient = client.NewWebSocket(nil)
	if parsed.Scheme == "http" {
		one = client.NewHTTP(nil)
	}
	if err := one.SetAgentDescription(description()); err != nil {
		return nil, err
	}
	if err := one.SetHealth(health("up")); err != nil {
		return nil, err
	}
	capabilities := protobufs.AgentCapabilities_AgentCapabilities_ReportsStatus |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth |
		protobufs.AgentCapabilities_AgentCapabilities_ReportsHeartbeat
	if err := one.SetCapabilities(&capabilities); err != nil {
		return nil, err
	}
	var uid types.InstanceUid
	if _, err := rand.Read(uid[:]); err != nil {
		return nil, err
	}
	return one, one.Start(context.Background(), types.StartSettings{
		OpAMPServerURL: target, InstanceUid: uid, HeartbeatInterval: &beat, Callbacks: callbacks,
	})
}

func idle(target string, count int, beat time.Duration) error {
	var connected atomic.Int64
	all := make(chan struct{})
	callbacks := types.Callbacks{OnConnect: func(context.Context) {
		if connected.Add(1) == int64(count) {
			close(all)
		}
	}}
	for range count {
		if _, err := start(target, beat, callbacks); err != nil {
			return err
		}
	}
	<-all
	runtime.GC()
	if err := print(map[string]any{"connected": count}); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func print(value any) error { return json.NewEncoder(os.Stdout).Encode(value) }
