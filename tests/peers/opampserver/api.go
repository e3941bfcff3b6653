package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/google/uuid"
	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const bodyMax = 256 << 20

// failure is an error with the HTTP status it deserves.
type failure struct {
	status int
	cause  error
}

func (f failure) Error() string { return f.cause.Error() }

func (f failure) Unwrap() error { return f.cause }

var errNotConnected = errors.New("not connected")

func fail(status int, format string, arguments ...any) error {
	return failure{status, fmt.Errorf(format, arguments...)}
}

// api is the control API. Every answer is JSON; every refusal is {"error": "…"} with a 4xx or 5xx status.
func (f *fleet) api() http.Handler {
	mux := http.NewServeMux()
	routes := map[string]func(*http.Request) (any, error){
		"GET /agents":                       f.listAgents,
		"GET /agents/{uid}":                 f.showAgent,
		"GET /agents/{uid}/messages":        f.listMessages,
		"PUT /agents/{uid}/config":          f.putConfig,
		"DELETE /agents/{uid}/config":       f.dropConfig,
		"POST /agents/{uid}/restart":        f.restart,
		"POST /agents/{uid}/full-state":     f.fullState,
		"POST /agents/{uid}/identification": f.identify,
		"POST /agents/{uid}/message":        f.sendAny,
		"POST /agents/{uid}/raw":            f.sendRaw,
		"POST /settings":                    f.offerSettings,
		"POST /mode":                        f.setMode,
		"POST /drop/{uid}":                  f.drop,
		"GET /connections":                  f.listConnections,
	}
	for pattern, route := range routes {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, request *http.Request) {
			request.Body = http.MaxBytesReader(w, request.Body, bodyMax)
			result, err := route(request)
			status := http.StatusOK
			if err != nil {
				status = http.StatusBadRequest
				var f failure
				if errors.As(err, &f) {
					status = f.status
				}
				result = map[string]string{"error": err.Error()}
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(result)
		})
	}
	return mux
}

func (f *fleet) listAgents(*http.Request) (any, error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	list := make(map[string]any, len(f.agents))
	for uid, a := range f.agents {
		list[uid] = a.view()
	}
	return list, nil
}

func (f *fleet) showAgent(request *http.Request) (any, error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	a, err := f.find(request)
	if err != nil {
		return nil, err
	}
	return a.view(), nil
}

func (f *fleet) listMessages(request *http.Request) (any, error) {
	from := 0
	if text := request.URL.Query().Get("from"); text != "" {
		var err error
		if from, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("from=%q: %w", text, err)
		}
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	a, err := f.find(request)
	if err != nil {
		return nil, err
	}
	list := []json.RawMessage{}
	for _, entry := range a.log {
		if entry.index >= from {
			list = append(list, entry.text)
		}
	}
	return list, nil
}

func (f *fleet) listConnections(*http.Request) (any, error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	return append([]connectionView{}, f.connections...), nil
}

// putConfig may come before the agent does: the offer then waits for it.
func (f *fleet) putConfig(request *http.Request) (any, error) {
	var body struct {
		Files map[string]struct {
			Body        string `json:"body"`
			ContentType string `json:"content_type"`
		} `json:"files"`
		Hash *string `json:"hash"`
	}
	if err := readBody(request, &body); err != nil {
		return nil, err
	}
	uid, _, err := uidOf(request.PathValue("uid"))
	if err != nil {
		return nil, err
	}
	files := map[string]*protobufs.AgentConfigFile{}
	for name, file := range body.Files {
		files[name] = &protobufs.AgentConfigFile{Body: []byte(file.Body), ContentType: file.ContentType}
	}
	offer := &protobufs.AgentRemoteConfig{ConfigHash: hashOf(files)}
	if body.Files != nil {
		offer.Config = &protobufs.AgentConfigMap{ConfigMap: files}
	}
	if body.Hash != nil {
		if offer.ConfigHash, err = hex.DecodeString(*body.Hash); err != nil {
			return nil, fmt.Errorf("hash %q: %w", *body.Hash, err)
		}
	}

	f.lock.Lock()
	f.offers[uid] = offer
	a := f.agents[uid]
	f.lock.Unlock()
	delivered := false
	if a != nil {
		delivered, err = f.deliver(a, &protobufs.ServerToAgent{RemoteConfig: offer})
		// Without a connection the offer goes out with the first answer on the next one.
		if err != nil && !errors.Is(err, errNotConnected) {
			return nil, err
		}
	}
	return map[string]any{"hash": hex.EncodeToString(offer.ConfigHash), "delivered": delivered}, nil
}

