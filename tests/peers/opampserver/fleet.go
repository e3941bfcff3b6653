package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server/types"
	"google.golang.org/protobuf/proto"
)

const (
	logEntriesMax  = 10_000
	logBytesMax    = 64 << 20
	connectionsMax = 10_000

	capabilities = uint64(protobufs.ServerCapabilities_ServerCapabilities_AcceptsStatus |
		protobufs.ServerCapabilities_ServerCapabilities_OffersRemoteConfig |
		protobufs.ServerCapabilities_ServerCapabilities_AcceptsEffectiveConfig |
		protobufs.ServerCapabilities_ServerCapabilities_OffersConnectionSettings)
)

// fleet is all state of the server, behind one lock that is never held while a frame is written.
type fleet struct {
	lock        sync.Mutex
	agents      map[string]*agent
	offers      map[string]*protobufs.AgentRemoteConfig
	connections []connectionView
	linkCount   int
	mode        mode
}

// agent is what one instance uid has told so far.
type agent struct {
	uid         []byte
	last        reportView
	messages    int
	connections int
	link        *link
	pending     *protobufs.ServerToAgent
	log         []logEntry
	logBytes    int
}

type logEntry struct {
	index int
	text  json.RawMessage
}

type connectionView struct {
	AtMs      int64             `json:"at_ms"`
	Accepted  bool              `json:"accepted"`
	Transport string            `json:"transport"`
	Headers   map[string]string `json:"headers"`
}

// mode is how the server behaves towards everybody. With a bearer it takes nobody who shows another token: before the
// upgrade with 401, or, if late, after it with close code 1008, as some servers of the field do.
type mode struct {
	Bearer     string `json:"bearer"`
	Late       bool   `json:"late"`
	Reject     int    `json:"reject"`
	RetryAfter int    `json:"retry_after"`
	Answer     bool   `json:"answer"`
	Error      string `json:"error"`
}

func newFleet() *fleet {
	return &fleet{
		agents: map[string]*agent{},
		offers: map[string]*protobufs.AgentRemoteConfig{},
		mode:   mode{Answer: true},
	}
}

func (f *fleet) callbacks() types.Callbacks {
	return types.Callbacks{OnConnecting: f.connecting}
}

func (f *fleet) connecting(request *http.Request) types.ConnectionResponse {
	f.lock.Lock()
	defer f.lock.Unlock()
	polling := request.Header.Get("Content-Type") == "application/x-protobuf"
	f.noteConnection(request, polling)
	if f.mode.Reject != 0 {
		headers := map[string]string{}
		if f.mode.RetryAfter > 0 {
			headers["Retry-After"] = strconv.Itoa(f.mode.RetryAfter)
		}
		return types.ConnectionResponse{HTTPStatusCode: f.mode.Reject, HTTPResponseHeader: headers}
	}
	stranger := f.mode.Bearer != "" && request.Header.Get("Authorization") != "Bearer "+f.mode.Bearer
	if stranger && !f.mode.Late {
		return types.ConnectionResponse{HTTPStatusCode: http.StatusUnauthorized}
	}
	f.linkCount++
	l := &link{id: f.linkCount, polling: polling, headers: request.Header.Clone()}
	return types.ConnectionResponse{Accept: true, ConnectionCallbacks: types.ConnectionCallbacks{
		OnConnected: func(_ context.Context, conn types.Connection) {
			l.conn = conn
			if stranger {
				l.refuse()
			}
		},
		OnMessage: func(_ context.Context, _ types.Connection, message *protobufs.AgentToServer) *protobufs.ServerToAgent {
			if stranger {
				return nil
			}
			answer := f.receive(l, message)
			if polling || answer == nil {
				return answer
			}
			if err := l.send(answer); err != nil {
				_ = l.conn.Disconnect()
			}
			return nil
		},
		OnConnectionClose: func(types.Connection) { f.closed(l) },
	}}
}

func (f *fleet) noteConnection(request *http.Request, polling bool) {
	view := connectionView{
		AtMs:      time.Now().UnixMilli(),
		Accepted:  f.mode.Reject == 0 && (f.mode.Bearer == "" || request.Header.Get("Authorization") == "Bearer "+f.mode.Bearer),
		Transport: "ws",
		Headers:   flatten(request.Header),
	}
	if polling {
		view.Transport = "http"
	}
	f.connections = append(f.connections, view)
	f.connections = f.connections[max(0, len(f.connections)-connectionsMax):]
}