func (f *fleet) dropConfig(request *http.Request) (any, error) {
	uid, _, err := uidOf(request.PathValue("uid"))
	if err != nil {
		return nil, err
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	_, had := f.offers[uid]
	delete(f.offers, uid)
	return map[string]bool{"removed": had}, nil
}

func (f *fleet) restart(request *http.Request) (any, error) {
	return f.sendTo(request, &protobufs.ServerToAgent{
		Command: &protobufs.ServerToAgentCommand{Type: protobufs.CommandType_CommandType_Restart},
	})
}

func (f *fleet) fullState(request *http.Request) (any, error) {
	return f.sendTo(request, &protobufs.ServerToAgent{
		Flags: uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState),
	})
}

// identify re-keys an agent. Its offer, if it has one, follows it to the new uid.
func (f *fleet) identify(request *http.Request) (any, error) {
	var body struct {
		New string `json:"new_instance_uid"`
	}
	if err := readBody(request, &body); err != nil {
		return nil, err
	}
	text, raw, err := uidOf(body.New)
	if err != nil {
		return nil, err
	}
	old, _, err := uidOf(request.PathValue("uid"))
	if err != nil {
		return nil, err
	}
	f.lock.Lock()
	if offer, had := f.offers[old]; had {
		f.offers[text] = offer
		delete(f.offers, old)
	}
	f.lock.Unlock()
	return f.sendTo(request, &protobufs.ServerToAgent{
		AgentIdentification: &protobufs.AgentIdentification{NewInstanceUid: raw},
	})
}

// sendAny sends any ServerToAgent, given in protobuf's JSON form.
func (f *fleet) sendAny(request *http.Request) (any, error) {
	var body json.RawMessage
	if err := readBody(request, &body); err != nil {
		return nil, err
	}
	message := &protobufs.ServerToAgent{}
	if err := protojson.Unmarshal(body, message); err != nil {
		return nil, err
	}
	return f.sendTo(request, message)
}

func (f *fleet) sendRaw(request *http.Request) (any, error) {
	var body struct {
		Hex    string `json:"hex"`
		Opcode *byte  `json:"opcode"`
	}
	if err := readBody(request, &body); err != nil {
		return nil, err
	}
	payload, err := hex.DecodeString(body.Hex)
	if err != nil {
		return nil, fmt.Errorf("hex: %w", err)
	}
	opcode := byte(2) // binary
	if body.Opcode != nil {
		opcode = *body.Opcode
	}
	l, err := f.linkOf(request)
	if err != nil {
		return nil, err
	}
	if err := l.sendRaw(opcode, payload); err != nil {
		return nil, fail(http.StatusBadGateway, "write the frame: %w", err)
	}
	return map[string]bool{"delivered": true}, nil
}