// receive merges a message and decides the answer.
func (f *fleet) receive(l *link, message *protobufs.AgentToServer) *protobufs.ServerToAgent {
	f.lock.Lock()
	defer f.lock.Unlock()
	uid := uidText(message.GetInstanceUid())
	a := f.agents[uid]
	known := a != nil
	if !known {
		a = &agent{uid: slices.Clone(message.GetInstanceUid())}
		f.agents[uid] = a
	}
	view := viewOf(message)
	gap := view.Description == nil && (!known || a.last.Description == nil || view.SequenceNum != a.last.SequenceNum+1)
	firstOnLink := a.link != l
	if firstOnLink {
		f.leave(l)
		a.link = l
		a.connections++
	}
	a.last.merge(view)
	a.note(l, view)

	if !f.mode.Answer {
		return nil
	}
	answer := &protobufs.ServerToAgent{InstanceUid: message.GetInstanceUid()}
	if f.mode.Error != "" {
		answer.ErrorResponse = f.mode.errorResponse()
		return answer
	}
	if gap {
		answer.Flags |= uint64(protobufs.ServerToAgentFlags_ServerToAgentFlags_ReportFullState)
	}
	if firstOnLink {
		answer.Capabilities = capabilities
		if offer := f.offers[uid]; offer != nil && !a.holds(offer) {
			answer.RemoteConfig = offer
		}
	}
	if a.pending != nil {
		proto.Merge(answer, a.pending)
		a.pending = nil
	}
	return answer
}

// leave takes a link away from the agents that spoke on it under another uid, as after a re-key.
func (f *fleet) leave(l *link) {
	for _, a := range f.agents {
		if a.link == l {
			a.link = nil
		}
	}
}

func (f *fleet) closed(l *link) {
	if l.polling {
		// The end of one poll is not the end of the agent.
		return
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	f.leave(l)
}

func (m mode) errorResponse() *protobufs.ServerErrorResponse {
	response := &protobufs.ServerErrorResponse{ErrorMessage: m.Error}
	switch m.Error {
	case "unavailable":
		response.Type = protobufs.ServerErrorResponseType_ServerErrorResponseType_Unavailable
		response.Details = &protobufs.ServerErrorResponse_RetryInfo{RetryInfo: &protobufs.RetryInfo{
			RetryAfterNanoseconds: uint64(time.Duration(m.RetryAfter) * time.Second),
		}}
	case "bad_request":
		response.Type = protobufs.ServerErrorResponseType_ServerErrorResponseType_BadRequest
	}
	return response
}

// holds says whether the agent has reported the hash of the offer, whatever became of it.
func (a *agent) holds(offer *protobufs.AgentRemoteConfig) bool {
	status := a.last.RemoteConfigStatus
	return status != nil && status.Hash == hex.EncodeToString(offer.GetConfigHash())
}

func (a *agent) note(l *link, view reportView) {
	text, err := json.Marshal(struct {
		Index      int    `json:"index"`
		AtMs       int64  `json:"at_ms"`
		Connection int    `json:"connection"`
		UID        string `json:"instance_uid"`
		reportView
	}{a.messages, time.Now().UnixMilli(), l.id, uidText(a.uid), view})
	if err != nil {
		text, _ = json.Marshal("not JSON: " + err.Error())
	}
	a.log = append(a.log, logEntry{a.messages, text})
	a.logBytes += len(text)
	a.messages++
	for len(a.log) > logEntriesMax || a.logBytes > logBytesMax && len(a.log) > 1 {
		a.logBytes -= len(a.log[0].text)
		a.log = a.log[1:]
	}
}

// view is the agent as GET /agents shows it. It is encoded after the lock is given back, so nothing in it may change
// later: merge replaces every part but `other`.
func (a *agent) view() map[string]any {
	view := map[string]any{
		"connected":                  a.link != nil,
		"connections":                a.connections,
		"messages":                   a.messages,
		"sequence_num":               a.last.SequenceNum,
		"capabilities":               a.last.Capabilities,
		"agent_disconnect":           a.last.AgentDisconnect,
		"description":                a.last.Description,
		"health":                     a.last.Health,
		"effective_config":           a.last.EffectiveConfig,
		"remote_config_status":       a.last.RemoteConfigStatus,
		"connection_settings_status": a.last.ConnectionStatus,
		"other":                      maps.Clone(a.last.Other),
	}
	if a.link != nil {
		view["connection"] = a.link.id
		view["headers"] = flatten(a.link.headers)
	}
	return view
}

func flatten(headers http.Header) map[string]string {
	flat := make(map[string]string, len(headers))
	for name := range headers {
		flat[name] = headers.Get(name)
	}
	return flat
}

// hashOf is the hash an offer gets when the caller names none: over sorted names, types and bodies.
func hashOf(files map[string]*protobufs.AgentConfigFile) []byte {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, part := range []string{name, files[name].GetContentType(), string(files[name].GetBody())} {
			sum.Write([]byte(strconv.Itoa(len(part)) + ":" + part))
		}
	}
	return sum.Sum(nil)
}