// offerSettings offers OpAMP connection settings to one agent (`uid`) or to all that are connected.
func (f *fleet) offerSettings(request *http.Request) (any, error) {
	var body struct {
		UID       string            `json:"uid"`
		Hash      string            `json:"hash"`
		Endpoint  string            `json:"destination_endpoint"`
		Headers   map[string]string `json:"headers"`
		Heartbeat uint64            `json:"heartbeat_interval_seconds"`
		TLS       json.RawMessage   `json:"tls"`
	}
	if err := readBody(request, &body); err != nil {
		return nil, err
	}
	settings := &protobufs.OpAMPConnectionSettings{
		DestinationEndpoint:      body.Endpoint,
		HeartbeatIntervalSeconds: body.Heartbeat,
	}
	if body.Headers != nil {
		settings.Headers = &protobufs.Headers{}
		for name, value := range body.Headers {
			settings.Headers.Headers = append(settings.Headers.Headers, &protobufs.Header{Key: name, Value: value})
		}
	}
	if body.TLS != nil {
		settings.Tls = &protobufs.TLSConnectionSettings{}
		if err := protojson.Unmarshal(body.TLS, settings.Tls); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	hash, err := hex.DecodeString(body.Hash)
	if err != nil {
		return nil, fmt.Errorf("hash %q: %w", body.Hash, err)
	}
	if len(hash) == 0 {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(settings)
		if err != nil {
			return nil, err
		}
		hash = hashOf(map[string]*protobufs.AgentConfigFile{"opamp": {Body: text}})
	}

	f.lock.Lock()
	targets := map[string]*agent{}
	for uid, a := range f.agents {
		if a.link != nil && (body.UID == "" || body.UID == uid) {
			targets[uid] = a
		}
	}
	f.lock.Unlock()
	if body.UID != "" && len(targets) == 0 {
		return nil, fail(http.StatusConflict, "agent %s: %w", body.UID, errNotConnected)
	}
	delivered := []string{}
	for uid, a := range targets {
		offer := &protobufs.ConnectionSettingsOffers{Hash: hash, Opamp: settings}
		if _, err := f.deliver(a, &protobufs.ServerToAgent{ConnectionSettings: offer}); err != nil {
			return nil, err
		}
		delivered = append(delivered, uid)
	}
	return map[string]any{"hash": hex.EncodeToString(hash), "delivered": delivered}, nil
}

// setMode changes the keys that are named and leaves the others.
func (f *fleet) setMode(request *http.Request) (any, error) {
	f.lock.Lock()
	next := f.mode
	f.lock.Unlock()
	if err := readBody(request, &next); err != nil {
		return nil, err
	}
	if next.Reject != 0 && (next.Reject < 400 || next.Reject > 599) {
		return nil, fmt.Errorf("reject %d: want 0 or an HTTP status from 400 to 599", next.Reject)
	}
	if next.Error != "" && next.Error != "unavailable" && next.Error != "bad_request" {
		return nil, fmt.Errorf(`error %q: want "", "unavailable" or "bad_request"`, next.Error)
	}
	f.lock.Lock()
	f.mode = next
	f.lock.Unlock()
	return next, nil
}

// drop closes the TCP connection without a WebSocket goodbye.
func (f *fleet) drop(request *http.Request) (any, error) {
	l, err := f.linkOf(request)
	if err != nil {
		return nil, err
	}
	if l.polling {
		return nil, fail(http.StatusConflict, "%w", errPolling)
	}
	if err := l.conn.Disconnect(); err != nil {
		return nil, fail(http.StatusBadGateway, "close the connection: %w", err)
	}
	return map[string]bool{"dropped": true}, nil
}

func (f *fleet) sendTo(request *http.Request, message *protobufs.ServerToAgent) (any, error) {
	f.lock.Lock()
	a, err := f.find(request)
	f.lock.Unlock()
	if err != nil {
		return nil, err
	}
	delivered, err := f.deliver(a, message)
	return map[string]bool{"delivered": delivered}, err
}

// deliver pushes over a WebSocket, or leaves the message for the next poll and says false.
func (f *fleet) deliver(a *agent, message *protobufs.ServerToAgent) (bool, error) {
	f.lock.Lock()
	l := a.link
	if l == nil {
		f.lock.Unlock()
		return false, fail(http.StatusConflict, "agent %s: %w", uidText(a.uid), errNotConnected)
	}
	if len(message.InstanceUid) == 0 {
		message.InstanceUid = a.uid
	}
	if l.polling {
		if a.pending == nil {
			a.pending = &protobufs.ServerToAgent{}
		}
		proto.Merge(a.pending, message)
		f.lock.Unlock()
		return false, nil
	}
	f.lock.Unlock()
	if err := l.send(message); err != nil {
		return false, fail(http.StatusBadGateway, "send to agent %s: %w", uidText(a.uid), err)
	}
	return true, nil
}

// find wants the lock held.
func (f *fleet) find(request *http.Request) (*agent, error) {
	uid := request.PathValue("uid")
	a, known := f.agents[uid]
	if !known {
		return nil, fail(http.StatusNotFound, "no agent %q has reported", uid)
	}
	return a, nil
}

func (f *fleet) linkOf(request *http.Request) (*link, error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	a, err := f.find(request)
	if err != nil {
		return nil, err
	}
	if a.link == nil {
		return nil, fail(http.StatusConflict, "agent %s: %w", uidText(a.uid), errNotConnected)
	}
	return a.link, nil
}

func uidOf(text string) (string, []byte, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return "", nil, fmt.Errorf("uid %q: %w", text, err)
	}
	return id.String(), id[:], nil
}

func readBody(request *http.Request, into any) error {
	decoder := json.NewDecoder(request.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	return nil
}
